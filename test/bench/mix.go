//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// released is the release of dstack whose captured bodies are sent.
const released = "0.22.5"

// denied are the controls of the profile that every server decides by.
var denied = []string{"hostSSH", "privileged", "instanceVolumes", "distributedTasks"}

// captured is a body that a real dstack server sent, as internal/policy keeps
// it.
type captured struct {
	Name    string          `json:"name"`
	Path    string          `json:"path"`
	Request json.RawMessage `json:"request"`
	// DeniedBy are, per level, the controls that refuse it.
	DeniedBy map[string][]string `json:"denied_by"`
}

// question is one request and whether it is to be refused.
type question struct {
	name    string
	refused bool
	// rest is the request as dstack's built-in rest_plugin sends it, plugin as the
	// operator's Python plugin does; each the head and then the body, as Python's
	// http.client writes them.
	rest, plugin [2][]byte
}

// readMix makes the sequence of questions: every captured run, of which those
// that are refused are one in four.
func readMix(dir, project string) ([]question, error) {
	files, err := filepath.Glob(filepath.Join(dir, released, "*.json"))
	if err != nil {
		return nil, err
	}
	slices.Sort(files)
	var allowed, refused []question
	for _, file := range files {
		q, isRun, err := readQuestion(file, project)
		switch {
		case err != nil:
			return nil, fmt.Errorf("read %s: %w", file, err)
		case !isRun:
		case q.refused:
			refused = append(refused, q)
		default:
			allowed = append(allowed, q)
		}
	}
	if len(allowed) == 0 || len(refused) == 0 {
		return nil, fmt.Errorf("%s holds no runs of both kinds of dstack %s", dir, released)
	}
	var mix []question
	for i := range refused {
		for j := range 3 {
			mix = append(mix, allowed[(3*i+j)%len(allowed)])
		}
		mix = append(mix, refused[i])
	}
	return mix, nil
}

func readQuestion(file, project string) (q question, isRun bool, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return q, false, err
	}
	var c captured
	if err := json.Unmarshal(data, &c); err != nil {
		return q, false, err
	}
	if c.Path != runPath {
		return q, false, nil
	}
	q.name = c.Name
	for _, control := range c.DeniedBy["Restricted"] {
		q.refused = q.refused || slices.Contains(denied, control)
	}
	var body bytes.Buffer
	if err := json.Compact(&body, c.Request); err != nil {
		return q, false, err
	}
	// The case's own project, once, before the specification.
	text := strings.Replace(body.String(), `"project":"research-nlp"`, `"project":"`+project+`"`, 1)
	whole, isObject := strings.CutSuffix(text, "}")
	if !isObject {
		return q, false, errors.New("the request is not an object")
	}
	q.rest = [2][]byte{head(restHeaders, spaced(text)), spaced(text)}
	attested := []byte(whole + attestation + "}")
	q.plugin = [2][]byte{head(pluginHeaders, attested), attested}
	return q, true, nil
}

const (
	runPath = "/apply_policies/on_run_apply"

	// benchToken is what the policy server knows its clients by: it keeps no
	// connection of others.
	benchToken    = "token-of-the-benchmark"
	authorization = "Bearer " + benchToken

	restHeaders = "Host: policy-server:8080\r\nUser-Agent: python-requests/2.33.0\r\nAccept-Encoding: gzip, deflate\r\n" +
		"accept: application/json\r\nConnection: keep-alive\r\nContent-Type: application/json\r\nAuthorization: " + authorization + "\r\n"
	pluginHeaders = "Host: policy-server:8080\r\nAccept-Encoding: identity\r\nContent-Type: application/json\r\nAuthorization: " + authorization + "\r\n"

	// attestation is what the plugin says of its process.
	attestation = `,"process":{"pluginVersion": "0.1.0", "dstackVersion": "0.22.5", "jobNetworkMode": 3, ` +
		`"sshProxyEnforced": false, "plugins": ["dstack_isolation"], "last": true}`
)

// tokenFile writes the token where the policy server reads it.
func tokenFile(dir string) (string, error) {
	file := filepath.Join(dir, "token")
	return file, os.WriteFile(file, []byte(benchToken), 0o600)
}

func head(headers string, body []byte) []byte {
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n", runPath, headers, len(body))
}

// spaced writes JSON as Python does by default, with a space after each comma
// and colon.
func spaced(compact string) []byte {
	var out []byte
	inString := false
	for i := 0; i < len(compact); i++ {
		c := compact[i]
		out = append(out, c)
		switch {
		case inString && c == '\\':
			i++
			out = append(out, compact[i])
		case c == '"':
			inString = !inString
		case !inString && (c == ',' || c == ':'):
			out = append(out, ' ')
		}
	}
	return out
}
