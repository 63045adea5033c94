//go:build e2e

package e2e

import (
	"context"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

// wrongInput is a workload, which only pretends to be a dstack server, with a
// DstackServer that names it.
type wrongInput struct {
	// mounts and volumes are YAML flow lists for the container and the pod, env
	// the same for the container.
	mounts, volumes, env string
	// spec are fields of the DstackServer beyond those that all have.
	spec string
	// condition and want are what must be said: STATUS/REASON: MESSAGE.
	condition, want string
	// injected is true when the workload gets the settings all the same.
	injected bool
}

const (
	onDisk    = `[{name: data, hostPath: {path: /var/lib/dstack-e2e/inputs, type: DirectoryOrCreate}}]`
	inMemory  = `[{name: data, emptyDir: {}}]`
	atHome    = `[{name: data, mountPath: /root/.dstack/server}]`
	inputSite = "e2e-inputs"
)

var _ = Describe("Wrong input", Ordered, ContinueOnFailure, Label("variants"), func() {
	s := &site{namespace: inputSite, release: "dstack-isolation"}
	BeforeAll(s.create)
	AfterAll(func() {
		_, err := run("", "kubectl", "delete", "namespace", inputSite, "--timeout=180s")
		Expect(err).NotTo(HaveOccurred())
	})
	s.watchOver()

	DescribeTable("ends in a condition that says what to do", func(name string, c wrongInput) {
		s.apply(c.manifest(name))
		s.kubectl("rollout", "status", "deployment/"+name, "--timeout=60s")
		before := s.deployment(name)
		s.apply(c.server(name))
		Eventually(func() string { return condition(s.dstackServer(Default, name).Status.Conditions, c.condition) }).
			WithTimeout(90 * time.Second).WithPolling(300 * time.Millisecond).Should(HavePrefix(c.want))
		conditions := s.dstackServer(Default, name).Status.Conditions
		GinkgoWriter.Println(condition(conditions, c.condition))
		Expect(condition(conditions, v1alpha1.ConditionReady)).To(HavePrefix("False/"))
		Expect(condition(conditions, v1alpha1.ConditionStalled)).To(HavePrefix("True/"), "somebody has to act")
		if !c.injected {
			Expect(s.deployment(name).ResourceVersion).To(Equal(before.ResourceVersion), "the workload must not be written")
		}
		By("deleting it")
		s.kubectl("delete", "dstackserver", name, "--timeout=90s")
		s.expectNoChildren(name)
		Expect(s.deployment(name).Spec.Template).To(Equal(before.Spec.Template))
		s.kubectl("delete", "deployment", name, "--wait=false")
	},
		Entry("no such container", "container", wrongInput{
			mounts: atHome, volumes: onDisk, spec: "workload: {kind: Deployment, name: container, container: nosuch}",
			condition: v1alpha1.ConditionAccepted,
			want:      `False/ContainerNotFound: Deployment e2e-inputs/container has no container "nosuch" (it has server): set spec.workload.container to one that it has`,
		}),
		Entry("no such workload", "workload", wrongInput{
			mounts: atHome, volumes: onDisk, spec: "workload: {kind: StatefulSet, name: workload}",
			condition: v1alpha1.ConditionAccepted,
			want:      `False/WorkloadNotFound: there is no StatefulSet workload in namespace e2e-inputs: create it, or create this DstackServer again`,
		}),
		Entry("a database that a restart would lose", "emptydir", wrongInput{
			mounts: atHome, volumes: inMemory, condition: v1alpha1.ConditionSettingsApplied,
			want: `False/WouldLoseDatabase: settings restart the server, and that would lose its database: /root/.dstack/server/data is on volume "data", an emptyDir, which does not outlive its pod.`,
		}),
		Entry("config.yml from a ConfigMap", "clash", wrongInput{
			mounts:    `[{name: data, mountPath: /root/.dstack/server}, {name: config, mountPath: /root/.dstack/server/config.yml, subPath: config.yml}]`,
			volumes:   strings.TrimSuffix(onDisk, "]") + `, {name: config, configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: config.yml}]}}]`,
			condition: v1alpha1.ConditionSettingsApplied,
			want:      `False/ConfigMountClash: volume "config" is mounted at exactly /root/.dstack/server/config.yml, where no copy can be put over it, and key ca.crt of ConfigMap kube-root-ca.crt cannot be used: line 1: it must be a mapping`,
		}),
		Entry("a variable that somebody else sets", "conflict", wrongInput{
			mounts: atHome, volumes: onDisk, env: `[{name: PYTHONPATH, value: /opt/mine}]`, condition: v1alpha1.ConditionSettingsApplied,
			want: `False/FieldConflict: in Deployment e2e-inputs/conflict, PYTHONPATH is set by kubectl-client-side-apply: append :/opt/dstack-isolation to its value there, or remove it`,
		}),
		Entry("another home", "home", wrongInput{
			mounts: atHome, volumes: onDisk, env: `[{name: HOME, value: /data}]`, condition: v1alpha1.ConditionAccepted,
			want: `False/InvalidSpec: container server sets HOME, so dstack uses .dstack/server in it and not spec.serverDir /root/.dstack/server: set spec.serverDir to that directory`,
		}),
		Entry("no admin token", "token", wrongInput{
			mounts: atHome, volumes: onDisk, spec: "api: {adminTokenSecretRef: {name: nowhere, key: token}}", injected: true,
			condition: v1alpha1.ConditionConnected,
			want:      `False/TokenNotFound: Secret nowhere has no key token with an admin token in it: create it, or mend spec.api.adminTokenSecretRef`,
		}),
		Entry("a denial that nothing enforces", "unmatched", wrongInput{
			mounts: atHome, volumes: onDisk, spec: "unmatchedProjects: {level: Restricted, enforcement: Enforce}", injected: true,
			condition: v1alpha1.ConditionUnmatchedProjectsCovered,
			want:      `False/ControlNotEnforceable: in projects that no profile names, `,
		}),
	)

	It("is refused by the API server where that can tell", func() {
		const workload, unmatched = "workload: {kind: Deployment, name: x}", "unmatchedProjects: {level: Open, enforcement: Enforce}"
		for spec, want := range map[string]string{
			workload: "spec.unmatchedProjects: Required value",
			"workload: {kind: DaemonSet, name: x}, " + unmatched:              `spec.workload.kind: Unsupported value: "DaemonSet": supported values: "Deployment", "StatefulSet"`,
			workload + ", serverDir: a/b, " + unmatched:                       "serverDir must be an absolute and clean path",
			workload + ", injektion: Disabled, " + unmatched:                  `unknown field "spec.injektion"`,
			workload + ", policyPlugin: {replicas: 0}, " + unmatched:          "spec.policyPlugin.replicas: Invalid value: 0",
			workload + ", unmatchedProjects: {level: Open, enforcement: Off}": "unmatchedProjects.enforcement: ",
		} {
			out, err := run("apiVersion: isolation.dstack.ai/v1alpha1\nkind: DstackServer\nmetadata: {name: wrong}\nspec: {"+spec+"}\n",
				"kubectl", "--namespace", s.namespace, "apply", "-f", "-")
			Expect(err).To(HaveOccurred(), spec)
			Expect(out).To(ContainSubstring(want))
		}
	})

	It("has not made the operator's processes restart", func() {
		s.expectNoRestarts()
	})
})

func (s *site) deployment(name string) *appsv1.Deployment {
	GinkgoHelper()
	var d appsv1.Deployment
	Expect(cluster.Get(context.Background(), client.ObjectKey{Namespace: s.namespace, Name: name}, &d)).To(Succeed())
	return &d
}

// manifest is a Deployment that only sleeps.
func (c wrongInput) manifest(name string) string {
	env := c.env
	if env == "" {
		env = "[]"
	}
	return `apiVersion: apps/v1
kind: Deployment
metadata: {name: ` + name + `}
spec:
  strategy: {type: Recreate}
  selector: {matchLabels: {app: ` + name + `}}
  template:
    metadata: {labels: {app: ` + name + `}}
    spec:
      enableServiceLinks: false
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 1
      containers:
        - {name: server, image: "dstack-isolation-pause:1", imagePullPolicy: IfNotPresent, env: ` + env + `, volumeMounts: ` + c.mounts + `}
      volumes: ` + c.volumes + `
`
}

// server is a DstackServer for the Deployment of its name.
func (c wrongInput) server(name string) string {
	fields := []string{"policyPlugin: {replicas: 1}", c.spec}
	if !strings.Contains(c.spec, "workload:") {
		fields = append(fields, "workload: {kind: Deployment, name: "+name+"}")
	}
	if !strings.Contains(c.spec, "unmatchedProjects:") {
		fields = append(fields, "unmatchedProjects: {level: Open, enforcement: Enforce}")
	}
	yaml := "apiVersion: isolation.dstack.ai/v1alpha1\nkind: DstackServer\nmetadata: {name: " + name + "}\nspec:\n"
	for _, f := range fields {
		if f != "" {
			yaml += "  " + f + "\n"
		}
	}
	return yaml
}
