//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/workload"
)

var sshVariables = []string{dstack.EnvSSHProxyAPIToken, dstack.EnvServerSSHProxyAddress, dstack.EnvServerSSHProxyEnforced}

// serverCondition reads a condition of the DstackServer.
func (s *site) serverCondition(kind string) func() string {
	return func() string { return condition(s.dstackServer(Default, "main").Status.Conditions, kind) }
}

// conditionMetrics are the lines of the manager's metrics that alerts look at.
func (s *site) conditionMetrics() (lines []string) {
	for _, manager := range s.pods("app.kubernetes.io/component=manager") {
		page := s.kubectl("get", "--raw", "/api/v1/namespaces/"+s.namespace+"/pods/"+manager.Name+":8080/proxy/metrics")
		for line := range strings.Lines(page) {
			if strings.HasPrefix(line, "dstack_isolation_condition{") {
				lines = append(lines, strings.TrimSpace(line))
			}
		}
	}
	return lines
}

// sshStanding is how hostSSH stands in the profile's table.
func (s *site) sshStanding() string {
	for _, row := range s.profile("research").Status.Effective {
		if row.Control == v1alpha1.ControlHostSSH {
			return string(row.Standing)
		}
	}
	return ""
}

// told are the variables of the SSH proxy in the server's pod.
func (s *site) told() []string {
	GinkgoHelper()
	return toldOf(&s.serverPod().Spec)
}

func toldOf(pod *corev1.PodSpec) []string {
	var names []string
	for _, e := range pod.Containers[0].Env {
		if slices.Contains(sshVariables, e.Name) {
			names = append(names, e.Name)
		}
	}
	return names
}

// tokenSecret names the Secret from which a pod takes the proxy's token.
func tokenSecret(pod *corev1.PodSpec) string {
	for _, e := range pod.Containers[0].Env {
		if e.Name == dstack.EnvSSHProxyAPIToken && e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
			return e.ValueFrom.SecretKeyRef.Name
		}
	}
	return ""
}

// allPods are those of a label, those that are being deleted included.
func (s *site) allPods(labels client.MatchingLabels) ([]corev1.Pod, error) {
	var list corev1.PodList
	err := cluster.List(context.Background(), &list, client.InNamespace(s.namespace), labels)
	return list.Items, err
}

var (
	serverPods = client.MatchingLabels{"app": "dstack-server"}
	proxyPods  = client.MatchingLabels{"app.kubernetes.io/component": "ssh-proxy"}
)

// toldOfHalfAProxy says which server pod was told of a part of a proxy, or of one
// that had never answered.
func (s *site) toldOfHalfAProxy() string {
	proxies, err := s.allPods(proxyPods)
	if err != nil {
		return err.Error()
	}
	answering := slices.ContainsFunc(proxies, func(p corev1.Pod) bool {
		return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		})
	})
	servers, err := s.allPods(serverPods)
	if err != nil {
		return err.Error()
	}
	for i := range servers {
		switch told := toldOf(&servers[i].Spec); {
		case len(told) != 0 && len(told) != len(sshVariables):
			return fmt.Sprintf("pod %s was told %s", servers[i].Name, told)
		case len(told) > 0 && !answering:
			return fmt.Sprintf("pod %s was told of a proxy of which no pod is ready", servers[i].Name)
		}
	}
	return ""
}

// proxyAhead says which proxy has a token that not every server pod has.
func (s *site) proxyAhead(secret string) string {
	proxies, err := s.allPods(proxyPods)
	if err != nil {
		return err.Error()
	}
	servers, err := s.allPods(serverPods)
	if err != nil {
		return err.Error()
	}
	for i := range proxies {
		if tokenSecret(&proxies[i].Spec) != secret {
			continue
		}
		for j := range servers {
			if has := tokenSecret(&servers[j].Spec); has != "" && has != secret && servers[j].DeletionTimestamp == nil {
				return fmt.Sprintf("proxy %s has the token of Secret %s, server pod %s that of %s", proxies[i].Name, secret, servers[j].Name, has)
			}
		}
	}
	return ""
}

