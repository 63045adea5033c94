//go:build race

package policyserver

// raceEnabled tells whether the race detector is compiled in.
const raceEnabled = true
