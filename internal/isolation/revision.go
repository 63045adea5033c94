package isolation

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"time"
)

// digestVersion changes whenever the meaning of what is digested changes, so
// that builds which decide differently never share a revision.
const digestVersion = "v3"

// revision digests all that decisions depend on: the digests of all profiles in
// a fixed order.
func revision(e *Effective) string {
	h := sha256.New()
	h.Write(write(nil, digestVersion, e.Namespace, e.Name))
	for _, p := range e.Profiles {
		h.Write(p.sum[:])
	}
	h.Write(e.Unmatched.sum[:])
	return hex.EncodeToString(h.Sum(nil))[:8]
}

// digest is made of all of the profile that decisions depend on, each part with
// its length so that no two profiles run together.
func (p *Profile) digest() [sha256.Size]byte {
	text := write(nil, "profile", p.Ref, strconv.FormatBool(p.Enforce), p.Hint)
	text = writeList(text, "include", p.selector.include)
	text = writeList(text, "exclude", p.selector.exclude)
	for c := range ControlCount {
		text = write(text, string(c.Name()), p.Values[c].Mode)
		text = writeList(text, "list", p.Values[c].List)
	}
	for i := range p.exceptions {
		x := &p.exceptions[i]
		text = write(text, "exception", x.name, x.expiresAt.UTC().Format(time.RFC3339), liftedText(&x.controls))
		text = writeList(text, "users", x.users)
	}
	for i := range p.rules {
		text = write(text, p.rules[i].digested...)
	}
	return sha256.Sum256(text)
}

// liftedText is a word for each control, in order: whether it is lifted.
func liftedText(controls *[ControlCount]bool) string {
	text := make([]byte, 0, 8*ControlCount)
	for _, lifted := range controls {
		text = strconv.AppendBool(append(text, ' '), lifted)
	}
	text[0] = '['
	return string(append(text, ']'))
}

// writeList appends a list after the word that says what it is of.
func writeList(text []byte, what string, list []string) []byte {
	text = writeParts(text, what)
	return append(writeParts(text, list...), '\n')
}

// write appends parts, each with its length.
func write(text []byte, parts ...string) []byte {
	return append(writeParts(text, parts...), '\n')
}

func writeParts(text []byte, parts ...string) []byte {
	for _, s := range parts {
		text = strconv.AppendInt(text, int64(len(s)), 10)
		text = append(text, ':')
		text = append(text, s...)
	}
	return text
}
