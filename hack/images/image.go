package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

const defaultArchitecture = runtime.GOARCH

// imageSpec is what an image says about itself, apart from its files.
type imageSpec struct {
	Tag          string
	User         string
	WorkingDir   string
	Architecture string
	Labels       pairs
	Env          pairs
	Ports        list
	Entrypoint   list
	Command      list
}

// epoch is the time of every file and of the image: the same input gives the same digest.
var epoch = time.Unix(0, 0).UTC()

// writeImage writes an image of one layer to the docker-archive file out, by rename, and returns the digest of its config, which
// container engines call the image ID.
func writeImage(spec imageSpec, layer v1.Layer, out string) (v1.Hash, error) {
	tag, err := name.NewTag(spec.Tag, name.WithDefaultTag(""))
	if err != nil {
		return v1.Hash{}, fmt.Errorf("-tag %q: %w", spec.Tag, err)
	}
	if tag.TagStr() == "" {
		return v1.Hash{}, fmt.Errorf("-tag %q must have a name and a tag, such as dstack-isolation:dev", spec.Tag)
	}
	image, err := buildImage(spec, layer)
	if err != nil {
		return v1.Hash{}, fmt.Errorf("build image %s: %w", spec.Tag, err)
	}
	file, err := os.CreateTemp(filepath.Dir(out), filepath.Base(out)+".*")
	if err != nil {
		return v1.Hash{}, fmt.Errorf("create %s: %w", out, err)
	}
	defer os.Remove(file.Name()) // after the rename there is nothing left to remove
	if err := tarball.Write(tag, image, file); err != nil {
		file.Close()
		return v1.Hash{}, fmt.Errorf("write %s: %w", out, err)
	}
	if err := file.Chmod(0o644); err != nil {
		file.Close()
		return v1.Hash{}, fmt.Errorf("write %s: %w", out, err)
	}
	if err := file.Close(); err != nil {
		return v1.Hash{}, fmt.Errorf("write %s: %w", out, err)
	}
	if err := os.Rename(file.Name(), out); err != nil {
		return v1.Hash{}, fmt.Errorf("write %s: %w", out, err)
	}
	return image.ConfigName()
}

// buildImage puts the layer on an empty base and adds the config.
func buildImage(spec imageSpec, layer v1.Layer) (v1.Image, error) {
	image, err := mutate.Append(empty.Image, mutate.Addendum{
		Layer:   layer,
		History: v1.History{Created: v1.Time{Time: epoch}, CreatedBy: "hack/images"},
	})
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.Architecture = spec.Architecture
	config.OS = "linux"
	config.Created = v1.Time{Time: epoch}
	config.Config = v1.Config{
		User:       spec.User,
		WorkingDir: spec.WorkingDir,
		Entrypoint: spec.Entrypoint,
		Cmd:        spec.Command,
		Labels:     spec.Labels,
	}
	for _, key := range slices.Sorted(maps.Keys(spec.Env)) {
		config.Config.Env = append(config.Config.Env, key+"="+spec.Env[key])
	}
	if len(spec.Ports) > 0 {
		config.Config.ExposedPorts = map[string]struct{}{}
		for _, port := range spec.Ports {
			config.Config.ExposedPorts[port] = struct{}{}
		}
	}
	return mutate.ConfigFile(image, config)
}
