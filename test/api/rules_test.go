package api_test

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/dstack-isolation/operator/config/crd"
)

// What a path must be, in the words of the rules.
const (
	cleanPath  = "must be an absolute and clean path: " + clean
	cleanPaths = "must be absolute and clean: " + clean
	clean      = "start with /, name no . or .. component, hold no empty component, no control character and no trailing /"
)

// ruleCase is one rule of the CustomResourceDefinitions with objects that it
// accepts and objects that it rejects. A rule about changes has a before.
type ruleCase struct {
	kind, path string
	before     fields
	accepted   []fields
	// rejected objects, each with the whole message.
	rejected []rejection
}

type rejection struct {
	changed fields
	message string
}

var rules = []ruleCase{
	{
		kind: serverKind, path: "",
		accepted: []fields{
			{"metadata.name": "m"},
			{"metadata.name": "gpu-2"},
			{"metadata.name": strings.Repeat("a", 40)},
		},
		rejected: []rejection{
			{fields{"metadata.name": strings.Repeat("a", 41)}, invalidServer(strings.Repeat("a", 41), nameRule)},
			{fields{"metadata.name": "2-gpu"}, invalidServer("2-gpu", nameRule)},
			{fields{"metadata.name": "a.b"}, invalidServer("a.b", nameRule)},
		},
	},
	{
		kind: serverKind, path: "spec.workload",
		before: fields{"spec.workload.container": "server"},
		accepted: []fields{
			{"spec.workload.container": "dstack"},
			{"spec.workload.container": removed},
		},
		rejected: []rejection{
			{fields{"spec.workload.kind": "StatefulSet"}, invalidServer("main", workloadRule)},
			{fields{"spec.workload.name": "other"}, invalidServer("main", workloadRule)},
		},
	},
	{
		kind: serverKind, path: "spec.serverDir",
		accepted: []fields{
			{"spec.serverDir": "/srv"},
			{"spec.serverDir": "/root/.dstack/server"},
			{"spec.serverDir": "/a/..b/c..d/.e"},
			{"spec.serverDir": "/with space/ü"},
		},
		rejected: pathRejections(func(path string) rejection {
			return rejection{
				fields{"spec.serverDir": path},
				invalidServer("main", fmt.Sprintf("spec.serverDir: Invalid value: %q: serverDir %s", path, cleanPath)),
			}
		}),
	},
	{
		kind: serverKind, path: "spec.sshProxy",
		accepted: []fields{
			{"spec.sshProxy": map[string]any{"managed": map[string]any{}}},
			{"spec.sshProxy": map[string]any{"external": externalAt("ssh.example.com")}},
		},
		rejected: []rejection{
			{fields{"spec.sshProxy": map[string]any{}}, invalidServer("main", sshProxyRule)},
			{
				fields{"spec.sshProxy": map[string]any{"managed": map[string]any{}, "external": externalAt("ssh.example.com")}},
				invalidServer("main", sshProxyRule),
			},
		},
	},
	{
		kind: serverKind, path: "spec.sshProxy.managed",
		accepted: []fields{
			{"spec.sshProxy": map[string]any{"managed": map[string]any{"service": map[string]any{"type": "LoadBalancer"}}}},
			{"spec.sshProxy": map[string]any{"managed": map[string]any{"address": "ssh.example.com", "service": map[string]any{"type": "NodePort"}}}},
			{"spec.sshProxy": map[string]any{"managed": map[string]any{"address": "ssh.example.com", "service": map[string]any{"type": "ClusterIP"}}}},
		},
		rejected: []rejection{
			{fields{"spec.sshProxy": map[string]any{"managed": map[string]any{"service": map[string]any{"type": "NodePort"}}}}, invalidServer("main", managedAddressRule)},
			{fields{"spec.sshProxy": map[string]any{"managed": map[string]any{"service": map[string]any{"type": "ClusterIP"}}}}, invalidServer("main", managedAddressRule)},
		},
	},
	{
		kind: serverKind, path: "spec.sshProxy.managed.address",
		accepted: addresses(func(address string) fields {
			return fields{"spec.sshProxy": map[string]any{"managed": map[string]any{"address": address}}}
		}),
		rejected: addressRejections("spec.sshProxy.managed.address", func(address string) fields {
			return fields{"spec.sshProxy": map[string]any{"managed": map[string]any{"address": address}}}
		}),
	},
	{
		kind: serverKind, path: "spec.sshProxy.external.address",
		accepted: addresses(func(address string) fields {
			return fields{"spec.sshProxy": map[string]any{"external": externalAt(address)}}
		}),
		rejected: addressRejections("spec.sshProxy.external.address", func(address string) fields {
			return fields{"spec.sshProxy": map[string]any{"external": externalAt(address)}}
		}),
	},
	{
		kind: profileKind, path: "spec",
		before:   fields{"spec.serverRef.name": "main"},
		accepted: []fields{{"spec.level": "Open"}},
		rejected: []rejection{{
			fields{"spec.serverRef.name": "other"},
			invalidProfile("spec.serverRef: Forbidden: serverRef must not change: create a new profile for the other server, then delete this one"),
		}},
	},
	{
		kind: profileKind, path: "spec.hint",
		accepted: []fields{
			{"spec.hint": "Ask #gpu-platform."},
			{"spec.hint": ""},
			{"spec.hint": strings.Repeat("ü", 200)},
		},
		rejected: []rejection{
			{fields{"spec.hint": "two\nlines"}, invalidProfile(`spec.hint: Invalid value: "two\nlines": ` + hintRule)},
			{fields{"spec.hint": "\x1b[31mred"}, invalidProfile(`spec.hint: Invalid value: "\x1b[31mred": ` + hintRule)},
			{fields{"spec.hint": "del\x7f"}, invalidProfile(`spec.hint: Invalid value: "del\x7f": ` + hintRule)},
			{fields{"spec.hint": "next\u0085line"}, invalidProfile(`spec.hint: Invalid value: "next\u0085line": ` + hintRule)},
			{fields{"spec.hint": "line\u2028separator"}, invalidProfile(`spec.hint: Invalid value: "line\u2028separator": ` + hintRule)},
			{fields{"spec.hint": "paragraph\u2029separator"}, invalidProfile(`spec.hint: Invalid value: "paragraph\u2029separator": ` + hintRule)},
		},
	},
}

