package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// buildProgram compiles the smallest program, static or not, and returns its path.
func buildProgram(t *testing.T, cgo string) string {
	t.Helper()
	dir := t.TempDir()
	source := "package main\n\nfunc main() {}\n"
	if cgo == "1" {
		source = "package main\n\nimport \"C\"\n\nfunc main() {}\n"
	}
	write(t, filepath.Join(dir, "main.go"), source)
	write(t, filepath.Join(dir, "go.mod"), "module example.test/program\n\ngo 1.26.0\n")
	command := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", "program", ".")
	command.Dir = dir
	command.Env = append(os.Environ(), "CGO_ENABLED="+cgo, "GOWORK=off", "GOFLAGS=", "GOOS=linux")
	if output, err := command.CombinedOutput(); err != nil {
		t.Fatalf("build the program: %v\n%s", err, output)
	}
	return filepath.Join(dir, "program")
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// runImages calls the program and returns the digest that it prints.
func runImages(t *testing.T, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if err := run(args, &stdout, &stderr); err != nil {
		t.Fatalf("images %s: %v\n%s", strings.Join(args, " "), err, &stderr)
	}
	return strings.TrimSpace(stdout.String())
}

// openImage reads the image back from the archive, as a container engine would.
func openImage(t *testing.T, archive string) (v1.Image, *v1.ConfigFile) {
	t.Helper()
	image, err := tarball.ImageFromPath(archive, nil)
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	return image, config
}

// files returns "mode uid:gid" by name of everything in the image's only layer, and the content of the regular files.
func files(t *testing.T, image v1.Image) (map[string]int64, map[string][]byte) {
	t.Helper()
	layers, err := image.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("got %d layers and error %v, want one layer", len(layers), err)
	}
	content, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	modes, texts := map[string]int64{}, map[string][]byte{}
	reader := tar.NewReader(content)
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return modes, texts
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Uid != 0 || header.Gid != 0 || !header.ModTime.Equal(epoch) {
			t.Errorf("%s belongs to %d:%d and is of %s, want 0:0 and the epoch", header.Name, header.Uid, header.Gid, header.ModTime)
		}
		modes[header.Name] = header.Mode
		if texts[header.Name], err = io.ReadAll(reader); err != nil {
			t.Fatal(err)
		}
	}
}

func TestBinaryImage(t *testing.T) {
	program := buildProgram(t, "0")
	out := filepath.Join(t.TempDir(), "image.tar")
	digest := runImages(t, "binary", "-binary", program, "-tag", "dstack-isolation:dev", "-out", out,
		"-entrypoint", "/bin/dstack-isolation", "-user", "65532:65532", "-label", "org.opencontainers.image.title=dstack-isolation")

	manifest, err := tarball.LoadManifest(func() (io.ReadCloser, error) { return os.Open(out) })
	if err != nil || len(manifest) != 1 || len(manifest[0].RepoTags) != 1 || manifest[0].RepoTags[0] != "dstack-isolation:dev" {
		t.Errorf("manifest %+v, error %v; want one image with the tag dstack-isolation:dev", manifest, err)
	}
	image, config := openImage(t, out)
	if name, err := image.ConfigName(); err != nil || name.String() != digest {
		t.Errorf("printed digest %s, image has %s, error %v", digest, name, err)
	}
	if got := config.Config.Entrypoint; len(got) != 1 || got[0] != "/bin/dstack-isolation" {
		t.Errorf("entrypoint %q, want the executable", got)
	}
	if config.Config.User != "65532:65532" || config.OS != "linux" || config.Architecture != defaultArchitecture {
		t.Errorf("user %q, platform %s/%s", config.Config.User, config.OS, config.Architecture)
	}
	if got := config.Config.Labels["org.opencontainers.image.title"]; got != "dstack-isolation" {
		t.Errorf("title %q, want dstack-isolation", got)
	}

	modes, texts := files(t, image)
	want := map[string]int64{"bin/": 0o755, "bin/dstack-isolation": 0o555, "tmp/": 0o1777}
	for name, mode := range want {
		if modes[name] != mode {
			t.Errorf("%s has mode %o, want %o", name, modes[name], mode)
		}
	}
	if len(modes) != len(want) {
		t.Errorf("files %v, want exactly %v", modes, want)
	}
	original, err := os.ReadFile(program)
	if err != nil || !bytes.Equal(texts["bin/dstack-isolation"], original) {
		t.Errorf("the executable in the image differs from the one given (error %v)", err)
	}
}