// noProxyAnswers says so when nothing answers behind the proxy's Service.
func (s *site) noProxyAnswers() string {
	var service corev1.Service
	if err := cluster.Get(context.Background(), client.ObjectKey{Namespace: s.namespace, Name: "isolation-ssh-main"}, &service); err != nil {
		return err.Error()
	}
	if !greets(service.Spec.ClusterIP + ":22") {
		return "no proxy answers behind its Service"
	}
	return ""
}

// patched is the user's manifest with the patch that the operator shows, by
// Kustomize, as docs/operations.md says.
func (s *site) patched(patch string) string {
	GinkgoHelper()
	dir := GinkgoT().TempDir()
	for name, content := range map[string]string{
		"manifest.yaml": s.manifest, "patch.yaml": patch,
		"kustomization.yaml": "namespace: " + s.namespace + "\nresources: [manifest.yaml]\npatches: [{path: patch.yaml, target: {kind: Deployment, name: dstack-server}}]\n",
	} {
		Expect(os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600)).To(Succeed())
	}
	out, err := run("", "kubectl", "kustomize", dir)
	Expect(err).NotTo(HaveOccurred())
	return out
}

// reliesOnNoProxy says which server pod enforces a proxy that is not there.
func (s *site) reliesOnNoProxy() string {
	// The servers first: what they rely on is looked for later.
	servers, err := s.allPods(serverPods)
	if err != nil {
		return err.Error()
	}
	for i := range servers {
		secret := tokenSecret(&servers[i].Spec)
		if secret == "" || servers[i].Status.Phase == corev1.PodSucceeded || servers[i].Status.Phase == corev1.PodFailed {
			continue
		}
		proxies, err := s.allPods(proxyPods)
		if err != nil {
			return err.Error()
		}
		still, err := s.allPods(serverPods)
		if err != nil {
			return err.Error()
		}
		stillThere := slices.ContainsFunc(still, func(p corev1.Pod) bool { return p.UID == servers[i].UID })
		if len(proxies) == 0 && stillThere {
			return fmt.Sprintf("server pod %s relies on a proxy, and there is none", servers[i].Name)
		}
	}
	return ""
}

// proxyWithoutSecrets says which proxy pod has lost a Secret that it mounts, or its
// Service.
func (s *site) proxyWithoutSecrets() string {
	proxies, err := s.allPods(proxyPods)
	if err != nil {
		return err.Error()
	}
	for i := range proxies {
		needs := map[string]client.Object{"isolation-ssh-main": &corev1.Service{}}
		for _, name := range workload.Secrets(&proxies[i].Spec) {
			needs[name] = &corev1.Secret{}
		}
		for name, o := range needs {
			if err := cluster.Get(context.Background(), client.ObjectKey{Namespace: s.namespace, Name: name}, o); err == nil {
				continue
			}
			still, err := s.allPods(proxyPods)
			if err != nil {
				return err.Error()
			}
			if slices.ContainsFunc(still, func(p corev1.Pod) bool { return p.UID == proxies[i].UID }) {
				return fmt.Sprintf("pod %s is there, and %s is not", proxies[i].Name, name)
			}
		}
	}
	return ""
}

// usersProxy is an SSH proxy that the user runs, which reaches the server by an
// address.
func usersProxy(token, server string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: theirs, labels: {app: theirs}}
spec:
  enableServiceLinks: false
  containers:
    - name: proxy
      image: %s
      imagePullPolicy: IfNotPresent
      args: ["--port=2222"]
      env:
        - {name: DSTACK_SSHPROXY_API_URL, value: "http://%s:3000"}
        - {name: DSTACK_SSHPROXY_API_TOKEN, value: %q}
        - {name: DSTACK_SSHPROXY_HOST_KEYS, value: %q}
---
apiVersion: v1
kind: Service
metadata: {name: theirs}
spec:
  selector: {app: theirs}
  ports: [{port: 2222}]
`, standIn, server, token, hostKey())
}
