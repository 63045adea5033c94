package status_test

import (
	"testing"

	"github.com/dstack-isolation/operator/internal/status"
)

func TestEarlierTokens(t *testing.T) {
	for name, tc := range map[string]struct {
		tokens   int
		pods     []string
		template string
		want     string
	}{
		"none": {},
		"of one pod": {
			tokens: 1, pods: []string{"dstack-0"},
			want: "the policy servers also accept 1 earlier token until the following have the current one: pod dstack-0",
		},
		"of the template alone": {
			tokens: 1, template: "StatefulSet dstack/dstack",
			want: "the policy servers also accept 1 earlier token until the following have the current one: the pod template of StatefulSet dstack/dstack",
		},
		"of one pod more than are named": {
			tokens: 2, pods: []string{"a", "b", "c", "d"}, template: "StatefulSet dstack/dstack",
			want: "the policy servers also accept 2 earlier tokens until the following have the current one: pod a, pod b, pod c, 1 more pod, the pod template of StatefulSet dstack/dstack",
		},
		"of many pods": {
			tokens: 2, pods: []string{"a", "b", "c", "d", "e"},
			want: "the policy servers also accept 2 earlier tokens until the following have the current one: pod a, pod b, pod c, 2 more pods",
		},
	} {
		if got := status.EarlierTokens(tc.tokens, tc.pods, tc.template); got != tc.want {
			t.Errorf("%s: got %q, want %q", name, got, tc.want)
		}
	}
}
