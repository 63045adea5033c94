//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// connections is how many questions are asked at one time.
const connections = 4

// manner is how questions are asked.
type manner struct {
	name      string
	keptAlive bool
}

// As dstack's built-in rest_plugin asks, and as the operator's Python plugin
// does.
var manners = []manner{{"a new connection each", false}, {"kept-alive connections", true}}

func (m manner) request(q *question) [2][]byte {
	if m.keptAlive {
		return q.plugin
	}
	return q.rest
}

// asker asks one question after the other.
type asker struct {
	address string
	manner  manner
	// echo is true for a server that decides nothing.
	echo bool

	conn   net.Conn
	reader *bufio.Reader
	answer bytes.Buffer
}

// ask asks one question and holds the answer against what it should be.
func (a *asker) ask(q *question) error {
	if err := a.exchange(a.manner.request(q)); err != nil {
		a.hangUp()
		return fmt.Errorf("ask %s: %w", q.name, err)
	}
	if a.echo {
		return nil
	}
	if refused := !bytes.HasSuffix(a.answer.Bytes(), []byte(`"error":null}`)); refused != q.refused {
		return fmt.Errorf("%s: refused is %v and should be %v", q.name, refused, q.refused)
	}
	return nil
}

func (a *asker) exchange(request [2][]byte) error {
	if a.conn == nil {
		conn, err := net.Dial("tcp", a.address)
		if err != nil {
			return err
		}
		a.conn = conn
		if a.reader == nil {
			a.reader = bufio.NewReader(conn)
		} else {
			a.reader.Reset(conn)
		}
	}
	for _, part := range request {
		if _, err := a.conn.Write(part); err != nil {
			return err
		}
	}
	response, err := http.ReadResponse(a.reader, nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	a.answer.Reset()
	if _, err := io.Copy(&a.answer, response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("got %s: %.200s", response.Status, a.answer.String())
	}
	if !a.manner.keptAlive {
		a.hangUp()
	}
	return nil
}

func (a *asker) hangUp() {
	if a.conn != nil {
		a.conn.Close()
		a.conn = nil
	}
}

// latencies of requests.
type latencies []time.Duration

func (l latencies) quantile(q float64) time.Duration {
	if len(l) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(l))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// saturate asks as fast as the connections allow.
func saturate(address string, m manner, echo bool, mix []question, during time.Duration) (latencies, error) {
	ctx, cancel := context.WithTimeout(context.Background(), during)
	defer cancel()
	var next atomic.Int64
	return together(func() (latencies, error) {
		a := asker{address: address, manner: m, echo: echo}
		defer a.hangUp()
		var all latencies
		for ctx.Err() == nil {
			q := &mix[int(next.Add(1)-1)%len(mix)]
			began := time.Now()
			if err := a.ask(q); err != nil {
				return nil, err
			}
			all = append(all, time.Since(began))
		}
		return all, nil
	})
}

// pace asks perSecond times a second, whether answers come or not: a question
// that waits for a connection has begun.
func pace(address string, m manner, echo bool, mix []question, during time.Duration) (latencies, error) {
	n := int(during.Seconds() * perSecond)
	due := make(chan time.Time, n)
	go func() {
		defer close(due)
		ticker := time.NewTicker(time.Second / perSecond)
		defer ticker.Stop()
		for range n {
			<-ticker.C
			due <- time.Now()
		}
	}()
	var next atomic.Int64
	return together(func() (latencies, error) {
		a := asker{address: address, manner: m, echo: echo}
		defer a.hangUp()
		var all latencies
		for began := range due {
			if err := a.ask(&mix[int(next.Add(1)-1)%len(mix)]); err != nil {
				return nil, err
			}
			all = append(all, time.Since(began))
		}
		return all, nil
	})
}

// together runs work once a connection.
func together(work func() (latencies, error)) (latencies, error) {
	var (
		mu     sync.Mutex
		wait   sync.WaitGroup
		all    latencies
		failed error
	)
	for range connections {
		wait.Go(func() {
			some, err := work()
			mu.Lock()
			defer mu.Unlock()
			all, failed = append(all, some...), errors.Join(failed, err)
		})
	}
	wait.Wait()
	return all, failed
}
