//go:build !race

package policy_test

// raceEnabled tells whether the race detector looks on.
const raceEnabled = false
