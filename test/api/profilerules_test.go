package api_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// profileRule is a profile with one rule, some fields of which are changed.
func profileRule(changed map[string]any) fields {
	rule := map[string]any{"name": "r", "kind": "Run", "expression": "true", "message": "no"}
	for k, v := range changed {
		if v == removed {
			delete(rule, k)
			continue
		}
		rule[k] = v
	}
	return fields{"spec.rules": []any{rule}}
}

func profileRules(n int, name func(int) string) fields {
	all := make([]any, n)
	for i := range all {
		all[i] = profileRule(map[string]any{"name": name(i)})["spec.rules"].([]any)[0]
	}
	return fields{"spec.rules": all}
}

var profileRuleBounds = []boundCase{
	{
		about:    "rules are bounded",
		accepted: profileRules(32, numbered("r%d")),
		rejected: profileRules(33, numbered("r%d")),
		message:  `spec.rules: Too many: 33: must have at most 32 items`,
	},
	{
		about:    "rules are named once",
		accepted: profileRules(2, numbered("r%d")),
		rejected: profileRules(2, func(int) string { return "r" }),
		message:  `spec.rules[1]: Duplicate value: {"name":"r"}`,
	},
	{
		about:    "a rule's name",
		accepted: profileRule(map[string]any{"name": repeat(63)}),
		rejected: profileRule(map[string]any{"name": "Max_Duration"}),
		message:  `spec.rules[0].name: Invalid value: "Max_Duration": spec.rules[0].name in body should match '^[a-z0-9]([-a-z0-9]*[a-z0-9])?$'`,
	},
	{
		about:    "a rule's name is bounded",
		rejected: profileRule(map[string]any{"name": repeat(64)}),
		message:  `spec.rules[0].name: Too long: may not be more than 63 bytes`,
	},
	{
		about:    "a rule is about one kind",
		accepted: profileRule(map[string]any{"kind": "Gateway"}),
		rejected: profileRule(map[string]any{"kind": "run"}),
		message:  `spec.rules[0].kind: Unsupported value: "run": supported values: "Run", "Fleet", "Volume", "Gateway"`,
	},
	{
		about:    "a rule's kind is required",
		rejected: profileRule(map[string]any{"kind": removed}),
		message:  `spec.rules[0].kind: Required value`,
	},
	{
		about:    "a rule's expression is required",
		rejected: profileRule(map[string]any{"expression": removed}),
		message:  `spec.rules[0].expression: Required value`,
	},
	{
		about:    "a rule's expression is not empty",
		accepted: profileRule(map[string]any{"expression": "user ==\n\t'ada'"}),
		rejected: profileRule(map[string]any{"expression": ""}),
		message:  `spec.rules[0].expression: Invalid value: "": spec.rules[0].expression in body should be at least 1 chars long`,
	},
	{
		about:    "a rule's expression is bounded",
		accepted: profileRule(map[string]any{"expression": repeat(4096)}),
		rejected: profileRule(map[string]any{"expression": repeat(4097)}),
		message:  `spec.rules[0].expression: Too long: may not be more than 4096 bytes`,
	},
	{
		about:    "a rule's message is required",
		rejected: profileRule(map[string]any{"message": removed}),
		message:  `spec.rules[0].message: Required value`,
	},
	{
		about:    "a rule's message is not empty",
		rejected: profileRule(map[string]any{"message": ""}),
		message:  `spec.rules[0].message: Invalid value: "": spec.rules[0].message in body should be at least 1 chars long`,
	},
	{
		about:    "a rule's message is bounded",
		accepted: profileRule(map[string]any{"message": repeat(500)}),
		rejected: profileRule(map[string]any{"message": repeat(501)}),
		message:  `spec.rules[0].message: Too long: may not be more than 500 bytes`,
	},
	{
		about:    "a rule's hint is bounded",
		accepted: profileRule(map[string]any{"hint": repeat(200)}),
		rejected: profileRule(map[string]any{"hint": repeat(201)}),
		message:  `spec.rules[0].hint: Too long: may not be more than 200 bytes`,
	},
}

// profileRuleCases are the rules of the CustomResourceDefinition about rules.
var profileRuleCases = []ruleCase{
	{
		kind: profileKind, path: "spec.rules[].message",
		accepted: []fields{profileRule(map[string]any{"message": "runs must end: \"set\" max_duration, ü"})},
		rejected: []rejection{
			{
				profileRule(map[string]any{"message": "two\nlines"}),
				invalidProfile(`spec.rules[0].message: Invalid value: "two\nlines": message must be one line without control characters`),
			},
		},
	},
	{
		kind: profileKind, path: "spec.rules[].hint",
		accepted: []fields{profileRule(map[string]any{"hint": "set max_duration"}), profileRule(map[string]any{"hint": ""})},
		rejected: []rejection{
			{
				profileRule(map[string]any{"hint": "\x1b[31mred"}),
				invalidProfile(`spec.rules[0].hint: Invalid value: "\x1b[31mred": hint must be one line without control characters`),
			},
		},
	},
}

var _ = Describe("Rules of a profile", func() {
	files, err := filepath.Glob("../../config/samples/rules/*.yaml")
	if err != nil || len(files) == 0 {
		panic(fmt.Sprintf("no samples: %v", err))
	}
	for _, file := range files {
		It("are accepted in the sample "+filepath.Base(file), func(ctx context.Context) {
			data, err := os.ReadFile(file)
			Expect(err).NotTo(HaveOccurred())
			sample := &unstructured.Unstructured{}
			Expect(yaml.UnmarshalStrict(data, &sample.Object)).To(Succeed())
			sample.SetNamespace(namespace)
			Expect(try(ctx, sample)).To(Succeed())
		})
	}

	It("may be as many and as long as the schema allows", func(ctx context.Context) {
		full := profileRules(32, numbered("r%d"))
		for _, rule := range full["spec.rules"].([]any) {
			rule.(map[string]any)["expression"] = repeat(4096)
			rule.(map[string]any)["message"] = repeat(500)
			rule.(map[string]any)["hint"] = repeat(200)
		}
		Expect(try(ctx, object(profileKind, full))).To(Succeed())
	})
})
