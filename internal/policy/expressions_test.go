package policy_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/policy"
)

// ruled adds a rule about runs.
func ruled(name, expression, message string) func(*spec) {
	return func(s *spec) {
		s.Rules = append(s.Rules, v1alpha1.Rule{Name: name, Kind: v1alpha1.RuleKindRun, Expression: expression, Message: message})
	}
}

func ofKind(kind v1alpha1.RuleKind) func(*spec) {
	return func(s *spec) { s.Rules[len(s.Rules)-1].Kind = kind }
}

func ruleHint(text string) func(*spec) {
	return func(s *spec) { s.Rules[len(s.Rules)-1].Hint = text }
}

const manyLoops = `[1,2,3,4,5,6,7,8,9].all(a, [1,2,3,4,5,6,7,8,9].all(b, [1,2,3,4,5,6,7,8,9].all(c, [1,2,3,4,5,6,7,8,9].all(d, [1,2,3,4,5,6,7,8,9].all(e, true)))))`

// TestRuleMessages holds what is said of rules to the letter.
func TestRuleMessages(t *testing.T) {
	tests := map[string]struct {
		profiles []v1alpha1.IsolationProfile
		spec     string
		want     string
		// cause of the first reason, which no user sees.
		cause string
	}{
		"refused": {
			profiles: []v1alpha1.IsolationProfile{profile("research", v1alpha1.LevelOpen, ruled("max-duration", `has(object.configuration.max_duration)`, "runs must set max_duration"))},
			want:     `runs must set max_duration (profile dstack/research, rule max-duration).`,
		},
		"hints": {
			profiles: []v1alpha1.IsolationProfile{profile("research", v1alpha1.LevelOpen, ruled("owner", `user == 'eve'`, "only Eve may. "), ruleHint("ask her."), hint("Ask #gpu."))},
			want:     `only Eve may: ask her (profile dstack/research, rule owner). Ask #gpu.`,
		},
		"beside a control, in order": {
			profiles: []v1alpha1.IsolationProfile{profile("research", v1alpha1.LevelBaseline, ruled("b", `false`, "über alles"), ruled("a", `false`, "second"))},
			spec:     task(`"privileged":true`),
			want: `privileged containers are not allowed in project "research-nlp": set privileged to false (profile dstack/research, control privileged). ` +
				`Über alles (profile dstack/research, rule b). Second (profile dstack/research, rule a).`,
		},
		"shared": {
			profiles: []v1alpha1.IsolationProfile{
				profile("a", v1alpha1.LevelOpen, ruled("r", `false`, "no")), profile("b", v1alpha1.LevelOpen, ruled("r", `false`, "no")),
				profile("c", v1alpha1.LevelOpen, ruled("r", `false`, "never")),
			},
			want: `no (profile dstack/a, profile dstack/b, rule r). Never (profile dstack/c, rule r).`,
		},
		"does not compile": {
			profiles: []v1alpha1.IsolationProfile{profile("research", v1alpha1.LevelOpen, ruled("fine", `true`, "no"), ruled("typo", `objct.x`, "no"))},
			want: `no run is allowed in project "research-nlp" until the profile is corrected: spec.rules[1].expression: ` +
				`the expression of rule typo does not compile, so every run of its projects is refused: ` +
				`line 1, column 1: undeclared reference to 'objct' (profile dstack/research, rule typo).`,
		},
		"kind of a later release": {
			profiles: []v1alpha1.IsolationProfile{profile("research", v1alpha1.LevelOpen, ruled("r", `true`, "no"), ofKind("Secret"))},
			want: `no run is allowed in project "research-nlp" until the profile is corrected: spec.rules[0].kind: ` +
				`kind "Secret" of rule r is not known to this release, so every object of its projects is refused: use Run, Fleet, Volume or Gateway (profile dstack/research, rule r).`,
		},
		"fails for want of a key": {
			profiles: []v1alpha1.IsolationProfile{profile("research", v1alpha1.LevelOpen,
				ruled("r", `object.configuration.priority > 1`, "runs need a priority"), ruleHint("set priority to 2 or more"))},
			want:  `runs need a priority: set priority to 2 or more (profile dstack/research, rule r).`,
			cause: `the object has no key priority there: test it first with has()`,
		},
		"fails for a value of another type": {
			profiles: []v1alpha1.IsolationProfile{profile("research", v1alpha1.LevelOpen,
				ruled("max-duration", `object.configuration.max_duration <= 3600`, "runs must end within an hour"), ruleHint("set max_duration to 1h or less"))},
			spec:  task(`"max_duration":null`),
			want:  `runs must end within an hour: set max_duration to 1h or less (profile dstack/research, rule max-duration).`,
			cause: `a value is of another type than an operator or function in it takes: test it first, as in != null`,
		},
		"costs too much": {
			profiles: []v1alpha1.IsolationProfile{profile("research", v1alpha1.LevelOpen,
				ruled("a", manyLoops, "no"), ruled("b", manyLoops, "no"), ruled("c", `true`, "no"))},
			want: `this run is too large for rule a and so not allowed in project "research-nlp": make it smaller, or ask the administrator to simplify the rule (profile dstack/research, rule a). ` +
				`This run is too large for rule b and so not allowed in project "research-nlp": make it smaller, or ask the administrator to simplify the rule (profile dstack/research, rule b). ` +
				`This run is too large for rule c and so not allowed in project "research-nlp": make it smaller, or ask the administrator to simplify the rule (profile dstack/research, rule c).`,
			cause: `it costs more than one evaluation may: look at less of the object, or write a rule for each part`,
		},
		"too large": {
			profiles: []v1alpha1.IsolationProfile{profile("research", v1alpha1.LevelOpen, ruled("r", `true`, "no"))},
			spec:     task(`"commands":["` + strings.Repeat("a", 70_000) + `"]`),
			want: `this run is not allowed in project "research-nlp", because rule r cannot be evaluated for it: ` +
				`the specification is larger than the 65536 bytes that rules can be asked about (profile dstack/research, rule r).`,
			cause: `the specification is larger than the 65536 bytes that rules can be asked about`,
		},
		"no words": {
			profiles: []v1alpha1.IsolationProfile{profile("research", v1alpha1.LevelOpen, ruled("r", `false`, "."))},
			want:     `rule r does not allow this (profile dstack/research, rule r).`,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if tc.spec == "" {
				tc.spec = task("")
			}
			d := decide(t, tc.spec, tc.profiles...)
			if want := tc.want + " [isolation rev=" + d.Revision + "]"; d.Message != want {
				t.Errorf("got:\n%s\nwant:\n%s", d.Message, want)
			}
			if got := d.Reasons[0].Cause; got != tc.cause {
				t.Errorf("cause: got %q, want %q", got, tc.cause)
			}
			checkConsistent(t, d)
		})
	}
}

