package status

import (
	"fmt"
	"strings"
)

// mostHolders is how many pods a message names.
const mostHolders = 3

// EarlierTokens says of how many earlier tokens, and because of which pods, the policy
// servers accept more than the current one; "" when they do not. template names the
// workload whose pod template has an earlier one; "" for none.
func EarlierTokens(tokens int, pods []string, template string) string {
	if tokens == 0 {
		return ""
	}
	var holders []string
	for _, name := range pods[:min(len(pods), mostHolders)] {
		holders = append(holders, "pod "+name)
	}
	switch more := len(pods) - mostHolders; {
	case more == 1:
		holders = append(holders, "1 more pod")
	case more > 1:
		holders = append(holders, fmt.Sprintf("%d more pods", more))
	}
	if template != "" {
		holders = append(holders, "the pod template of "+template)
	}
	count := "1 earlier token"
	if tokens > 1 {
		count = fmt.Sprintf("%d earlier tokens", tokens)
	}
	return fmt.Sprintf("the policy servers also accept %s until the following have the current one: %s", count, strings.Join(holders, ", "))
}
