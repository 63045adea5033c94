package dstack

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
)

const (
	// maxAnswer bounds what is read of an answer of the API.
	maxAnswer = 1 << 20
	// maxRelease bounds the name of a release, in bytes.
	maxRelease = 64
)

type serverInfo struct {
	ServerVersion string `json:"server_version"`
}

type user struct {
	GlobalRole string `json:"global_role"`
}

// Client talks to the HTTP API of one process of a dstack server.
type Client struct {
	// HTTP sends the requests; it should have a timeout and no proxy.
	HTTP *http.Client
	// BaseURL such as "http://10.0.0.7:3000".
	BaseURL string
	// Token of a user, sent only by calls that need one. Never logged.
	Token string
}

// StatusError is an answer other than 200.
type StatusError struct{ Code int }

func (e *StatusError) Error() string { return fmt.Sprintf("answered with status %d", e.Code) }

// Release asks which release the server is: POST /api/server/get_info, which
// needs no token. A build without a version answers "".
func (c *Client) Release(ctx context.Context) (string, error) {
	var info serverInfo
	if err := c.post(ctx, "/api/server/get_info", "", &info); err != nil {
		return "", err
	}
	if len(info.ServerVersion) > maxRelease {
		return "", fmt.Errorf("named a release of more than %d characters", maxRelease)
	}
	return info.ServerVersion, nil
}

// CheckToken asks whose token it is: POST /api/users/get_my_user. A token that
// the server does not know is answered with 401 or 403.
func (c *Client) CheckToken(ctx context.Context) (globalRole string, err error) {
	var u user
	if err := c.post(ctx, "/api/users/get_my_user", c.Token, &u); err != nil {
		return "", err
	}
	return u.GlobalRole, nil
}

func (c *Client) post(ctx context.Context, path, token string, into any) error {
	return c.ask(ctx, question{path, token, struct{}{}, maxAnswer}, into)
}

// question is what is asked of the API.
type question struct {
	path, token string
	body        any
	// most bounds the answer, in bytes.
	most int64
}

func (c *Client) ask(ctx context.Context, q question, into any) error {
	sent, err := json.Marshal(q.body)
	if err != nil {
		return fmt.Errorf("write the question for %s: %w", q.path, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.BaseURL+q.path, bytes.NewReader(sent))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if q.token != "" {
		req.Header.Set("Authorization", "Bearer "+q.token)
	}
	res, err := c.HTTP.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return &StatusError{Code: res.StatusCode}
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, q.most)).Decode(into); err != nil {
		return fmt.Errorf("read the answer of %s: %w", q.path, err)
	}
	return nil
}
