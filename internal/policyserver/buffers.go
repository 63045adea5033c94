package policyserver

import (
	"slices"
	"sync"
)

// maxPooled is the largest buffer that is kept. Real specifications have 2 to
// 20 kB.
const maxPooled = 64 << 10

// buffers are the memory of one exchange: the body and its answer. They are
// used again, so that requests leave little to collect.
type buffers struct{ body, answer []byte }

var bufferPool = sync.Pool{New: func() any { return new(buffers) }}

func getBuffers() *buffers { return bufferPool.Get().(*buffers) }

// forBody is memory for a body of n bytes.
func (b *buffers) forBody(n int) []byte {
	b.body = slices.Grow(b.body[:0], n)[:n]
	return b.body
}

// release gives the buffers back; nothing may use what is in them any more.
// Bodies hold secrets: none is kept.
func (b *buffers) release() {
	if cap(b.body) > maxPooled || cap(b.answer) > maxPooled {
		return
	}
	clear(b.body)
	clear(b.answer)
	b.body, b.answer = b.body[:0], b.answer[:0]
	bufferPool.Put(b)
}
