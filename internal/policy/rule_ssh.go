package policy

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/dstack-isolation/operator/internal/isolation"
)

// keyTypes are the types of plain public keys; no certificates, which
// authorized_keys takes for something else.
var keyTypes = []string{
	ssh.KeyAlgoED25519, ssh.KeyAlgoRSA, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
	ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256,
}

// hostSSH refuses a public key that could be more than one key. dstack appends
// ssh_key_pub unread to authorized_keys of the host, takes away only the first
// key when the run ends, and puts it between single quotes into shell commands.
// That nobody logs in with the key itself is up to dstack's SSH proxy. No key
// at all is harmless: dstack then takes the user's own, which it made.
func hostSSH(v isolation.Value, s *subject) []finding {
	if v.Mode == isolation.ModeAllowed || s.run.sshKey == nil {
		return nil
	}
	wrong := wrongWithKey(*s.run.sshKey)
	if wrong == "" {
		return nil
	}
	return []finding{{"ssh_key_pub", fmt.Sprintf(
		"the public SSH key of this run is not allowed in project %s, because it %s: send one public key on one line, without options", s.project, wrong)}}
}

// wrongWithKey says what is wrong with a public key, never quoting it.
func wrongWithKey(key string) string {
	// Files with public keys end with a newline, and so does what dstack's client
	// reads from them and what the server makes.
	key = strings.TrimSuffix(key, "\n")
	if strings.ContainsAny(key, "\n\r") {
		return "has more than one line"
	}
	keyType, _, _ := strings.Cut(key, " ")
	if !slices.Contains(keyTypes, keyType) {
		return "does not begin with a known type of key such as " + ssh.KeyAlgoED25519
	}
	parsed, _, _, _, err := ssh.ParseAuthorizedKey([]byte(key))
	if err != nil {
		return "cannot be read as a public key"
	}
	// What is read must be all there is but a comment.
	canonical := strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(parsed)), "\n")
	comment, found := strings.CutPrefix(key, canonical)
	switch {
	case !found || comment != "" && comment[0] != ' ':
		return "is not written in the usual form"
	case strings.ContainsFunc(comment, isUnusualInComment):
		return "has a comment with other characters than letters, digits, spaces and @ . _ - + : = , /"
	}
	return ""
}

func isUnusualInComment(r rune) bool {
	isPlain := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
	return !isPlain && !strings.ContainsRune(" @._-+:=,/", r)
}
