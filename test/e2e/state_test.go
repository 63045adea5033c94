//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/workload"
)

// versions are the resourceVersions of all objects of the namespace, by
// KIND/NAME. Left out are Leases, which are renewed all the time, Events, which
// the requests that the manager counts cover, and Endpoints, which mirror
// EndpointSlices.
func (s *site) versions() map[string]string {
	GinkgoHelper()
	lists, err := kinds.ServerPreferredNamespacedResources()
	Expect(err).NotTo(HaveOccurred())
	found := map[string]string{}
	for _, list := range discovery.FilteredBy(discovery.SupportsAllVerbs{Verbs: []string{"list"}}, lists) {
		group, err := schema.ParseGroupVersion(list.GroupVersion)
		Expect(err).NotTo(HaveOccurred())
		for _, resource := range list.APIResources {
			if slices.Contains([]string{"Event", "Lease", "Endpoints"}, resource.Kind) {
				continue
			}
			objects := &metav1.PartialObjectMetadataList{}
			objects.SetGroupVersionKind(group.WithKind(resource.Kind + "List"))
			Expect(cluster.List(context.Background(), objects, client.InNamespace(s.namespace))).To(Succeed())
			for i := range objects.Items {
				found[resource.Kind+"/"+objects.Items[i].Name] = objects.Items[i].ResourceVersion
			}
		}
	}
	return found
}

// settledVersions waits until nothing has changed for five seconds.
func (s *site) settledVersions() map[string]string {
	GinkgoHelper()
	var before map[string]string
	Eventually(func(g Gomega) {
		before = s.versions()
		g.Consistently(s.versions).WithTimeout(5 * time.Second).WithPolling(time.Second).Should(Equal(before))
	}).WithTimeout(releaseTimeout).Should(Succeed(), "the objects must come to rest")
	return before
}

// metrics sums up a counter of the manager over all series that have the part of
// a label list.
func (s *site) metric(name, part string) int {
	GinkgoHelper()
	pods := s.pods("app.kubernetes.io/component=manager")
	Expect(pods).To(HaveLen(1), "one manager must run")
	status, page, err := get("http://" + pods[0].Status.PodIP + ":8080/metrics")
	Expect(err).NotTo(HaveOccurred())
	Expect(status).To(Equal(200))
	total := 0.0
	for line := range strings.SplitSeq(page, "\n") {
		if strings.HasPrefix(line, name+"{") && strings.Contains(line, part) {
			value, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
			Expect(err).NotTo(HaveOccurred())
			total += value
		}
	}
	return int(total)
}

// requests is how many requests the manager has sent to the API server by a
// method.
func (s *site) requests(method string) int {
	GinkgoHelper()
	return s.metric("rest_client_requests_total", `method="`+method+`"`)
}

// configPath is where the user's own config.yml lies on this machine.
func (s *site) configPath() string { return filepath.Join(s.dataDir, s.serverDir, "config.yml") }

// configFile is the user's own config.yml; "" stands for none.
func (s *site) configFile() string {
	GinkgoHelper()
	content, err := os.ReadFile(s.configPath())
	if os.IsNotExist(err) {
		return ""
	}
	Expect(err).NotTo(HaveOccurred())
	return string(content)
}

func (s *site) writeConfigFile(content string) {
	GinkgoHelper()
	Expect(os.WriteFile(s.configPath(), []byte(content), 0o644)).To(Succeed())
}

// settings are all names that the operator adds to the workload with Python
// delivery.
var (
	ourEnv = []string{
		"DSTACK_ISOLATION_POLICY_URL", "DSTACK_ISOLATION_SERVER", "DSTACK_ISOLATION_TOKEN",
		"DSTACK_SERVER_JOB_NETWORK_MODE", "PYTHONPATH",
	}
	ourVolumes     = []string{"dstack-isolation-config", "dstack-isolation-plugin"}
	ourMounts      = []string{"/opt/dstack-isolation", "/root/.dstack/server/config.yml"}
	ourInit        = []string{"dstack-isolation-inject"}
	ourAnnotations = []string{"isolation.dstack.ai/settings", "isolation.dstack.ai/token-id"}
)