const (
	nameRule     = "metadata: Invalid value: metadata.name must be at most 40 characters of a-z, 0-9 and -, begin with a letter and end with a letter or digit: the names of Services are made of it"
	workloadRule = "spec.workload: Forbidden: workload kind and name must not change: delete this DstackServer, which gives the workload back, and create one for the other workload"
	fleetsRule   = ".level: Required value: level Dedicated needs controls.fleets: list the fleets that belong to these projects alone"
	hintRule     = "hint must be one line without control characters"
	classesRule  = ".storageClasses: Invalid value: storageClasses must be set when existingVolumes is AllowedStorageClasses, and only then"
	pathsRule    = ".instanceVolumes.paths: Invalid value: paths must be set when mode is AllowedPaths, and only then"
)

const (
	sshProxyRule       = "spec.sshProxy: Invalid value: sshProxy must have either managed or external"
	managedAddressRule = "spec.sshProxy.managed.address: Required value: managed must have an address unless service.type is LoadBalancer: nothing else tells where users reach the proxy"
	addressRule        = "address must be HOST or HOST:PORT, with a host name or an IPv4 address and nothing before it: dstack does not start with anything else"
)

func externalAt(address string) map[string]any {
	return map[string]any{"address": address, "tokenSecretRef": map[string]any{"name": "ssh", "key": "token"}}
}

func addresses(with func(string) fields) []fields {
	var all []fields
	for _, address := range []string{"h", "ssh.example.com", "SSH-1.example.com:22", "10.0.0.7:65535", "ssh.example.com:1"} {
		all = append(all, with(address))
	}
	return all
}

func addressRejections(path string, with func(string) fields) []rejection {
	var all []rejection
	for _, address := range []string{
		"ssh://h", "h/x", "user@h", "h:", "h:0", "h:65536", "h:022", "h:22:22", "h:ssh", "-h", "h.", "a..b", "::1", "[::1]:22", "h ", "h\n", "*.example.com", ":22",
	} {
		all = append(all, rejection{with(address), invalidServer("main", fmt.Sprintf("%s: Invalid value: %q: %s", path, address, addressRule))})
	}
	return all
}

func invalidServer(name, what string) string {
	return fmt.Sprintf("DstackServer.isolation.dstack.ai %q is invalid: %s", name, what)
}

func invalidProfile(what string) string {
	return `IsolationProfile.isolation.dstack.ai "main" is invalid: ` + what
}

// allowed is the value of a control that lists what is allowed.
func allowed(entries ...string) map[string]any {
	return map[string]any{"allowed": strs(len(entries), func(i int) string { return entries[i] })}
}

