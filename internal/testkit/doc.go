// Package testkit holds what the tests of several packages share: builders of
// objects, and a real API server. Only tests import it.
package testkit
