package api_test

import (
	"context"
	"fmt"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// boundCase is one bound of the schema: the last value that fits, the first
// that does not, and what is said of it.
type boundCase struct {
	about    string
	accepted fields
	rejected fields
	message  string
}

func exception(changed map[string]any) map[string]any {
	x := map[string]any{"name": "x", "users": []any{"ada"}, "controls": []any{"privileged"}, "reason": "because"}
	for k, v := range changed {
		if v == removed {
			delete(x, k)
			continue
		}
		x[k] = v
	}
	return map[string]any{"spec.exceptions": []any{x}}
}

func repeat(n int) string { return strings.Repeat("a", n) }

func numbered(format string) func(int) string {
	return func(i int) string { return fmt.Sprintf(format, i) }
}

func named(names ...string) []any {
	out := make([]any, len(names))
	for i, n := range names {
		out[i] = map[string]any{"name": n}
	}
	return out
}

var serverBounds = []boundCase{
	{
		about:    "unmatchedProjects is required: the choice is too heavy to be silent",
		rejected: fields{"spec.unmatchedProjects": removed},
		message:  `spec.unmatchedProjects: Required value`,
	},
	{
		about:    "unmatchedProjects.level has no default",
		accepted: fields{"spec.unmatchedProjects": map[string]any{"level": "Open", "enforcement": "Audit"}},
		rejected: fields{"spec.unmatchedProjects": map[string]any{"enforcement": "Audit"}},
		message:  `spec.unmatchedProjects.level: Required value`,
	},
	{
		about:    "unmatchedProjects.enforcement has no default",
		rejected: fields{"spec.unmatchedProjects": map[string]any{"level": "Open"}},
		message:  `spec.unmatchedProjects.enforcement: Required value`,
	},
	{
		about:    "level names",
		accepted: fields{"spec.unmatchedProjects.level": "Baseline"},
		rejected: fields{"spec.unmatchedProjects.level": "Strict"},
		message:  `spec.unmatchedProjects.level: Unsupported value: "Strict": supported values: "Open", "Baseline", "Restricted", "Dedicated"`,
	},
	{
		about:    "level versions",
		accepted: fields{"spec.unmatchedProjects.levelVersion": "v1"},
		rejected: fields{"spec.unmatchedProjects.levelVersion": "latest"},
		message:  `spec.unmatchedProjects.levelVersion: Unsupported value: "latest": supported values: "v1"`,
	},
	{
		about:    "enforcement names",
		rejected: fields{"spec.unmatchedProjects.enforcement": "Warn"},
		message:  `spec.unmatchedProjects.enforcement: Unsupported value: "Warn": supported values: "Enforce", "Audit"`,
	},
	{
		about:    "workload is required without api.url",
		rejected: fields{"spec.workload": removed},
		message:  `spec: Invalid value: spec must have either workload, for a server in this namespace, or api.url, for one that runs elsewhere`,
	},
	{
		about:    "workload kinds",
		accepted: fields{"spec.workload.kind": "StatefulSet"},
		rejected: fields{"spec.workload.kind": "DaemonSet"},
		message:  `spec.workload.kind: Unsupported value: "DaemonSet": supported values: "Deployment", "StatefulSet"`,
	},
	{
		about:    "workload name is not empty",
		rejected: fields{"spec.workload.name": ""},
		message:  `spec.workload.name: Invalid value: "": spec.workload.name in body should be at least 1 chars long`,
	},
	{
		about:    "port from",
		accepted: fields{"spec.api.port": int64(1)},
		rejected: fields{"spec.api.port": int64(0)},
		message:  `spec.api.port: Invalid value: 0: spec.api.port in body should be greater than or equal to 1`,
	},
	{
		about:    "port to",
		accepted: fields{"spec.api.port": int64(65535)},
		rejected: fields{"spec.api.port": int64(65536)},
		message:  `spec.api.port: Invalid value: 65536: spec.api.port in body should be less than or equal to 65535`,
	},
	{
		about:    "a Secret's key",
		accepted: fields{"spec.api.adminTokenSecretRef": map[string]any{"name": "dstack-admin", "key": "token_1.x-y"}},
		rejected: fields{"spec.api.adminTokenSecretRef": map[string]any{"name": "dstack-admin", "key": "a/b"}},
		message:  `spec.api.adminTokenSecretRef.key: Invalid value: "a/b": spec.api.adminTokenSecretRef.key in body should match '^[-._a-zA-Z0-9]+$'`,
	},
	{
		about:    "a Secret's key is required",
		rejected: fields{"spec.api.adminTokenSecretRef": map[string]any{"name": "dstack-admin"}},
		message:  `spec.api.adminTokenSecretRef.key: Required value`,
	},
	{
		about:    "injection names",
		accepted: fields{"spec.injection": "Manual"},
		rejected: fields{"spec.injection": "manual"},
		message:  `spec.injection: Unsupported value: "manual": supported values: "Enabled", "Manual", "Disabled"`,
	},
	{
		about:    "delivery names",
		accepted: fields{"spec.policyPlugin.delivery": "REST"},
		rejected: fields{"spec.policyPlugin.delivery": "rest"},
		message:  `spec.policyPlugin.delivery: Unsupported value: "rest": supported values: "Python", "REST"`,
	},
	{
		about:    "replicas from",
		accepted: fields{"spec.policyPlugin.replicas": int64(1)},
		rejected: fields{"spec.policyPlugin.replicas": int64(0)},
		message:  `spec.policyPlugin.replicas: Invalid value: 0: spec.policyPlugin.replicas in body should be greater than or equal to 1`,
	},
	{
		about:    "replicas to",
		accepted: fields{"spec.policyPlugin.replicas": int64(16)},
		rejected: fields{"spec.policyPlugin.replicas": int64(17)},
		message:  `spec.policyPlugin.replicas: Invalid value: 17: spec.policyPlugin.replicas in body should be less than or equal to 16`,
	},
	{
		about:    "runAsUser",
		accepted: fields{"spec.policyPlugin.runAsUser": int64(0)},
		rejected: fields{"spec.policyPlugin.runAsUser": int64(-1)},
		message:  `spec.policyPlugin.runAsUser: Invalid value: -1: spec.policyPlugin.runAsUser in body should be greater than or equal to 0`,
	},
	{
		about:    "imagePullSecrets are named once",
		accepted: fields{"spec.policyPlugin.imagePullSecrets": named("a", "b")},
		rejected: fields{"spec.policyPlugin.imagePullSecrets": named("a", "a")},
		message:  `spec.policyPlugin.imagePullSecrets[1]: Duplicate value: {"name":"a"}`,
	},
	{
		about:    "resources are quantities",
		accepted: fields{"spec.policyPlugin.resources": map[string]any{"requests": map[string]any{"cpu": "20m", "memory": "64Mi"}}},
		rejected: fields{"spec.policyPlugin.resources": map[string]any{"requests": map[string]any{"cpu": "much"}}},
		message:  `spec.policyPlugin.resources.requests.cpu: Invalid value: "much": spec.policyPlugin.resources.requests.cpu in body should match '^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$'`,
	},
	{
		about:    "serverDir is not empty",
		rejected: fields{"spec.serverDir": ""},
		message:  `[spec.serverDir: Invalid value: "": spec.serverDir in body should be at least 2 chars long, spec.serverDir: Invalid value: "": serverDir ` + cleanPath + `]`,
	},
}

var profileBounds = []boundCase{
	{
		about:    "serverRef is required",
		rejected: fields{"spec.serverRef": removed},
		message:  `spec.serverRef: Required value`,
	},
	{
		about:    "level is required",
		rejected: fields{"spec.level": removed},
		message:  `spec.level: Required value`,
	},
	{
		about:    "level names",
		accepted: fields{"spec.level": "Baseline"},
		rejected: fields{"spec.level": "restricted"},
		message:  `spec.level: Unsupported value: "restricted": supported values: "Open", "Baseline", "Restricted", "Dedicated"`,
	},
	{
		about:    "level versions",
		rejected: fields{"spec.levelVersion": "v2"},
		message:  `spec.levelVersion: Unsupported value: "v2": supported values: "v1"`,
	},
	{
		about:    "enforcement names",
		accepted: fields{"spec.enforcement": "Audit"},
		rejected: fields{"spec.enforcement": "audit"},
		message:  `spec.enforcement: Unsupported value: "audit": supported values: "Enforce", "Audit"`,
	},
	{
		about:    "include is required",
		rejected: fields{"spec.projects": map[string]any{"exclude": []any{"a"}}},
		message:  `spec.projects.include: Required value`,
	},
	{
		about:    "include is not empty",
		rejected: fields{"spec.projects.include": []any{}},
		message:  `spec.projects.include: Invalid value: 0: spec.projects.include in body should have at least 1 items`,
	},
	{
		about:    "include is bounded",
		accepted: fields{"spec.projects.include": strs(256, numbered("p%d"))},
		rejected: fields{"spec.projects.include": strs(257, numbered("p%d"))},
		message:  `spec.projects.include: Too many: 257: must have at most 256 items`,
	},
	{
		about:    "exclude is bounded",
		accepted: fields{"spec.projects.exclude": strs(256, numbered("p%d"))},
		rejected: fields{"spec.projects.exclude": strs(257, numbered("p%d"))},
		message:  `spec.projects.exclude: Too many: 257: must have at most 256 items`,
	},
	{
		about:    "projects are named once",
		accepted: fields{"spec.projects.include": []any{"a", "A"}},
		rejected: fields{"spec.projects.include": []any{"a", "a"}},
		message:  `spec.projects.include[1]: Duplicate value: "a"`,
	},
	{
		about:    "patterns hold only what a project name may hold, * and ?",
		accepted: fields{"spec.projects.include": []any{"*", "?a-B_9.*"}},
		rejected: fields{"spec.projects.include": []any{"team/[ab]"}},
		message:  `spec.projects.include[0]: Invalid value: "team/[ab]": spec.projects.include[0] in body should match '^[-_.a-zA-Z0-9*?]+$'`,
	},
	{
		about:    "patterns are bounded",
		accepted: fields{"spec.projects.include": []any{repeat(100)}},
		rejected: fields{"spec.projects.include": []any{repeat(101)}},
		message:  `spec.projects.include[0]: Too long: may not be more than 100 bytes`,
	},
	{
		about:    "hint is bounded",
		rejected: fields{"spec.hint": repeat(201)},
		message:  `spec.hint: Too long: may not be more than 200 bytes`,
	},
	{
		about:    "an exception needs a reason",
		accepted: exception(nil),
		rejected: exception(map[string]any{"reason": removed}),
		message:  `spec.exceptions[0].reason: Required value`,
	},
	{
		about:    "a reason is not empty",
		rejected: exception(map[string]any{"reason": ""}),
		message:  `spec.exceptions[0].reason: Invalid value: "": spec.exceptions[0].reason in body should be at least 1 chars long`,
	},
	{
		about:    "an exception names a user",
		rejected: exception(map[string]any{"users": []any{}}),
		message:  `spec.exceptions[0].users: Invalid value: 0: spec.exceptions[0].users in body should have at least 1 items`,
	},
	{
		about:    "a user has a name",
		rejected: exception(map[string]any{"users": []any{""}}),
		message:  `spec.exceptions[0].users[0]: Invalid value: "": spec.exceptions[0].users[0] in body should be at least 1 chars long`,
	},
	{
		about:    "an exception names a control",
		rejected: exception(map[string]any{"controls": []any{}}),
		message:  `spec.exceptions[0].controls: Invalid value: 0: spec.exceptions[0].controls in body should have at least 1 items`,
	},
	{
		about:    "an exception names controls of this release",
		accepted: exception(map[string]any{"controls": strs(len(controlNames), func(i int) string { return controlNames[i] })}),
		rejected: exception(map[string]any{"controls": []any{"sshfleets"}}),
		message:  `spec.exceptions[0].controls[0]: Unsupported value: "sshfleets": supported values: "` + strings.Join(controlNames, `", "`) + `"`,
	},
	{
		about:    "an exception names a control once",
		rejected: exception(map[string]any{"controls": []any{"tags", "tags"}}),
		message:  `spec.exceptions[0].controls[1]: Duplicate value: "tags"`,
	},
	{
		about:    "an exception's name",
		accepted: exception(map[string]any{"name": repeat(63)}),
		rejected: exception(map[string]any{"name": "Ada's"}),
		message:  `spec.exceptions[0].name: Invalid value: "Ada's": spec.exceptions[0].name in body should match '^[a-z0-9]([-a-z0-9]*[a-z0-9])?$'`,
	},
	{
		about:    "the end of an exception is a moment",
		accepted: exception(map[string]any{"expiresAt": "2026-12-31T23:59:59+02:00"}),
		rejected: exception(map[string]any{"expiresAt": "2026-12-31"}),
		message:  `spec.exceptions[0].expiresAt: Invalid value: "2026-12-31": spec.exceptions[0].expiresAt in body must be of type date-time: "2026-12-31"`,
	},
	{
		about:    "exceptions are bounded",
		accepted: fields{"spec.exceptions": exceptions(64)},
		rejected: fields{"spec.exceptions": exceptions(65)},
		message:  `spec.exceptions: Too many: 65: must have at most 64 items`,
	},
}

func exceptions(n int) []any {
	all := make([]any, n)
	for i := range all {
		all[i] = exception(map[string]any{"name": fmt.Sprintf("x%d", i)})["spec.exceptions"].([]any)[0]
	}
	return all
}

// unchecked is what the API server adds where the schema keeps it from looking
// at the rules.
const unchecked = ", <nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation]"

// said is the whole message of an error, less what the API server adds.
func said(err error) string {
	text, cut := strings.CutSuffix(err.Error(), unchecked)
	if cut {
		text = strings.Replace(text, "invalid: [", "invalid: ", 1)
	}
	return text
}

var _ = Describe("Bounds of the schema", func() {
	describe := func(kind string, cases []boundCase) {
		for _, c := range cases {
			It(fmt.Sprintf("%s: %s", kind, c.about), func(ctx context.Context) {
				Expect(try(ctx, object(kind, c.accepted))).To(Succeed())
				err := try(ctx, object(kind, c.rejected))
				Expect(apierrors.IsInvalid(err)).To(BeTrue(), "%v", err)
				Expect(said(err)).To(Equal(fmt.Sprintf(`%s.isolation.dstack.ai "main" is invalid: %s`, kind, c.message)))
			})
		}
	}
	describe(serverKind, serverBounds)
	describe(profileKind, profileBounds)
	for _, o := range []controlsOf{ofProfile, ofUnmatched} {
		describe(o.kind, valueBounds(o))
		describe(o.kind, listBounds(o))
		describe(o.kind, classBounds(o))
	}
	describe(profileKind, profileRuleBounds)

	It("lets no control be written that this release does not know", func(ctx context.Context) {
		for _, o := range []controlsOf{ofProfile, ofUnmatched} {
			for _, name := range []string{"sshFleet", "UnknownFields", "gpus"} {
				err := try(ctx, object(o.kind, fields{o.field: map[string]any{name: "Denied"}}))
				Expect(err).To(MatchError(ContainSubstring(fmt.Sprintf("strict decoding error: unknown field %q", o.field+"."+name))))
			}
		}
	})

	It("lets a level be tightened, loosened and its exceptions be changed in place", func(ctx context.Context) {
		o := object(profileKind, nil)
		Expect(create(ctx, o)).To(Succeed())
		for _, changed := range []fields{{"spec.level": "Open"}, {"spec.enforcement": "Audit"}, exception(nil), {"spec.projects.include": []any{"other"}}} {
			change(o, changed)
			Expect(api.Client.Update(ctx, o)).To(Succeed())
		}
	})
})