func allowedPaths(paths ...string) map[string]any {
	return map[string]any{"mode": "AllowedPaths", "paths": strs(len(paths), func(i int) string { return paths[i] })}
}

func pathRejections(reject func(path string) rejection) []rejection {
	var all []rejection
	for _, path := range []string{"data", "//", "/data/", "//data", "/data//x", "/./data", "/data/.", "/..", "/data/../etc", "/data/..", "/da\nta", "/da\x00ta", "/da\x7fta"} {
		all = append(all, reject(path))
	}
	return all
}

var _ = Describe("Rules of the CustomResourceDefinitions", func() {
	rules := slices.Concat(rules, profileRuleCases, elsewhereRuleCases, controlRules(ofProfile), controlRules(ofUnmatched))
	for _, rule := range rules {
		Describe(rule.kind+" "+rule.path, func() {
			var before client.Object
			submit := func(ctx context.Context, changed fields) error {
				if rule.before == nil {
					return try(ctx, object(rule.kind, changed))
				}
				after := object(rule.kind, rule.before)
				change(after, changed)
				after.SetResourceVersion(before.GetResourceVersion())
				return api.Client.Update(ctx, after, client.DryRunAll, client.FieldValidation("Strict"))
			}
			BeforeEach(func(ctx context.Context) {
				if rule.before != nil {
					o := object(rule.kind, rule.before)
					Expect(create(ctx, o)).To(Succeed())
					before = o
				}
			})
			for _, accepted := range rule.accepted {
				It(fmt.Sprintf("accepts %q", accepted), func(ctx context.Context) {
					Expect(submit(ctx, accepted)).To(Succeed())
				})
			}
			for _, r := range rule.rejected {
				It(fmt.Sprintf("rejects %q", r.changed), func(ctx context.Context) {
					Expect(submit(ctx, r.changed)).To(MatchError(r.message))
				})
			}
		})
	}

	It("all have a case above, accepted and rejected", func() {
		var have []string
		for _, rule := range rules {
			Expect(rule.accepted).NotTo(BeEmpty(), rule.path)
			Expect(rule.rejected).NotTo(BeEmpty(), rule.path)
			have = append(have, rule.kind+" "+rule.path)
		}
		var want []string
		for _, d := range definitions() {
			walk(d, func(path string, s *apiextensionsv1.JSONSchemaProps) {
				for _, r := range s.XValidations {
					Expect(r.Message).NotTo(BeEmpty(), path)
					Expect(r.Reason).NotTo(BeNil(), path)
					want = append(want, d.Spec.Names.Kind+" "+path)
				}
			})
		}
		Expect(have).To(ConsistOf(want), "each rule has one case, named by its kind and path")
	})
})

// definitions are the CustomResourceDefinitions as they are shipped.
func definitions() []*apiextensionsv1.CustomResourceDefinition {
	GinkgoHelper()
	names, err := fs.Glob(crd.FS, "*.yaml")
	Expect(err).NotTo(HaveOccurred())
	Expect(names).To(HaveLen(2))
	var all []*apiextensionsv1.CustomResourceDefinition
	for _, name := range names {
		data, err := fs.ReadFile(crd.FS, name)
		Expect(err).NotTo(HaveOccurred())
		var d apiextensionsv1.CustomResourceDefinition
		Expect(yaml.UnmarshalStrict(data, &d)).To(Succeed())
		Expect(d.Spec.Versions).To(HaveLen(1))
		all = append(all, &d)
	}
	return all
}

// walk visits every schema of a definition. The path of a list's items ends in
// [], that of a map's values in {}.
func walk(d *apiextensionsv1.CustomResourceDefinition, visit func(path string, s *apiextensionsv1.JSONSchemaProps)) {
	var descend func(path string, s *apiextensionsv1.JSONSchemaProps)
	descend = func(path string, s *apiextensionsv1.JSONSchemaProps) {
		visit(path, s)
		var names []string
		for name := range s.Properties {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			child := s.Properties[name]
			descend(strings.TrimPrefix(path+"."+name, "."), &child)
		}
		if s.Items != nil {
			descend(path+"[]", s.Items.Schema)
		}
		if s.AdditionalProperties != nil && s.AdditionalProperties.Schema != nil {
			descend(path+"{}", s.AdditionalProperties.Schema)
		}
	}
	descend("", d.Spec.Versions[0].Schema.OpenAPIV3Schema)
}
