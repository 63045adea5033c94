package objects

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"path"
	"strings"

	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// document is one decoded document, or one item of a List.
type document struct {
	place
	content map[string]any
}

// decodeFile splits a file into documents and decodes each strictly. Empty
// documents are passed over, but count.
func decodeFile(name string, data []byte) ([]document, []error) {
	if path.Ext(name) == ".json" {
		return decodeDocument(place{file: name, document: 1}, data)
	}
	var docs []document
	var errs []error
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	for n := 1; ; n++ {
		at := place{file: name, document: n}
		raw, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return docs, errs
		}
		if err != nil {
			return docs, append(errs, at.errorf("", "cannot be split into documents: %v", err))
		}
		// Strict: a key that stands twice is an error, as for the API server.
		asJSON, err := yaml.YAMLToJSONStrict(raw)
		if err != nil {
			errs = append(errs, at.errorf("", "%s", yamlReason(err)))
			continue
		}
		if string(asJSON) == "null" {
			continue
		}
		more, wrong := decodeDocument(at, asJSON)
		docs, errs = append(docs, more...), append(errs, wrong...)
	}
}

// decodeDocument decodes JSON as the API server does: numbers without a point
// are integers, and a key that stands twice is an error.
func decodeDocument(at place, data []byte) ([]document, []error) {
	var value any
	strict, err := kjson.UnmarshalStrict(data, &value)
	if err != nil {
		return nil, []error{at.errorf("", "is not JSON: %v", err)}
	}
	var errs []error
	for _, err := range strict {
		errs = append(errs, at.errorf("", "%v", err))
	}
	content, isMap := value.(map[string]any)
	if !isMap {
		errs = append(errs, at.errorf("", "must be an object with apiVersion, kind, metadata and spec"))
	}
	if len(errs) > 0 {
		return nil, errs
	}
	if kind, _ := content["kind"].(string); strings.HasSuffix(kind, "List") {
		return listItems(at, content)
	}
	at.object = objectName(content)
	return []document{{place: at, content: content}}, nil
}

// listItems takes apart what "kubectl get -o yaml" prints.
func listItems(at place, list map[string]any) ([]document, []error) {
	items, isList := list["items"].([]any)
	if !isList {
		return nil, []error{at.errorf("items", "must be a list of objects")}
	}
	var docs []document
	var errs []error
	for i, item := range items {
		at := at
		at.item = i + 1
		content, isMap := item.(map[string]any)
		if !isMap {
			errs = append(errs, at.errorf("", "must be an object with apiVersion, kind, metadata and spec"))
			continue
		}
		at.object = objectName(content)
		docs = append(docs, document{place: at, content: content})
	}
	return docs, errs
}

func objectName(content map[string]any) string {
	kind, _ := content["kind"].(string)
	metadata, _ := content["metadata"].(map[string]any)
	name, _ := metadata["name"].(string)
	return strings.TrimSpace(kind + " " + name)
}

// yamlReason makes one line of the YAML reader's message.
func yamlReason(err error) string {
	text := strings.TrimPrefix(err.Error(), "error converting YAML to JSON: ")
	return strings.Join(strings.Fields(text), " ")
}
