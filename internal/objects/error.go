package objects

import (
	"fmt"
	"strings"
)

// Error is one thing that is wrong with one document of one file. Several of
// them come joined: errors.Join.
type Error struct {
	// File is the file's name in the folder.
	File string
	// Document counts the file's documents from 1; empty ones count. 0 when the
	// whole file cannot be read.
	Document int
	// Item counts the items of a List from 1; 0 outside of a List.
	Item int
	// Object is "KIND NAME" as far as it is known.
	Object string
	// Field is the path of the field, such as spec.projects.include[0]; empty when
	// it is about the whole object.
	Field string
	// Reason says what is wrong.
	Reason string
}

// Error names file, document, object and field, as far as each is known.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Document > 0 {
		fmt.Fprintf(&b, ", document %d", e.Document)
	}
	if e.Item > 0 {
		fmt.Fprintf(&b, ", item %d", e.Item)
	}
	if e.Object != "" {
		b.WriteString(", " + e.Object)
	}
	b.WriteString(": ")
	if e.Field != "" {
		b.WriteString(e.Field + ": ")
	}
	b.WriteString(e.Reason)
	return b.String()
}

// place is where in a folder something stands.
type place struct {
	file           string
	document, item int
	object         string
}

func (p place) errorf(field, format string, args ...any) *Error {
	return &Error{
		File: p.file, Document: p.document, Item: p.item, Object: p.object,
		Field: field, Reason: fmt.Sprintf(format, args...),
	}
}
