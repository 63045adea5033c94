package contract_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"time"
)

// direct never uses a proxy of the machine's, nor a connection twice: dstack's
// server closes an idle one after five seconds, perhaps just when it is used
// again.
var direct = &http.Client{Timeout: time.Minute, Transport: &http.Transport{Proxy: nil, DisableKeepAlives: true}}

// account is a user of one dstack server.
type account struct {
	url, token string
}

// answer is what a dstack server answered.
type answer struct {
	status int
	body   []byte
}

// post calls the API. The body is JSON text, or what is marshalled to it.
func (a account) post(path string, body any) (answer, error) {
	text, isText := body.(json.RawMessage)
	if !isText {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return answer{}, err
		}
	}
	return a.send(path, "application/json", text)
}

func (a account) send(path, contentType string, body []byte) (answer, error) {
	request, err := http.NewRequestWithContext(context.Background(), http.MethodPost, a.url+path, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	request.Header.Set("Authorization", "Bearer "+a.token)
	request.Header.Set("Content-Type", contentType)
	response, err := direct.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, content}, err
}

// read posts and decodes an answer that must be 200.
func (a account) read(path string, body, into any) error {
	got, err := a.post(path, body)
	if err != nil {
		return err
	}
	if got.status != http.StatusOK {
		return fmt.Errorf("%s: %s", path, got)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(got.body, into)
}

// upload stores an archive as the dstack CLI does for "files", and returns its id.
func (a account) upload(content string) (id string, err error) {
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	part, err := form.CreateFormFile("file", "e3b0c44298fc1c149afbf4c8996fb924")
	if err != nil {
		return "", err
	}
	if _, err := part.Write([]byte(content)); err != nil {
		return "", err
	}
	if err := form.Close(); err != nil {
		return "", err
	}
	got, err := a.send("/api/files/upload_archive", form.FormDataContentType(), body.Bytes())
	if err != nil {
		return "", err
	}
	var archive struct{ ID string }
	if err := json.Unmarshal(got.body, &archive); err != nil || archive.ID == "" {
		return "", fmt.Errorf("upload an archive: %s", got)
	}
	return archive.ID, nil
}

// message is the text that dstack's client shows of an error.
func (a answer) message() string {
	var body struct{ Detail []struct{ Msg string } }
	if err := json.Unmarshal(a.body, &body); err != nil || len(body.Detail) != 1 {
		return string(a.body)
	}
	return body.Detail[0].Msg
}

// part is a field of the answer, as it was written.
func (a answer) part(name string) string {
	var parts map[string]json.RawMessage
	if err := json.Unmarshal(a.body, &parts); err != nil {
		return string(a.body)
	}
	return string(parts[name])
}

func (a answer) String() string { return fmt.Sprintf("HTTP %d: %.2000s", a.status, a.body) }