func TestRulesAreOfOneKind(t *testing.T) {
	eff := effective(profile("research", v1alpha1.LevelOpen,
		ruled("run", `false`, "no"), ruled("fleet", `false`, "no"), ofKind(v1alpha1.RuleKindFleet), ruled("volume", `false`, "no"), ofKind(v1alpha1.RuleKindVolume),
		ruled("gateway", `1 +`, "no"), ofKind(v1alpha1.RuleKindGateway)))
	for _, kind := range dstack.ApplyKinds() {
		req := runRequest(task(""))
		req.Kind = kind
		d := policy.Decide(eff, policy.Running{}, req, noon)
		if diff := cmp.Diff([]string{"rules/" + string(kind)}, controlsOf(slices.DeleteFunc(d.Reasons, func(r policy.Reason) bool { return r.Control == policy.ControlSpec }))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", kind, diff)
		}
		req.Project = "other"
		if d := policy.Decide(eff, policy.Running{}, req, noon); slices.ContainsFunc(d.Reasons, func(r policy.Reason) bool { return r.Control != policy.ControlSpec }) {
			t.Errorf("%s in another project: %s", kind, d.Message)
		}
	}
}

// TestRulesInAudit are counted, and change nothing that is refused: not by what
// they cost either.
func TestRulesInAudit(t *testing.T) {
	watching := profile("a-watching", v1alpha1.LevelOpen, audit,
		ruled("cost-1", manyLoops, "no"), ruled("cost-2", manyLoops, "no"), ruled("same", `false`, "no"), ruled("typo", `1 +`, "no"), ruled("fine", `true`, "no"))
	alone := decide(t, task(""), watching)
	if !alone.Allowed {
		t.Errorf("a profile in audit mode refuses: %s", alone.Message)
	}
	want := []string{"rules/cost-1", "rules/cost-2", "rules/same", "rules/typo", "rules/fine"}
	if diff := cmp.Diff(want, controlsOf(alone.Audited)); diff != "" {
		t.Errorf("audited (-want +got):\n%s", diff)
	}
	if got, want := alone.Audited[3].Message, "so every run of its projects counts as refused: line 1, column 4: Syntax error"; !strings.Contains(got, want) {
		t.Errorf("got %s, want %s", got, want)
	}
	beside := decide(t, task(""), watching, profile("b", v1alpha1.LevelOpen, ruled("same", `false`, "no"), ruled("mine", `true`, "no")))
	if diff := cmp.Diff([]string{"rules/same"}, controlsOf(beside.Reasons)); diff != "" {
		t.Errorf("refused (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"rules/cost-1", "rules/cost-2", "rules/typo", "rules/fine"}, controlsOf(beside.Audited)); diff != "" {
		t.Errorf("audited beside (-want +got):\n%s", diff)
	}
}

func TestExceptionsDoNotLiftRules(t *testing.T) {
	p := profile("research", v1alpha1.LevelBaseline, ruled("r", `object.configuration.privileged != true`, "no"), exception("x", time.Time{}, v1alpha1.ControlPrivileged))
	d := decide(t, task(`"privileged":true`), p)
	if diff := cmp.Diff([]string{"rules/r"}, controlsOf(d.Reasons)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"research/x"}, d.Lifted); diff != "" {
		t.Errorf("lifted (-want +got):\n%s", diff)
	}
}

