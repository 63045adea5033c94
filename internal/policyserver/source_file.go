package policyserver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/config/crd"
	"github.com/dstack-isolation/operator/internal/isolation"
	"github.com/dstack-isolation/operator/internal/objects"
	"github.com/dstack-isolation/operator/internal/policy"
)

// folderInterval is how often a folder is looked at. A change is taken when two
// looks see the same, so that no file is read half-written.
const folderInterval = 250 * time.Millisecond

// FileSource is the policy in the YAML files of a folder, without Kubernetes.
// Since nothing applies settings to a dstack server then, the planned ones are
// taken as running.
type FileSource struct {
	dir    string
	chosen types.NamespacedName
	reader *objects.Reader
	log    logr.Logger
}

// NewFileSource reads the folder dir. The zero value of chosen means the only
// DstackServer in it.
func NewFileSource(dir string, chosen types.NamespacedName, log logr.Logger) (*FileSource, error) {
	reader, err := objects.NewReader(crd.FS)
	if err != nil {
		return nil, fmt.Errorf("read the CustomResourceDefinitions of this build: %w", err)
	}
	return &FileSource{dir: dir, chosen: chosen, reader: reader, log: log}, nil
}

// Run fails when the folder is invalid at first. Later a folder that becomes
// invalid changes nothing until it is valid again: the last valid policy is
// kept, and log and metric say so.
func (f *FileSource) Run(ctx context.Context, publish func(*Snapshot)) error {
	loaded := f.fingerprint()
	last, err := f.load()
	if err != nil {
		return err
	}
	publish(last)

	ticker := time.NewTicker(folderInterval)
	defer ticker.Stop()
	expiry := nextChange(last)
	defer func() { expiry.Stop() }()
	seen, expired := loaded, false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		case <-expiry.C:
			expired = true
		}
		before := seen
		seen = f.fingerprint()
		if seen != before || seen == loaded && !expired {
			continue // still being written, or nothing new
		}
		loaded, expired = seen, false
		last = f.reload(last)
		publish(last)
		expiry.Stop()
		expiry = nextChange(last)
	}
}

func (f *FileSource) reload(last *Snapshot) *Snapshot {
	now, err := f.load()
	if err != nil {
		f.log.Error(err, "Kept the last valid policy, because the folder holds something wrong", "folder", f.dir)
		return last.kept(StaleFolderInvalid)
	}
	return now
}

func (f *FileSource) load() (*Snapshot, error) {
	set, err := f.reader.ReadFolder(os.DirFS(f.dir))
	if err != nil {
		return nil, fmt.Errorf("folder %s: %w", f.dir, err)
	}
	server, err := f.choose(set.Servers)
	if err != nil {
		return nil, fmt.Errorf("folder %s: %w", f.dir, err)
	}
	start := time.Now()
	eff := isolation.Resolve(isolation.Input{Server: server, Profiles: set.Profiles, Now: start})
	if err := problemsOf(eff); err != nil {
		return nil, fmt.Errorf("folder %s: %w", f.dir, err)
	}
	return &Snapshot{
		Server:           types.NamespacedName{Namespace: server.Namespace, Name: server.Name},
		Effective:        eff,
		ServerGeneration: server.Generation,
		Running:          policy.Running{NetworkMode: eff.Plan.NetworkMode},
		TokenRequired:    true,
		ResolveDuration:  time.Since(start),
	}, nil
}

func (f *FileSource) choose(servers []v1alpha1.DstackServer) (*v1alpha1.DstackServer, error) {
	var names []string
	for i, server := range servers {
		name := types.NamespacedName{Namespace: server.Namespace, Name: server.Name}
		if name == f.chosen {
			return &servers[i], nil
		}
		names = append(names, name.String())
	}
	switch {
	case f.chosen.Name != "":
		return nil, fmt.Errorf("holds no DstackServer %s, only: %s", f.chosen, strings.Join(names, ", "))
	case len(servers) == 0:
		return nil, fmt.Errorf("holds no DstackServer: add one, in a file *.yaml, *.yml or *.json")
	case len(servers) > 1:
		return nil, fmt.Errorf("holds %d DstackServers: choose one of %s", len(servers), strings.Join(names, ", "))
	}
	return &servers[0], nil
}

// problemsOf are what in a cluster would be a condition of the profile: a rule that
// does not compile, say, which refuses all that it is about. A folder has no
// conditions, so it is an error there.
func problemsOf(eff *isolation.Effective) error {
	var all []error
	for _, profile := range append([]*isolation.Profile{eff.Unmatched}, eff.Profiles...) {
		for _, problem := range profile.Problems {
			all = append(all, fmt.Errorf("%s: %s", profile.Ref, problem))
		}
	}
	return errors.Join(all...)
}

// fingerprint changes when a file of the folder does.
func (f *FileSource) fingerprint() string {
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return "unreadable: " + err.Error()
	}
	var b strings.Builder
	for _, entry := range entries {
		if !objects.IsObjectFile(entry.Name()) {
			continue
		}
		// Follows links: a mounted ConfigMap is a folder of them.
		var info fs.FileInfo
		info, err = os.Stat(filepath.Join(f.dir, entry.Name()))
		if err != nil {
			fmt.Fprintf(&b, "%s unreadable\n", entry.Name())
			continue
		}
		fmt.Fprintf(&b, "%s %d %d\n", entry.Name(), info.Size(), info.ModTime().UnixNano())
	}
	return b.String()
}