// takeOut takes exactly the operator's items out of a pod template, each of which
// must be there.
func takeOut(t *corev1.PodTemplateSpec) {
	GinkgoHelper()
	c := &t.Spec.Containers[0]
	c.Env = without(c.Env, ourEnv, func(e corev1.EnvVar) string { return e.Name })
	c.VolumeMounts = without(c.VolumeMounts, ourMounts, func(m corev1.VolumeMount) string { return m.MountPath })
	t.Spec.Volumes = without(t.Spec.Volumes, ourVolumes, func(v corev1.Volume) string { return v.Name })
	t.Spec.InitContainers = without(t.Spec.InitContainers, ourInit, func(c corev1.Container) string { return c.Name })
	for _, name := range ourAnnotations {
		Expect(t.Annotations).To(HaveKey(name))
		delete(t.Annotations, name)
	}
	if len(t.Annotations) == 0 {
		t.Annotations = nil
	}
	Expect(t.Labels).To(HaveKeyWithValue(workload.LabelServerPod, "main"))
	delete(t.Labels, workload.LabelServerPod)
}

// without returns the items but for those of the names, nil for an empty list as
// the API has it.
func without[T any](items []T, names []string, name func(T) string) []T {
	GinkgoHelper()
	for _, n := range names {
		Expect(slices.ContainsFunc(items, func(i T) bool { return name(i) == n })).To(BeTrue(), "%s must be in the workload", n)
	}
	left := slices.DeleteFunc(slices.Clone(items), func(i T) bool { return slices.Contains(names, name(i)) })
	if len(left) == 0 {
		return nil
	}
	return left
}

// expectGivenBack expects everything to be as it was before the operator came.
func (s *site) expectGivenBack(server, config string) {
	GinkgoHelper()
	s.rolledOut()
	s.expectUsersOwn(s.workload())
	s.expectNoChildren(server)
	Expect(s.configFile()).To(Equal(config), "the user's config.yml must be as it was")
	s.expectOpen()
	pod := s.serverPod()
	Expect(pod.Spec.InitContainers).NotTo(ContainElement(HaveField("Name", HavePrefix("dstack-isolation"))))
	Expect(pod.Spec.Volumes).NotTo(ContainElement(HaveField("Name", HavePrefix("dstack-isolation"))))
}

// expectUsersOwn expects a workload to hold nothing but what the user gave it.
func (s *site) expectUsersOwn(live client.Object) {
	GinkgoHelper()
	now := givenOf(live)
	Expect(cmp.Diff(s.before.spec, now.spec)).To(BeEmpty(), "the workload's spec must be the user's own (-before +now)")
	Expect(now.annotations).To(Equal(s.before.annotations), "the workload's annotations must be the user's own")
	for _, f := range live.GetManagedFields() {
		Expect(f.Manager).NotTo(HavePrefix("dstack-isolation"), "the operator must own nothing in the workload")
	}
}

// expectNoChildren expects nothing to be left that the operator made for a
// server.
func (s *site) expectNoChildren(server string) {
	GinkgoHelper()
	Eventually(func() []string { return s.children(server) }).WithTimeout(60*time.Second).WithPolling(300*time.Millisecond).
		Should(BeEmpty(), "what the operator made must be gone")
}

func (s *site) children(server string) []string {
	GinkgoHelper()
	out := s.kubectl("get", "deployments,replicasets,pods,services,endpointslices,configmaps,secrets,networkpolicies,poddisruptionbudgets,leases,serviceaccounts,roles,rolebindings",
		"-l", manifests.LabelServer+"="+server, "-o", "name", "--ignore-not-found")
	var names []string
	for name := range strings.FieldsSeq(out) {
		if strings.Contains(name, "/") {
			names = append(names, name)
		}
	}
	return names
}

// scaledTo waits until a Deployment has exactly so many pods.
func (s *site) scaledTo(name string, replicas int32) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		var d appsv1.Deployment
		g.Expect(cluster.Get(context.Background(), client.ObjectKey{Namespace: s.namespace, Name: name}, &d)).To(Succeed())
		g.Expect(*d.Spec.Replicas).To(Equal(replicas))
		g.Expect(d.Status.Replicas).To(Equal(replicas))
		g.Expect(d.Status.ReadyReplicas).To(Equal(replicas))
	}).WithTimeout(releaseTimeout).WithPolling(300*time.Millisecond).Should(Succeed(), "Deployment %s must have %d ready pods", name, replicas)
}

// condition shows a condition as STATUS/REASON: MESSAGE.
func condition(conditions []metav1.Condition, kind string) string {
	for _, c := range conditions {
		if c.Type == kind {
			return fmt.Sprintf("%s/%s: %s", c.Status, c.Reason, c.Message)
		}
	}
	return "there is no condition " + kind
}

// changed are the names whose versions differ, sorted.
func changed(before, now map[string]string) []string {
	names := map[string]bool{}
	for name, version := range before {
		if now[name] != version {
			names[name] = true
		}
	}
	for name := range now {
		if _, was := before[name]; !was {
			names[name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}
