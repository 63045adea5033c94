package policyserver

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"
)

// BenchmarkServeRun compares a decision on a real run, over a loopback
// connection, with a bare handler that reads the body and sends it back. Client
// and server share the process, so that the ratio of the whole is smaller than
// that of the servers alone; "handler" below has no network at all.
func BenchmarkServeRun(b *testing.B) {
	body := []byte(plainTask(b))
	token := writeToken(b, benchToken)
	for _, connection := range []struct {
		name      string
		keptAlive bool
	}{{"kept-alive", true}, {"new-connections", false}} {
		b.Run(connection.name, func(b *testing.B) {
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: !connection.keptAlive}}
			defer client.CloseIdleConnections()
			s := newHandler(b, restricted(), Options{Log: quiet(), TokenFile: token})
			decide := listen(b, s.httpServer(s.decisionHandler()), s.places.listen)
			echo := listen(b, &http.Server{Handler: http.HandlerFunc(bareEcho), ReadHeaderTimeout: time.Second},
				func(l net.Listener) net.Listener { return l })
			// In turns, so that a busy machine slows both alike.
			var took, cpu [2]time.Duration
			for b.Loop() {
				for i, url := range []string{echo, decide} {
					start, used := time.Now(), processTime(b)
					send(b, client, url+runPath, body)
					took[i] += time.Since(start)
					cpu[i] += processTime(b) - used
				}
			}
			n := float64(b.N)
			b.ReportMetric(0, "ns/op") // of both together: says nothing
			b.ReportMetric(float64(took[0].Nanoseconds())/n, "echo-ns")
			b.ReportMetric(float64(took[1].Nanoseconds())/n, "decision-ns")
			b.ReportMetric(float64(took[1])/float64(took[0]), "time-ratio")
			b.ReportMetric(float64(cpu[1])/float64(cpu[0]), "cpu-ratio")
		})
	}
}

// BenchmarkHandler is the same without a network.
func BenchmarkHandler(b *testing.B) {
	body := plainTask(b)
	s := newHandler(b, restricted(), Options{Log: quiet()})
	b.ReportAllocs()
	for b.Loop() {
		if w := s.post(runPath, body); w.Code != http.StatusOK {
			b.Fatal(w.Body)
		}
	}
}

// quiet is the log as it is by default: enabled, but not for what is allowed.
func quiet() logr.Logger {
	return logr.FromSlogHandler(slog.NewJSONHandler(io.Discard, nil))
}

func bareEcho(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, "", http.StatusBadRequest)
		return
	}
	_, _ = w.Write(body)
}

// benchToken lets connections be kept.
const benchToken = "token-of-the-benchmark"

func listen(b *testing.B, server *http.Server, on func(net.Listener) net.Listener) string {
	b.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	go func() { _ = server.Serve(on(listener)); close(done) }()
	b.Cleanup(func() { server.Close(); <-done })
	return "http://" + listener.Addr().String()
}

func send(b *testing.B, client *http.Client, url string, body []byte) {
	b.Helper()
	request, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", "Bearer "+benchToken)
	response, err := client.Do(request)
	if err != nil {
		b.Fatal(err)
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil || response.StatusCode != http.StatusOK {
		b.Fatal(response.Status, err)
	}
}

// processTime is the CPU time that the process has used.
func processTime(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