func TestSameBinaryGivesSameArchive(t *testing.T) {
	program := buildProgram(t, "0")
	dir := t.TempDir()
	archives := make([][]byte, 2)
	for i := range archives {
		out := filepath.Join(dir, "image.tar")
		runImages(t, "binary", "-binary", program, "-tag", "a:b", "-out", out, "-label", "one=1", "-label", "two=2", "-env", "B=2", "-env", "A=1")
		var err error
		if archives[i], err = os.ReadFile(out); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Error("two archives of the same binary differ")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("%d files left in the directory, error %v; want the archive alone", len(entries), err)
	}
}

func TestRootfsImage(t *testing.T) {
	dir := t.TempDir()
	root := filepath.Join(dir, "root.tar")
	archive, err := binaryArchive("/usr/bin/tool", []byte("content"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, root, string(archive))
	out := filepath.Join(dir, "image.tar")
	runImages(t, "rootfs", "-rootfs", root, "-tag", "dstack-server:1", "-out", out, "-command", "dstack", "-command", "server",
		"-env", "PATH=/usr/bin", "-env", "HOME=/root", "-port", "3000/tcp", "-workdir", "/root")

	image, config := openImage(t, out)
	if got := strings.Join(config.Config.Cmd, " "); got != "dstack server" {
		t.Errorf("command %q, want dstack server", got)
	}
	if got := strings.Join(config.Config.Env, " "); got != "HOME=/root PATH=/usr/bin" {
		t.Errorf("environment %q, want it sorted by name", got)
	}
	if _, found := config.Config.ExposedPorts["3000/tcp"]; !found || config.Config.WorkingDir != "/root" {
		t.Errorf("ports %v, working directory %q", config.Config.ExposedPorts, config.Config.WorkingDir)
	}
	if _, texts := files(t, image); string(texts["usr/bin/tool"]) != "content" {
		t.Errorf("usr/bin/tool is %q, want its content", texts["usr/bin/tool"])
	}
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "script")
	write(t, script, "#!/bin/sh\n")
	program := buildProgram(t, "0")
	out := filepath.Join(dir, "out.tar")
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"no arguments":          {nil, "usage: images binary"},
		"unknown kind":          {[]string{"volume"}, `unknown kind of image "volume"`},
		"no out":                {[]string{"binary", "-binary", program, "-tag", "a:b"}, "-out must name the file to write"},
		"no binary":             {[]string{"binary", "-tag", "a:b", "-out", out}, "-binary must name the executable"},
		"missing binary":        {[]string{"binary", "-binary", dir + "/none", "-tag", "a:b", "-out", out}, "no such file"},
		"a script":              {[]string{"binary", "-binary", script, "-tag", "a:b", "-out", out}, "is not a Linux executable"},
		"relative entrypoint":   {[]string{"binary", "-binary", program, "-tag", "a:b", "-out", out, "-entrypoint", "x"}, "clean absolute path"},
		"climbing entrypoint":   {[]string{"binary", "-binary", program, "-tag", "a:b", "-out", out, "-entrypoint", "/../x"}, "clean absolute path"},
		"no tag":                {[]string{"binary", "-binary", program, "-tag", "a", "-out", out}, "must have a name and a tag"},
		"bad tag":               {[]string{"binary", "-binary", program, "-tag", "A B:c", "-out", out}, `-tag "A B:c"`},
		"label without a value": {[]string{"binary", "-label", "x"}, `"x" is not KEY=VALUE`},
		"label twice":           {[]string{"binary", "-label", "x=1", "-label", "x=2"}, "x is given twice"},
		"stray argument":        {[]string{"binary", "-tag", "a:b", "stray"}, `unexpected argument "stray"`},
		"rootfs without a file": {[]string{"rootfs", "-tag", "a:b", "-out", out}, "-rootfs must name the tar file"},
		"nothing to run":        {[]string{"rootfs", "-rootfs", script, "-tag", "a:b", "-out", out}, "-command must say what the image runs"},
	} {
		t.Run(name, func(t *testing.T) {
			err := run(tc.args, io.Discard, io.Discard)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got error %v, want one with %q", err, tc.want)
			}
			if _, err := os.Stat(out); err == nil {
				t.Error("an archive was written all the same")
			}
		})
	}
}

// A program that asks for a loader cannot start on an empty base; the kernel's message for that ("no such file") misleads.
func TestRefusesDynamicBinary(t *testing.T) {
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("gcc, which links the dynamic program of this test, is not on PATH")
	}
	err := checkFile(t, buildProgram(t, "1"))
	if err == nil || !strings.Contains(err.Error(), "CGO_ENABLED=0") {
		t.Errorf("got error %v, want one that says CGO_ENABLED=0", err)
	}
}

func checkFile(t *testing.T, file string) error {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return checkStatic(content)
}