// TestRulesOfWhatCannotBeRead: nothing in it can be judged, so the shape alone
// is told.
func TestRulesOfWhatCannotBeRead(t *testing.T) {
	d := decide(t, `{"configuration":{"type":"task","type":"service"}}`, profile("research", v1alpha1.LevelOpen, ruled("r", `true`, "no")))
	if diff := cmp.Diff([]string{policy.ControlSpec}, controlsOf(d.Reasons)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

var drawnExpressions = []string{
	`true`, `false`, `user == 'ada'`, `has(object.configuration.nodes)`, `object.configuration.privileged == true`,
	`object.configuration.nodes > 1`, `object.configuration.env.exists(k, k == 'docker')`, `objct`, `1`, manyLoops,
	`object.configuration.volumes.all(v, has(v.name))`, `has(object.ssh_key_pub) && object.ssh_key_pub == null`,
}

func drawRules(t *rapid.T, s *spec) {
	for i := range rapid.IntRange(0, 4).Draw(t, "rules") {
		ruled(fmt.Sprintf("r%d", i), rapid.SampledFrom(drawnExpressions).Draw(t, "expression"), "no")(s)
		ofKind(rapid.SampledFrom([]v1alpha1.RuleKind{"Run", "Run", "Run", "Fleet", "Later"}).Draw(t, "kind"))(s)
	}
}

// TestRulesOnlyTighten: a rule more, in any profile that governs the project,
// takes no reason away, and allows nothing that was refused.
func TestRulesOnlyTighten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		run := drawRun(t)
		profiles := []v1alpha1.IsolationProfile{drawProfile(t, "a"), drawProfile(t, "b")}
		drawRules(t, &profiles[0].Spec)
		drawRules(t, &profiles[1].Spec)
		before := policy.Decide(effective(profiles...), policy.Running{}, runRequest(run.spec), noon)

		more := []v1alpha1.IsolationProfile{*profiles[0].DeepCopy(), *profiles[1].DeepCopy()}
		s := &more[rapid.IntRange(0, 1).Draw(t, "profile")].Spec
		ruled("more", rapid.SampledFrom(drawnExpressions).Draw(t, "added"), "no")(s)
		if rapid.Bool().Draw(t, "first") {
			last := len(s.Rules) - 1
			s.Rules = append([]v1alpha1.Rule{s.Rules[last]}, s.Rules[:last]...)
		}
		after := policy.Decide(effective(more...), policy.Running{}, runRequest(run.spec), noon)
		if after.Allowed && !before.Allowed {
			t.Fatalf("allowed by a rule more: %s", before.Message)
		}
		left := fields(after.Reasons)
		for _, reason := range fields(before.Reasons) {
			if !slices.Contains(left, reason) {
				t.Fatalf("%s is not refused any more", reason)
			}
		}
		if s.Enforcement == v1alpha1.EnforcementAudit && after.Message != strings.ReplaceAll(before.Message, before.Revision, after.Revision) {
			t.Fatalf("an audited rule changed %s to %s", before.Message, after.Message)
		}
	})
}

