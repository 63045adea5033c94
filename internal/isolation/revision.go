package isolation

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"time"
)

// digestVersion changes whenever the meaning of what is digested changes, so
// that builds which decide differently never share a revision.
const digestVersion = "v2"

// revision digests all that decisions depend on, in a fixed order, each part
// with its length so that no two inputs run together.
func revision(e *Effective) string {
	h := sha256.New()
	write(h, digestVersion, e.Namespace, e.Name)
	for _, p := range e.Profiles {
		p.digest(h)
	}
	e.Unmatched.digest(h)
	return hex.EncodeToString(h.Sum(nil))[:8]
}

func (p *Profile) digest(h hash.Hash) {
	write(h, "profile", p.Ref, fmt.Sprint(p.Enforce), p.Hint)
	write(h, append([]string{"include"}, p.selector.include...)...)
	write(h, append([]string{"exclude"}, p.selector.exclude...)...)
	for _, c := range AllControls() {
		write(h, string(c.Name()), p.Values[c].Mode)
		write(h, append([]string{"list"}, p.Values[c].List...)...)
	}
	for _, x := range p.exceptions {
		write(h, "exception", x.name, x.expiresAt.UTC().Format(time.RFC3339), fmt.Sprint(x.controls))
		write(h, append([]string{"users"}, x.users...)...)
	}
	for i := range p.rules {
		write(h, p.rules[i].digested...)
	}
}

func write(h hash.Hash, parts ...string) {
	for _, s := range parts {
		fmt.Fprintf(h, "%d:%s", len(s), s)
	}
	h.Write([]byte{'\n'})
}
