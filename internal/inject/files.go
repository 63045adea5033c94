package inject

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// maxConfigBytes is far above any real config.yml; a file of this size is something
// else.
const maxConfigBytes = 4 << 20

// minimalConfig is what a server without config.yml gets. Such a server starts with
// default settings and loads no plugin. The file lists no project, because dstack
// deletes from a listed project all backends that are not listed with it.
const minimalConfig = `# Settings of the dstack server, read once at its start.
#
# Created by the dstack isolation operator: there was no such file, and without
# one dstack loads no plugin. The file is yours. The operator adds its plugin to a
# copy and does not write to this file again.
projects: []
`

// sourceFile is the user's config.yml and what of its metadata the copy takes over.
type sourceFile struct {
	content []byte
	mode    fs.FileMode
	group   int
}

// readSource reads the user's file, which it makes first if there is none.
func readSource(o Options) (sourceFile, error) {
	if o.Source == "" {
		return sourceFile{content: []byte(minimalConfig), mode: 0o644, group: -1}, nil
	}
	source, err := readConfigFile(o.Source)
	if !errors.Is(err, fs.ErrNotExist) {
		return source, err
	}
	if err := createConfigFile(o.Source); err != nil {
		return sourceFile{}, fmt.Errorf("there is no %s, without which dstack loads no plugin, and it cannot be created: %w. "+
			"Create it with the line `projects: []`", o.Source, err)
	}
	o.printf("Created %s, there was none: without it dstack loads no plugin", o.Source)
	return readConfigFile(o.Source)
}

func readConfigFile(path string) (sourceFile, error) {
	info, err := os.Stat(path)
	if err != nil {
		return sourceFile{}, fmt.Errorf("read config.yml: %w", err)
	}
	if !info.Mode().IsRegular() {
		return sourceFile{}, fmt.Errorf("%s must be a file, and is a %s", path, kindOf(info.Mode()))
	}
	file, err := os.Open(path)
	if err != nil {
		return sourceFile{}, fmt.Errorf("read config.yml as user %d: %w", os.Geteuid(), err)
	}
	defer file.Close() //nolint:errcheck // only read
	content, err := io.ReadAll(io.LimitReader(file, maxConfigBytes+1))
	if err != nil {
		return sourceFile{}, fmt.Errorf("read config.yml: %w", err)
	}
	if len(content) > maxConfigBytes {
		return sourceFile{}, fmt.Errorf("%s is larger than %d bytes, which no config.yml is", path, maxConfigBytes)
	}
	source := sourceFile{content: content, mode: info.Mode().Perm(), group: -1}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		source.group = int(stat.Gid)
	}
	return source, nil
}

func kindOf(mode fs.FileMode) string {
	if mode.IsDir() {
		return "folder"
	}
	return "device, pipe or socket"
}

// createConfigFile makes the minimal file, whole or not at all, and never touches
// one that another replica of the server made in the meantime.
func createConfigFile(path string) error {
	folder := filepath.Dir(path)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	// 0644 is what dstack's own first file has.
	temporary, err := writeTemporary(folder, []byte(minimalConfig), sourceFile{mode: 0o644, group: -1})
	if err != nil {
		return err
	}
	defer os.Remove(temporary) //nolint:errcheck // left behind it is harmless
	err = os.Link(temporary, path)
	if err == nil || errors.Is(err, fs.ErrExist) {
		return nil
	}
	// A file system without hard links.
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = file.WriteString(minimalConfig)
	return errors.Join(err, file.Close())
}

// writeTarget writes the merged copy, whole or not at all.
func writeTarget(path string, content []byte, source sourceFile) error {
	temporary, err := writeTemporary(filepath.Dir(path), content, source)
	if err != nil {
		return err
	}
	if err := os.Rename(temporary, path); err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	return nil
}

// writeTemporary writes a file that whoever may read the source may read, and
// nobody else: it holds the same credentials. An unreadable copy would be worse than
// none, since dstack takes a config.yml that it cannot read for a missing one.
func writeTemporary(folder string, content []byte, like sourceFile) (path string, err error) {
	file, err := os.CreateTemp(folder, ".config-*.yml")
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(file.Name()))
		}
	}()
	if like.group >= 0 {
		// Allowed for own groups only; elsewhere the folder's group has to do.
		_ = file.Chown(-1, like.group)
	}
	_, err = file.Write(content)
	err = errors.Join(err, file.Chmod(0o600|like.mode&0o044), file.Sync(), file.Close())
	return file.Name(), err
}