// TestRulesFollowTheModel: what a rule says of a run is what the decision says,
// whatever else the profile denies.
func TestRulesFollowTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		run := drawRun(t)
		rules := map[string]bool{
			`object.configuration.type == 'task'`:                                           strings.Contains(run.spec, `"type":"task"`),
			`object.configuration.?volumes.orValue([]).all(v, !has(v.instance_path))`:       !strings.Contains(run.spec, `instance_path`),
			`object.configuration.?privileged.orValue(null) != true`:                        !privilegedAtTop(t, run.spec),
			`[1].all(x, object.run_name == null) && user == 'ada' && project != 'research'`: true,
		}
		var change []func(*spec)
		want := []string{}
		for i, text := range slices.Sorted(maps.Keys(rules)) {
			name := fmt.Sprintf("r%d", i)
			change = append(change, ruled(name, text, "no"))
			if !rules[text] {
				want = append(want, "rules/"+name)
			}
		}
		p := drawProfile(t, "p")
		for _, c := range change {
			c(&p.Spec)
		}
		d := policy.Decide(effective(p), policy.Running{}, runRequest(run.spec), noon)
		reasons := d.Reasons
		if p.Spec.Enforcement == v1alpha1.EnforcementAudit {
			reasons = d.Audited
		}
		got := slices.DeleteFunc(controlsOf(reasons), func(c string) bool { return !strings.HasPrefix(c, policy.ControlRules) })
		if diff := cmp.Diff(want, append([]string{}, got...)); diff != "" {
			t.Fatalf("%s (-want +got):\n%s", run.spec, diff)
		}
	})
}

func privilegedAtTop(t *rapid.T, text string) bool {
	var body struct{ Configuration struct{ Privileged any } }
	if err := json.Unmarshal([]byte(text), &body); err != nil {
		t.Fatal(err)
	}
	return body.Configuration.Privileged == true
}

// TestManyRules: as many as one project can have are decided in bounded time,
// and asked once where they say the same.
func TestManyRules(t *testing.T) {
	var profiles []v1alpha1.IsolationProfile
	for i := range 100 {
		p := profile(fmt.Sprintf("p%03d", i), v1alpha1.LevelOpen)
		for j := range 32 {
			ruled(fmt.Sprintf("r%d", j), fmt.Sprintf(`object.configuration.nodes != %d`, j+2), "no")(&p.Spec)
		}
		profiles = append(profiles, p)
	}
	d := policy.Decide(effective(profiles...), policy.Running{NetworkMode: 3}, runRequest(task(`"nodes":3`)), noon)
	if diff := cmp.Diff([]string{"rules/r1"}, controlsOf(d.Reasons)); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
	if len(d.Reasons[0].Profiles) != 100 {
		t.Errorf("asked for by %d profiles", len(d.Reasons[0].Profiles))
	}
}
