//go:build e2e

package e2e

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

const (
	// readyTimeout is how long a server may take to become isolated: the policy
	// servers start, the server restarts once, and on a busy machine of two cores
	// each takes its time.
	readyTimeout = 240 * time.Second
	// releaseTimeout is how long a server may take to run without policy again.
	releaseTimeout = 180 * time.Second
	// soon is for what takes a second on a machine that is not busy.
	soon = 30 * time.Second
)

// site is a namespace with the operator and one stock dstack server in it.
type site struct {
	namespace string
	release   string
	// ownsCRDs is true for the release that brings them.
	ownsCRDs bool
	// manifest is the user's own, applied with kubectl apply.
	manifest string
	// dataDir is the server's volume on this machine, and serverDir the server's
	// directory in it.
	dataDir, serverDir string
	// sshProxy is spec.sshProxy of the DstackServer. Without one, the profile allows
	// hostSSH.
	sshProxy *v1alpha1.SSHProxy
	// before is the workload as it is without the operator.
	before given

	url, member string
}

// given is all of the workload that is the user's.
type given struct {
	spec        any
	annotations map[string]string
}

// demoSite is what hack/demo has set up.
func demoSite() *site {
	return &site{
		namespace: "dstack", release: "dstack-isolation", ownsCRDs: true, dataDir: "/var/lib/dstack-demo",
		manifest: kustomize("config/samples/dstack-server"),
	}
}

// ownSite is a namespace of its own, with a server that keeps its data in a
// directory of its own on this machine.
func ownSite(namespace, folder string) *site {
	dir := "/var/lib/dstack-e2e/" + namespace
	return &site{
		namespace: namespace, release: "dstack-isolation", dataDir: dir,
		manifest: strings.ReplaceAll(kustomize(folder), "/var/lib/dstack-demo", dir),
	}
}

// create makes the namespace and installs the operator.
func (s *site) create() {
	GinkgoHelper()
	By("making namespace " + s.namespace)
	_, err := run("", "kubectl", "delete", "namespace", s.namespace, "--ignore-not-found", "--timeout=180s")
	Expect(err).NotTo(HaveOccurred(), "what an earlier run has left must go")
	if s.dataDir != "" && strings.HasPrefix(s.dataDir, "/var/lib/dstack-e2e/") {
		Expect(os.RemoveAll(s.dataDir)).To(Succeed())
	}
	_, err = run("", "kubectl", "create", "namespace", s.namespace)
	Expect(err).NotTo(HaveOccurred())
	s.helmInstall()
}

// serve starts the user's dstack server and makes a member.
func (s *site) serve() {
	GinkgoHelper()
	By("starting a stock dstack server in namespace " + s.namespace)
	if _, err := s.try("get", "secret", "dstack-admin"); err != nil {
		s.kubectl("create", "secret", "generic", "dstack-admin", "--from-literal=token="+rand.Text())
	}
	s.apply(s.manifest)
	s.learnBefore()
	s.rolledOut()
	s.makeMember()
}

// learnBefore asks the API server what becomes of the user's manifest on its
// own, its defaults included.
func (s *site) learnBefore() {
	GinkgoHelper()
	_, workload := s.fromManifest()
	workload.SetNamespace(s.namespace)
	workload.SetName(workload.GetName() + "-as-the-user-wrote-it")
	Expect(cluster.Create(context.Background(), workload, client.DryRunAll)).To(Succeed())
	s.before = givenOf(workload)
	s.before.annotations = s.workload().GetAnnotations()
	delete(s.before.annotations, "deployment.kubernetes.io/revision")
}

// fromManifest finds the workload in the user's manifest.
func (s *site) fromManifest() (kind string, workload client.Object) {
	GinkgoHelper()
	for document := range strings.SplitSeq(s.manifest, "\n---\n") {
		var head metav1.TypeMeta
		Expect(yaml.Unmarshal([]byte(document), &head)).To(Succeed())
		switch head.Kind {
		case "Deployment":
			workload = &appsv1.Deployment{}
		case "StatefulSet":
			workload = &appsv1.StatefulSet{}
		default:
			continue
		}
		Expect(yaml.Unmarshal([]byte(document), workload)).To(Succeed())
		return head.Kind, workload
	}
	Fail("the user's manifest must have a workload")
	return "", nil
}

func (s *site) workloadKind() string {
	GinkgoHelper()
	kind, _ := s.fromManifest()
	return kind
}

// workload is the live one.
func (s *site) workload() client.Object {
	GinkgoHelper()
	_, w := s.fromManifest()
	key := client.ObjectKey{Namespace: s.namespace, Name: w.GetName()}
	Expect(cluster.Get(context.Background(), key, w)).To(Succeed())
	return w
}

func givenOf(o client.Object) given {
	g := given{annotations: map[string]string{}}
	for k, v := range o.GetAnnotations() {
		if k != "deployment.kubernetes.io/revision" {
			g.annotations[k] = v
		}
	}
	switch w := o.(type) {
	case *appsv1.Deployment:
		g.spec = w.Spec
	case *appsv1.StatefulSet:
		g.spec = w.Spec
	}
	return g
}

func template(o client.Object) *corev1.PodTemplateSpec {
	switch w := o.(type) {
	case *appsv1.Deployment:
		return &w.Spec.Template
	case *appsv1.StatefulSet:
		return &w.Spec.Template
	}
	panic(fmt.Sprintf("%T is no workload", o))
}

// rolledOut waits until the server's pods are those of its workload.
func (s *site) rolledOut() {
	GinkgoHelper()
	s.kubectl("rollout", "status", strings.ToLower(s.workloadKind())+"/dstack-server", "--timeout=180s")
}

