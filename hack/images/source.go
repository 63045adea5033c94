package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/elf"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// source is where an image's files come from.
type source interface {
	register(flags *flag.FlagSet)
	// layer returns the files and fills in what the spec leaves open.
	layer(spec *imageSpec) (v1.Layer, error)
}

// binarySource is one static executable, the only file of its image.
type binarySource struct{ file string }

func (s *binarySource) register(flags *flag.FlagSet) {
	flags.StringVar(&s.file, "binary", "", "the static executable")
}

// layer holds the executable at the first argument of the entrypoint, owned by root and writable by nobody. The directories above
// it and an empty /tmp that everybody may write come with it.
func (s *binarySource) layer(spec *imageSpec) (v1.Layer, error) {
	if s.file == "" {
		return nil, errors.New("-binary must name the executable")
	}
	content, err := os.ReadFile(s.file)
	if err != nil {
		return nil, fmt.Errorf("read the executable: %w", err)
	}
	if err := checkStatic(content); err != nil {
		return nil, fmt.Errorf("executable %s: %w", s.file, err)
	}
	if len(spec.Entrypoint) == 0 {
		spec.Entrypoint = list{"/" + path.Base(s.file)}
	}
	archive, err := binaryArchive(spec.Entrypoint[0], content)
	if err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(archive)), nil
	}, tarball.WithCompressionLevel(gzip.BestSpeed))
}

// checkStatic refuses what could not start on an empty base: a program that asks for a dynamic loader, or no ELF program at all.
func checkStatic(content []byte) error {
	program, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return fmt.Errorf("is not a Linux executable: %w", err)
	}
	for _, header := range program.Progs {
		if header.Type == elf.PT_INTERP {
			return errors.New("is linked dynamically and would not start on an empty base: build it with CGO_ENABLED=0")
		}
	}
	return nil
}

// binaryArchive is the tar of one executable at target, such as /dstack-isolation or /usr/bin/tool.
func binaryArchive(target string, content []byte) ([]byte, error) {
	if !path.IsAbs(target) || path.Clean(target) != target || target == "/" {
		return nil, fmt.Errorf("entrypoint %q must be the executable's clean absolute path", target)
	}
	var directories []*tar.Header
	for dir := path.Dir(target); dir != "/"; dir = path.Dir(dir) {
		if dir != "/tmp" {
			directories = append([]*tar.Header{{Name: dir[1:] + "/", Typeflag: tar.TypeDir, Mode: 0o755}}, directories...)
		}
	}
	headers := append(directories, &tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777},
		&tar.Header{Name: target[1:], Typeflag: tar.TypeReg, Mode: 0o555, Size: int64(len(content))})
	var buffer bytes.Buffer
	writer := tar.NewWriter(&buffer)
	for _, header := range headers {
		header.ModTime = epoch
		header.Format = tar.FormatUSTAR
		if err := writer.WriteHeader(header); err != nil {
			return nil, fmt.Errorf("archive %s: %w", header.Name, err)
		}
	}
	if _, err := writer.Write(content); err != nil {
		return nil, fmt.Errorf("archive %s: %w", target, err)
	}
	if err := writer.Close(); err != nil {
		return nil, fmt.Errorf("archive %s: %w", target, err)
	}
	return buffer.Bytes(), nil
}

// rootfsSource is the tar of a whole root file system, taken as it is.
type rootfsSource struct{ file string }

func (s *rootfsSource) register(flags *flag.FlagSet) {
	flags.StringVar(&s.file, "rootfs", "", "the root file system's tar file")
}

func (s *rootfsSource) layer(spec *imageSpec) (v1.Layer, error) {
	if s.file == "" {
		return nil, errors.New("-rootfs must name the tar file")
	}
	if len(spec.Entrypoint) == 0 && len(spec.Command) == 0 {
		return nil, errors.New("-command must say what the image runs")
	}
	layer, err := tarball.LayerFromFile(s.file, tarball.WithCompressionLevel(gzip.BestSpeed))
	if err != nil {
		return nil, fmt.Errorf("read the root file system: %w", err)
	}
	return layer, nil
}
