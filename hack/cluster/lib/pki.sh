# shellcheck shell=bash
# Certificates and kubeconfigs of the cluster. Sourced after settings.sh.

# make_authority NAME makes a certificate authority, once.
make_authority() {
	local file=$pki_dir/$1
	if is_valid "$file.crt"; then
		return 0
	fi
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 -days 3650 -subj "/CN=dstack-isolation-$1" \
		-addext keyUsage=critical,keyCertSign,cRLSign -keyout "$file.key" -out "$file.crt" 2>/dev/null ||
		die "openssl could not make the certificate authority $file.crt"
}

# is_valid FILE reports whether the certificate is there and good for another week.
is_valid() { openssl x509 -noout -checkend 604800 -in "$1" >/dev/null 2>&1; }

# make_certificate NAME AUTHORITY SUBJECT USAGE [SAN] makes a key and a certificate, anew only when what it says has changed.
# USAGE is clientAuth, serverAuth or both with a comma; SAN is a list such as DNS:localhost,IP:127.0.0.1.
make_certificate() {
	local name=$1 authority=$pki_dir/$2 subject=$3 usage=$4 san=${5:-} file=$pki_dir/$1 recipe
	recipe=$(printf '%s\n' "$subject" "$usage" "$san" && cat -- "$authority.crt")
	if is_valid "$file.crt" && [[ $(cat -- "$file.recipe" 2>/dev/null) == "$recipe" ]]; then
		return 0
	fi
	openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 -subj "$subject" \
		-keyout "$file.key" -out "$file.csr" 2>/dev/null &&
		openssl x509 -req -sha256 -days 3650 -in "$file.csr" -CA "$authority.crt" -CAkey "$authority.key" \
			-set_serial "0x$(openssl rand -hex 16)" -out "$file.crt" -extfile <(
				printf 'basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=%s\n' "$usage"
				if [[ -n $san ]]; then printf 'subjectAltName=%s\n' "$san"; fi
			) 2>/dev/null ||
		die "openssl could not make the certificate $file.crt"
	rm -f -- "$file.csr"
	printf '%s\n' "$recipe" >"$file.recipe"
}

# write_kubeconfig FILE NAME SERVER writes a kubeconfig with the client certificate NAME in it.
write_kubeconfig() {
	write_if_changed "$1" 600 <<-EOF
		apiVersion: v1
		kind: Config
		current-context: dstack-isolation
		contexts:
		- name: dstack-isolation
		  context: {cluster: dstack-isolation, user: $2}
		clusters:
		- name: dstack-isolation
		  cluster:
		    server: $3
		    certificate-authority-data: $(base64 --wrap=0 <"$pki_dir/ca.crt")
		users:
		- name: $2
		  user:
		    client-certificate-data: $(base64 --wrap=0 <"$pki_dir/$2.crt")
		    client-key-data: $(base64 --wrap=0 <"$pki_dir/$2.key")
	EOF
}

# make_pki makes everything that proves who is who. etcd and the front proxy have authorities of their own: whoever etcd trusts may
# read every Secret, and the front proxy may speak for anybody.
make_pki() {
	local local_names=DNS:localhost,IP:127.0.0.1 cluster_names name
	cluster_names=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local
	make_authority ca
	make_authority etcd-ca
	make_authority front-proxy-ca
	make_certificate etcd-server etcd-ca /CN=etcd serverAuth,clientAuth "$local_names"
	make_certificate etcd-client etcd-ca /CN=kube-apiserver clientAuth
	make_certificate apiserver ca /CN=kube-apiserver serverAuth \
		"$cluster_names,DNS:$node_name,$local_names,IP:$node_address,IP:$kubernetes_service"
	make_certificate apiserver-kubelet-client ca /O=system:masters/CN=kube-apiserver-kubelet-client clientAuth
	make_certificate front-proxy front-proxy-ca /CN=front-proxy clientAuth
	make_certificate kubelet-server ca "/CN=system:node:$node_name" serverAuth "DNS:$node_name,IP:$node_address"
	make_certificate admin ca /O=system:masters/CN=admin clientAuth
	make_certificate kubelet ca "/O=system:nodes/CN=system:node:$node_name" clientAuth
	for name in kube-controller-manager kube-scheduler kube-proxy; do
		make_certificate "$name" ca "/CN=system:$name" clientAuth
	done
	if [[ ! -s $pki_dir/service-accounts.pub ]]; then
		openssl genrsa -out "$pki_dir/service-accounts.key" 2048 2>/dev/null &&
			openssl rsa -in "$pki_dir/service-accounts.key" -pubout -out "$pki_dir/service-accounts.pub" 2>/dev/null ||
			die "openssl could not make the key of the service accounts"
	fi

	# The administrator goes by the loopback address, which no proxy setting of the machine applies to.
	write_kubeconfig "$kubeconfig" admin "https://127.0.0.1:$api_port"
	for name in kubelet kube-controller-manager kube-scheduler kube-proxy; do
		write_kubeconfig "$state_dir/$name.kubeconfig" "$name" "https://$node_address:$api_port"
	done
	if [[ -n ${SUDO_UID:-} ]]; then
		chown -- "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" "$kubeconfig"
	fi
}
