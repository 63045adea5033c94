package api_test

import (
	"fmt"
	"maps"
)

// elsewhere are the changes that make the minimal DstackServer one that runs
// elsewhere.
func elsewhere(more fields) fields {
	changed := fields{
		"spec.workload":         removed,
		"spec.api.url":          "https://dstack.example.com",
		"spec.policyPlugin.url": "https://policy.example.com",
		"spec.injection":        "Manual",
	}
	maps.Copy(changed, more)
	return changed
}

const (
	urlRule        = "url must be http://HOST, https://HOST or one of them with :PORT, without user, path or trailing slash"
	eitherRule     = "spec: Invalid value: spec must have either workload, for a server in this namespace, or api.url, for one that runs elsewhere"
	comeOrGoRule   = "spec: Forbidden: workload must not come or go: delete this DstackServer, which gives the workload back, and create one for the other server"
	onlyManualRule = "spec.injection: Invalid value: injection must be Manual for a server that runs elsewhere (api.url): the operator cannot write there"
	onlyPythonRule = "spec.policyPlugin.delivery: Invalid value: policyPlugin.delivery must be Python for a server that runs elsewhere (api.url): with REST its requests would carry no token"
	bothURLsRule   = "spec.policyPlugin.url: Invalid value: policyPlugin.url must be set together with api.url: it is where a server that runs elsewhere reaches the policy server"
)

// elsewhereRuleCases are the rules about servers that run elsewhere.
var elsewhereRuleCases = []ruleCase{
	{
		kind: serverKind, path: "spec",
		accepted: []fields{{}, elsewhere(nil), elsewhere(fields{"spec.policyPlugin.delivery": "Python"})},
		rejected: []rejection{
			{fields{"spec.workload": removed}, invalidServer("main", eitherRule)},
			{
				elsewhere(fields{"spec.workload": map[string]any{"kind": "Deployment", "name": "dstack-server"}}),
				invalidServer("main", eitherRule),
			},
		},
	},
	{
		kind: serverKind, path: "spec",
		before: elsewhere(nil),
		accepted: []fields{
			{"spec.api.url": "https://dstack-2.example.com"},
			{"spec.policyPlugin.url": "http://10.0.0.7:8080"},
		},
		rejected: []rejection{{
			fields{
				"spec.workload": map[string]any{"kind": "Deployment", "name": "dstack-server"},
				"spec.api.url":  removed, "spec.policyPlugin.url": removed,
			},
			invalidServer("main", comeOrGoRule),
		}},
	},
	{
		kind: serverKind, path: "spec",
		accepted: []fields{elsewhere(nil), {"spec.injection": "Enabled"}, {"spec.injection": "Disabled"}},
		rejected: []rejection{
			{elsewhere(fields{"spec.injection": removed}), invalidServer("main", onlyManualRule)},
			{elsewhere(fields{"spec.injection": "Enabled"}), invalidServer("main", onlyManualRule)},
			{elsewhere(fields{"spec.injection": "Disabled"}), invalidServer("main", onlyManualRule)},
		},
	},
	{
		kind: serverKind, path: "spec",
		accepted: []fields{elsewhere(nil), {"spec.policyPlugin.delivery": "REST"}},
		rejected: []rejection{
			{elsewhere(fields{"spec.policyPlugin.delivery": "REST"}), invalidServer("main", onlyPythonRule)},
		},
	},
	{
		kind: serverKind, path: "spec",
		accepted: []fields{elsewhere(nil), {}},
		rejected: []rejection{
			{elsewhere(fields{"spec.policyPlugin.url": removed}), invalidServer("main", bothURLsRule)},
			{fields{"spec.policyPlugin.url": "https://policy.example.com"}, invalidServer("main", bothURLsRule)},
		},
	},
	urlCase("spec.api.url"),
	urlCase("spec.policyPlugin.url"),
}

func urlCase(path string) ruleCase {
	rule := ruleCase{kind: serverKind, path: path}
	for _, url := range []string{
		"http://h", "https://dstack.example.com", "https://D-1.example.com:3000", "http://10.0.0.7:65535", "https://[fd00::7]:8443",
	} {
		rule.accepted = append(rule.accepted, elsewhere(fields{path: url}))
	}
	for _, url := range []string{
		"h", "ftp://h", "HTTPS://h", "https://", "https://h/", "https://h/x", "https://user@h", "https://user:pass@h", "https://h?x", "https://h#x",
		"https://h:", "https://h:0", "https://h:655350", "https://-h", "https://h.", "https://a..b", "https://fd00::7", "https://h ", "https://h\n", " https://h",
	} {
		rule.rejected = append(rule.rejected, rejection{
			elsewhere(fields{path: url}), invalidServer("main", fmt.Sprintf("%s: Invalid value: %q: %s", path, url, urlRule)),
		})
	}
	return rule
}