// serverPod is the only pod of the server.
func (s *site) serverPod() *corev1.Pod {
	GinkgoHelper()
	pods := s.pods("app=dstack-server")
	Expect(pods).To(HaveLen(1), "the server must run as one pod")
	return &pods[0]
}

// pods are those that are not being deleted.
func (s *site) pods(selector string) []corev1.Pod {
	GinkgoHelper()
	var list corev1.PodList
	parsed, err := metav1.ParseToLabelSelector(selector)
	Expect(err).NotTo(HaveOccurred())
	labels, err := metav1.LabelSelectorAsSelector(parsed)
	Expect(err).NotTo(HaveOccurred())
	Expect(cluster.List(context.Background(), &list, client.InNamespace(s.namespace), client.MatchingLabelsSelector{Selector: labels})).To(Succeed())
	var pods []corev1.Pod
	for i := range list.Items {
		if list.Items[i].DeletionTimestamp == nil {
			pods = append(pods, list.Items[i])
		}
	}
	return pods
}

// service is the cluster address of a Service.
func (s *site) service(name string) string {
	GinkgoHelper()
	var service corev1.Service
	Expect(cluster.Get(context.Background(), client.ObjectKey{Namespace: s.namespace, Name: name}, &service)).To(Succeed())
	return service.Spec.ClusterIP
}

func (s *site) secret(name, key string) []byte {
	GinkgoHelper()
	var secret corev1.Secret
	Expect(cluster.Get(context.Background(), client.ObjectKey{Namespace: s.namespace, Name: name}, &secret)).To(Succeed())
	return secret.Data[key]
}

// applySamples applies the DstackServer and the IsolationProfile.
func (s *site) applySamples() {
	GinkgoHelper()
	s.apply(s.sample("dstackserver.yaml"))
	s.apply(s.sample("isolationprofile.yaml"))
}

// sample is a file of config/samples, for the site's kind of workload and with
// its SSH proxy, if it has one.
func (s *site) sample(name string) string {
	GinkgoHelper()
	content, err := os.ReadFile(filepath.Join(root, "config/samples", name))
	Expect(err).NotTo(HaveOccurred())
	var object map[string]any
	Expect(yaml.Unmarshal([]byte(strings.ReplaceAll(string(content), "kind: Deployment", "kind: "+s.workloadKind())), &object)).To(Succeed())
	spec, _ := object["spec"].(map[string]any)
	switch {
	case object["kind"] == "DstackServer" && s.sshProxy == nil:
		delete(spec, "sshProxy")
	case object["kind"] == "DstackServer":
		spec["sshProxy"] = s.sshProxy
	case s.sshProxy == nil:
		spec["controls"] = map[string]any{"hostSSH": "Allowed"}
	}
	out, err := yaml.Marshal(object)
	Expect(err).NotTo(HaveOccurred())
	return string(out)
}

// isolate makes the server isolated, if it is not, and waits for it.
func (s *site) isolate() {
	GinkgoHelper()
	By("making the server of namespace " + s.namespace + " isolated")
	started := time.Now()
	s.applySamples()
	s.waitReady("main")
	GinkgoWriter.Printf("isolated after %s\n", time.Since(started).Round(100*time.Millisecond))
}

// waitReady waits for a DstackServer and all profiles of it.
func (s *site) waitReady(name string) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		server := s.dstackServer(g, name)
		g.Expect(summary(server.Status.Conditions, server.Generation)).To(Equal("True"))
		var profiles v1alpha1.IsolationProfileList
		g.Expect(cluster.List(context.Background(), &profiles, client.InNamespace(s.namespace))).To(Succeed())
		for i := range profiles.Items {
			if p := &profiles.Items[i]; p.Spec.ServerRef.Name == name {
				g.Expect(summary(p.Status.Conditions, p.Generation)).To(Equal("True"), "profile %s", p.Name)
			}
		}
	}).WithTimeout(readyTimeout).WithPolling(300 * time.Millisecond).Should(Succeed())
}

// summary is "True" when Ready is, for this generation, else why not.
func summary(conditions []metav1.Condition, generation int64) string {
	for _, c := range conditions {
		switch {
		case c.Type != v1alpha1.ConditionReady:
		case c.ObservedGeneration != generation:
			return fmt.Sprintf("Ready is about generation %d of %d", c.ObservedGeneration, generation)
		case c.Status == metav1.ConditionTrue:
			return "True"
		default:
			return fmt.Sprintf("%s/%s: %s", c.Status, c.Reason, c.Message)
		}
	}
	return "there is no condition Ready"
}

func (s *site) profile(name string) *v1alpha1.IsolationProfile {
	GinkgoHelper()
	var profile v1alpha1.IsolationProfile
	Expect(cluster.Get(context.Background(), client.ObjectKey{Namespace: s.namespace, Name: name}, &profile)).To(Succeed())
	return &profile
}

func (s *site) dstackServer(g Gomega, name string) *v1alpha1.DstackServer {
	var server v1alpha1.DstackServer
	g.Expect(cluster.Get(context.Background(), client.ObjectKey{Namespace: s.namespace, Name: name}, &server)).To(Succeed())
	return &server
}

// releaseAll deletes all of the operator's kinds, whatever they are at.
func (s *site) releaseAll() {
	GinkgoHelper()
	By("giving the server of namespace " + s.namespace + " back")
	s.kubectl("delete", "isolationprofiles,dstackservers", "--all", "--timeout=180s")
	s.rolledOut()
}
