// Command opa is a plugin service for dstack that asks Open Policy Agent, as a
// library and with a prepared query: the least that OPA can cost. It sends the
// specification back as the bytes that came.
package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
)

//go:embed policy.rego
var policy string

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: opa ADDRESS")
		os.Exit(2)
	}
	if err := serve(context.Background(), os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "opa: "+err.Error())
		os.Exit(1)
	}
}

func serve(ctx context.Context, address string) error {
	query, err := rego.New(rego.Query("deny := data.isolation.deny"), rego.Module("policy.rego", policy)).PrepareForEval(ctx)
	if err != nil {
		return fmt.Errorf("prepare the policy: %w", err)
	}
	server := &http.Server{Addr: address, Handler: handler{query}, ReadHeaderTimeout: time.Second}
	return server.ListenAndServe()
}

type handler struct{ query rego.PreparedEvalQuery }

type request struct {
	User    string          `json:"user"`
	Project string          `json:"project"`
	Spec    json.RawMessage `json:"spec"`
}

func (h handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, "body ended early", http.StatusBadRequest)
		return
	}
	answer, err := h.decide(r.Context(), body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(answer)
}

func (h handler) decide(ctx context.Context, body []byte) ([]byte, error) {
	var req request
	if err := json.Unmarshal(body, &req); err != nil {
		return nil, errors.New("the body is not a request")
	}
	var spec any
	if err := json.Unmarshal(req.Spec, &spec); err != nil {
		return nil, errors.New("the body is not a request")
	}
	// Parsed here, because EvalInput would encode and decode it once more.
	input, err := ast.InterfaceToValue(map[string]any{"project": req.Project, "spec": spec})
	if err != nil {
		return nil, errors.New("the body is not a request")
	}
	results, err := h.query.Eval(ctx, rego.EvalParsedInput(input))
	if err != nil || len(results) != 1 {
		return nil, errors.New("the policy has no answer")
	}
	denied, isList := results[0].Bindings["deny"].([]any)
	if !isList {
		return nil, errors.New("the policy has no answer")
	}
	reason := []byte("null")
	if len(denied) > 0 {
		messages := make([]string, len(denied))
		for i, message := range denied {
			messages[i] = fmt.Sprint(message)
		}
		if reason, err = json.Marshal(strings.Join(messages, ". ")); err != nil {
			return nil, fmt.Errorf("encode the refusal: %w", err)
		}
	}
	return slices.Concat([]byte(`{"spec":`), req.Spec, []byte(`,"error":`), reason, []byte("}")), nil
}
