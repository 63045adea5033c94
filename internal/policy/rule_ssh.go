package policy

import (
	"fmt"
	"slices"
	"strings"
	"unicode"

	"golang.org/x/crypto/ssh"

	"github.com/dstack-isolation/operator/internal/isolation"
)

// keyTypes are the types of plain public keys; no certificates, which
// authorized_keys takes for something else.
var keyTypes = []string{
	ssh.KeyAlgoED25519, ssh.KeyAlgoRSA, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
	ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256,
}

// hostSSH refuses a public key that could be more than one key: dstack takes away only
// the first when the run ends. That nobody logs in with the key itself is up to dstack's
// SSH proxy. No key at all is harmless: dstack then takes the user's own, which it made.
func hostSSH(v isolation.Value, s *subject) []finding {
	if v.Mode == isolation.ModeAllowed || s.run.sshKey == nil {
		return nil
	}
	wrong, remedy := wrongWithKey(*s.run.sshKey)
	if wrong == "" {
		return nil
	}
	return []finding{{"ssh_key_pub", fmt.Sprintf(
		"the public SSH key of this run is not allowed in project %s, because it %s: %s", s.project, wrong, remedy)}}
}

// wrongWithKey says what is wrong with a public key and what to do about it,
// never quoting it.
func wrongWithKey(key string) (wrong, remedy string) {
	const (
		file    = "its .pub file"
		another = ", or use another key by --ssh-identity"
	)
	// Files with public keys end with a newline, on Windows with two characters.
	// dstack takes both away before it uses the key.
	key = strings.TrimSuffix(strings.TrimSuffix(key, "\n"), "\r")
	if strings.ContainsAny(key, "\n\r") {
		return "has more than one line", "keep one line, with one key, in " + file + another
	}
	keyType, _, _ := strings.Cut(key, " ")
	if !slices.Contains(keyTypes, keyType) {
		return "does not begin with a known type of key such as " + ssh.KeyAlgoED25519,
			"remove options and whatever else is before the type in " + file + another
	}
	parsed, _, _, _, err := ssh.ParseAuthorizedKey([]byte(key))
	if err != nil {
		return "cannot be read as a public key", "make a key with ssh-keygen -t ed25519 and use it by --ssh-identity"
	}
	// What is read must be all there is but a comment.
	canonical := strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(parsed)), "\n")
	comment, found := strings.CutPrefix(key, canonical)
	switch {
	case !found || comment != "" && comment[0] != ' ':
		return "is not written in the usual form", "write " + file + " as TYPE KEY COMMENT, with one space between them" + another
	case strings.ContainsFunc(comment, isHarmfulInComment):
		return "has a comment with a single quote, a backslash, a backtick, a dollar sign or an invisible character",
			"remove the comment from " + file
	}
	return "", ""
}

// isHarmfulInComment tells whether a character may be more than text in one of the places
// where dstack puts keys. All else is plain text in each of them.
func isHarmfulInComment(r rune) bool {
	return !unicode.IsPrint(r) || strings.ContainsRune("'\\`$", r)
}
