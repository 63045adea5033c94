package contract_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
)

// recorder stands between a dstack server and its policy server, passes on what
// comes, and keeps what was asked and answered.
type recorder struct {
	server *httptest.Server
	target string

	mu        sync.Mutex
	exchanges []exchange
	// change makes another answer of the policy server's; nil for none.
	change func(answer []byte) []byte
}

// exchange is a question of dstack's plugin and the policy server's answer.
type exchange struct {
	path         string
	body, answer []byte
}

func newRecorder(target string) *recorder {
	r := &recorder{target: target}
	r.server = httptest.NewServer(r)
	return r
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	status, asked, err := r.pass(request)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	if request.Method == http.MethodPost { // not of the init container, which asks whether it is ready
		r.mu.Lock()
		r.exchanges = append(r.exchanges, asked)
		r.mu.Unlock()
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(asked.answer)
}

func (r *recorder) pass(request *http.Request) (status int, asked exchange, err error) {
	asked.path = request.URL.Path
	if asked.body, err = io.ReadAll(request.Body); err != nil {
		return 0, asked, err
	}
	onward, err := http.NewRequestWithContext(request.Context(), request.Method, r.target+asked.path, bytes.NewReader(asked.body))
	if err != nil {
		return 0, asked, err
	}
	onward.Header = request.Header.Clone()
	response, err := direct.Do(onward)
	if err != nil {
		return 0, asked, err
	}
	defer response.Body.Close()
	asked.answer, err = io.ReadAll(response.Body)
	if change := r.changing(); change != nil {
		asked.answer = change(asked.answer)
	}
	return response.StatusCode, asked, err
}

// answerBy changes the answers from now on; nil leaves them as they are.
func (r *recorder) answerBy(change func(answer []byte) []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.change = change
}

func (r *recorder) changing() func([]byte) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.change
}

func (r *recorder) size() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.exchanges)
}

// recorded is what was asked after the first exchanges.
func (r *recorder) recorded(after int) []exchange {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.exchanges[after:])
}
