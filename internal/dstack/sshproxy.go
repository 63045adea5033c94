package dstack

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// Variables by which the server knows of an SSH proxy. The first two enable it;
// without them the server starts and does not enforce, with a warning in its log if
// it was told to.
const (
	// EnvSSHProxyAPIToken is the token that the proxy presents; "" counts as
	// unset. The proxy itself reads it under the same name.
	EnvSSHProxyAPIToken = "DSTACK_SSHPROXY_API_TOKEN"
	// EnvServerSSHProxyAddress is the HOST[:PORT] that users are told. The server
	// does not start with one that it cannot read, "" included.
	EnvServerSSHProxyAddress = "DSTACK_SERVER_SSHPROXY_ADDRESS"
	// EnvServerSSHProxyEnforced, present with any value, keeps users' keys from
	// hosts, so that the proxy is the only way in.
	EnvServerSSHProxyEnforced = "DSTACK_SERVER_SSHPROXY_ENFORCED"
)

// Variables that the SSH proxy reads, besides EnvSSHProxyAPIToken.
const (
	// EnvSSHProxyAPIURL is the server's URL; its path is replaced.
	EnvSSHProxyAPIURL = "DSTACK_SSHPROXY_API_URL"
	// EnvSSHProxyPort is the port that it listens on.
	EnvSSHProxyPort = "DSTACK_SSHPROXY_PORT"
	// EnvSSHProxyHostKeys are its private host keys, one PEM block after the other.
	EnvSSHProxyHostKeys = "DSTACK_SSHPROXY_HOST_KEYS"
)

const (
	// SSHProxyPort is the proxy's own default of EnvSSHProxyPort.
	SSHProxyPort = 30022
	// SSHProxyBanner begins the first line that the proxy sends; its version
	// follows.
	SSHProxyBanner = "SSH-2.0-dstack_sshproxy_"
	// SSHProxyUpstreamPath is where the proxy asks the server whom a login leads
	// to. The answer holds private keys of hosts.
	SSHProxyUpstreamPath = "/api/sshproxy/get_upstream"
)

// noJob is an id that no job has: asking for a real one would fetch the private
// key of its host.
const noJob = "00000000000000000000000000000000"

// SSHProxyToken is what a server process makes of a token for its SSH proxy.
type SSHProxyToken string

const (
	// SSHProxyTokenAccepted: it is the process's own.
	SSHProxyTokenAccepted SSHProxyToken = "Accepted"
	// SSHProxyTokenRejected: the process has another one.
	SSHProxyTokenRejected SSHProxyToken = "Rejected"
	// SSHProxyTokenUnset: the process has none, so it knows of no proxy.
	SSHProxyTokenUnset SSHProxyToken = "Unset"
)

// CheckSSHProxyToken asks for the upstream of a job that does not exist, as the
// proxy would: it shows whether the process has the same token, and changes
// nothing.
func (c *Client) CheckSSHProxyToken(ctx context.Context, token string) (SSHProxyToken, error) {
	body := []byte(`{"id":"` + noJob + `"}`)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.BaseURL+SSHProxyUpstreamPath, bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := c.HTTP.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return "", fmt.Errorf("read the answer of %s: %w", SSHProxyUpstreamPath, err)
	}
	switch code, msg := detailOf(answer); {
	case res.StatusCode == http.StatusBadRequest && code == "resource_not_exists":
		return SSHProxyTokenAccepted, nil
	case res.StatusCode == http.StatusForbidden && strings.HasPrefix(msg, "Invalid token"):
		return SSHProxyTokenRejected, nil
	case res.StatusCode == http.StatusForbidden && strings.HasPrefix(msg, "Access denied"):
		return SSHProxyTokenUnset, nil
	}
	return "", &StatusError{Code: res.StatusCode}
}

// detailOf reads the first detail of an error: a list of them, or one alone.
func detailOf(answer []byte) (code, msg string) {
	type detail struct {
		Code string `json:"code"`
		Msg  string `json:"msg"`
	}
	var body struct {
		Detail json.RawMessage `json:"detail"`
	}
	if json.Unmarshal(answer, &body) != nil {
		return "", ""
	}
	var one detail
	if json.Unmarshal(body.Detail, &one) == nil {
		return one.Code, one.Msg
	}
	var many []detail
	if json.Unmarshal(body.Detail, &many) != nil || len(many) == 0 {
		return "", ""
	}
	return many[0].Code, many[0].Msg
}
