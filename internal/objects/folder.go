// Package objects reads DstackServers and IsolationProfiles from the YAML
// files of a folder, as strictly as an API server with the operator's
// CustomResourceDefinitions does: it refuses unknown fields, duplicate keys and
// wrong types, sets the defaults, and checks schema and CEL rules. What a
// folder has no history for (rules that compare with an older object) is not
// checked.
package objects

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

// MaxFileBytes is the largest file that is read: some 10,000 profiles.
const MaxFileBytes = 16 << 20

// DefaultNamespace is the namespace of an object that names none, as kubectl
// has it.
const DefaultNamespace = "default"

// Reader reads folders. It is safe for concurrent use.
type Reader struct {
	kinds map[schema.GroupVersionKind]*kind
}

// NewReader compiles the CustomResourceDefinitions in the *.yaml files of crds.
func NewReader(crds fs.FS) (*Reader, error) {
	kinds, err := newKinds(crds)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"DstackServer", "IsolationProfile"} {
		if kinds[v1alpha1.GroupVersion.WithKind(name)] == nil {
			return nil, fmt.Errorf("no CustomResourceDefinition of %s is given", name)
		}
	}
	return &Reader{kinds: kinds}, nil
}

// Set is what a folder holds, sorted by namespace and name.
type Set struct {
	Servers  []v1alpha1.DstackServer
	Profiles []v1alpha1.IsolationProfile
}

// IsObjectFile tells whether a file of that name is read: *.yaml, *.yml and
// *.json, hidden ones aside.
func IsObjectFile(name string) bool {
	ext := path.Ext(name)
	return !strings.HasPrefix(name, ".") && (ext == ".yaml" || ext == ".yml" || ext == ".json")
}

// ReadFolder reads the files of the folder itself, not of folders in it. The
// error joins one *Error for each thing that is wrong, in order of files; then
// the set is nil.
func (r *Reader) ReadFolder(folder fs.FS) (*Set, error) {
	entries, err := fs.ReadDir(folder, ".")
	if err != nil {
		return nil, fmt.Errorf("read folder: %w", err)
	}
	c := collector{reader: r, set: &Set{}, seen: map[string]place{}}
	for _, entry := range entries {
		if IsObjectFile(entry.Name()) {
			c.addFile(folder, entry.Name())
		}
	}
	c.checkReferences()
	if len(c.errs) > 0 {
		return nil, errors.Join(c.errs...)
	}
	slices.SortFunc(c.set.Servers, func(a, b v1alpha1.DstackServer) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	slices.SortFunc(c.set.Profiles, func(a, b v1alpha1.IsolationProfile) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return c.set, nil
}

// collector gathers the objects of a folder and all that is wrong with them.
type collector struct {
	reader *Reader
	set    *Set
	seen   map[string]place
	// profilePlaces has the place of each of set.Profiles.
	profilePlaces []place
	errs          []error
}

func (c *collector) addFile(folder fs.FS, name string) {
	data, err := readFile(folder, name)
	if err != nil {
		c.errs = append(c.errs, place{file: name}.errorf("", "%v", err))
		return
	}
	docs, errs := decodeFile(name, data)
	c.errs = append(c.errs, errs...)
	for _, doc := range docs {
		c.addObject(doc)
	}
}

func readFile(folder fs.FS, name string) ([]byte, error) {
	f, err := folder.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	data, err := io.ReadAll(io.LimitReader(f, MaxFileBytes+1))
	if err != nil {
		return nil, err
	}
	if len(data) > MaxFileBytes {
		return nil, fmt.Errorf("is larger than %d bytes: split it", MaxFileBytes)
	}
	return data, nil
}

func (c *collector) addObject(doc document) {
	apiVersion, _ := doc.content["apiVersion"].(string)
	kindName, _ := doc.content["kind"].(string)
	k := c.reader.kinds[schema.FromAPIVersionAndKind(apiVersion, kindName)]
	if k == nil {
		c.errs = append(c.errs, doc.errorf("", "kind %q of apiVersion %q is not served here: use DstackServer or IsolationProfile of %s, and keep other objects in other folders",
			kindName, apiVersion, v1alpha1.GroupVersion))
		return
	}
	setDefaultNamespace(doc.content)
	meta, wrong := k.admit(doc.content)
	for _, err := range wrong {
		c.errs = append(c.errs, doc.errorf(err.Field, "%s", reason(err)))
	}
	if len(wrong) > 0 {
		return
	}
	key := kindName + " " + meta.Namespace + "/" + meta.Name
	if first, twice := c.seen[key]; twice {
		c.errs = append(c.errs, doc.errorf("metadata.name", "%s stands twice: also in %s, document %d", key, first.file, first.document))
		return
	}
	c.seen[key] = doc.place
	if err := c.keep(kindName, doc); err != nil {
		c.errs = append(c.errs, doc.errorf("", "%v", err))
	}
}

func (c *collector) keep(kindName string, doc document) error {
	convert := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation
	if kindName == "DstackServer" {
		var server v1alpha1.DstackServer
		if err := convert(doc.content, &server, true); err != nil {
			return err
		}
		c.set.Servers = append(c.set.Servers, server)
		return nil
	}
	var profile v1alpha1.IsolationProfile
	if err := convert(doc.content, &profile, true); err != nil {
		return err
	}
	c.set.Profiles = append(c.set.Profiles, profile)
	c.profilePlaces = append(c.profilePlaces, doc.place)
	return nil
}

// checkReferences refuses profiles of servers that are not in the folder. In a
// cluster that is a condition, because the server may come later; here the
// profile would silently do nothing.
func (c *collector) checkReferences() {
	if len(c.errs) > 0 {
		return // the server may be what could not be read
	}
	for i, profile := range c.set.Profiles {
		server := profile.Namespace + "/" + profile.Spec.ServerRef.Name
		if _, found := c.seen["DstackServer "+server]; !found {
			c.errs = append(c.errs, c.profilePlaces[i].errorf("spec.serverRef.name", "no DstackServer %s is in this folder", server))
		}
	}
}

func setDefaultNamespace(object map[string]any) {
	metadata, isMap := object["metadata"].(map[string]any)
	if !isMap {
		return
	}
	if namespace, set := metadata["namespace"]; !set || namespace == "" {
		metadata["namespace"] = DefaultNamespace
	}
}

// reason is the message of a field error without the field, which stands
// beside it.
func reason(err *field.Error) string {
	if err.Detail == unknownField {
		return unknownField
	}
	return strings.Join(strings.Fields(err.ErrorBody()), " ")
}
