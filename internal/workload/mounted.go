package workload

import (
	"fmt"
	"path"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/dstack-isolation/operator/internal/dstack"
)

// CheckFlag begins the argument by which the init container only checks a
// config.yml, where no copy can be mounted over it.
const CheckFlag = "--check="

// ConfigObject is a key of a ConfigMap or Secret.
type ConfigObject struct {
	// Kind is ConfigMap or Secret.
	Kind      string
	Name, Key string
}

// String names the object in messages, without its key.
func (o ConfigObject) String() string { return o.Kind + " " + o.Name }

// Mounted is where a file comes from that a volume is mounted at as a whole.
type Mounted struct {
	// Volume is the volume's name, and Source what kind of volume it is, as its
	// field is called: "configMap".
	Volume, Source string
	// Objects hold the file: the first that exists and has its key counts. None
	// means that the file is in no object of Kubernetes.
	Objects []ConfigObject
	// Problem says why the mount cannot bring a file; "" otherwise.
	Problem string
}

// MountedFile finds where the file at a mount comes from.
func (w *Workload) MountedFile(m *corev1.VolumeMount) Mounted {
	f := Mounted{Volume: m.Name, Source: "persistentVolumeClaim"}
	v := findVolume(w.Template.Spec.Volumes, m.Name)
	if v == nil { // one that a StatefulSet makes a claim for
		return f
	}
	f.Source = sourceOf(v)
	var projections []corev1.VolumeProjection
	switch {
	case v.ConfigMap != nil:
		projections = []corev1.VolumeProjection{{ConfigMap: &corev1.ConfigMapProjection{
			LocalObjectReference: v.ConfigMap.LocalObjectReference, Items: v.ConfigMap.Items,
		}}}
	case v.Secret != nil:
		projections = []corev1.VolumeProjection{{Secret: &corev1.SecretProjection{
			LocalObjectReference: corev1.LocalObjectReference{Name: v.Secret.SecretName}, Items: v.Secret.Items,
		}}}
	case v.Projected != nil:
		projections = v.Projected.Sources
	default:
		return f
	}
	if m.SubPath == "" {
		f.Problem = fmt.Sprintf("is mounted without subPath, so config.yml is a folder there: set subPath to the file's path in the volume, such as %s", dstack.ConfigFile)
		return f
	}
	file := path.Clean(m.SubPath)
	for _, p := range slices.Backward(projections) { // a later one overwrites
		if o := objectOf(p, file); o.Key != "" {
			f.Objects = append(f.Objects, o)
		}
	}
	if len(f.Objects) == 0 {
		f.Problem = fmt.Sprintf("has no ConfigMap or Secret with an item whose path is %s, which subPath names: mend one of the two", file)
	}
	return f
}

// objectOf is the key that a projection would put at a path; none if it puts
// other keys there only.
func objectOf(p corev1.VolumeProjection, file string) ConfigObject {
	var o ConfigObject
	var items []corev1.KeyToPath
	switch {
	case p.ConfigMap != nil:
		o.Kind, o.Name, items = "ConfigMap", p.ConfigMap.Name, p.ConfigMap.Items
	case p.Secret != nil:
		o.Kind, o.Name, items = "Secret", p.Secret.Name, p.Secret.Items
	default:
		return o
	}
	if len(items) == 0 {
		o.Key = file
		return o
	}
	for _, item := range items {
		if path.Clean(item.Path) == file {
			o.Key = item.Key
		}
	}
	return o
}

// WritesAfter names the user's init containers that run after the operator's and
// mount a volume: what they write to config.yml comes too late. The API server
// puts an init container that another manager applies later behind the operator's.
func (w *Workload) WritesAfter(volume string) []string {
	var names []string
	ours := false
	for i := range w.Template.Spec.InitContainers {
		c := &w.Template.Spec.InitContainers[i]
		switch {
		case c.Name == InjectContainer:
			ours = true
		case ours && slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == volume && !m.ReadOnly }):
			names = append(names, c.Name)
		}
	}
	return names
}

// sourceOf is the name of the field that says what a volume is.
func sourceOf(v *corev1.Volume) string {
	source := reflect.ValueOf(v.VolumeSource)
	for i := range source.NumField() {
		if !source.Field(i).IsNil() {
			name, _, _ := strings.Cut(source.Type().Field(i).Tag.Get("json"), ",")
			return name
		}
	}
	return "emptyDir" // what the API server makes of none
}

// namesPlugin tells whether a pod's config.yml names the plugin: because it is
// the merged copy, or because it is the file that the init container has checked.
func namesPlugin(c, inject *corev1.Container, at Endpoint) bool {
	file := path.Join(at.ServerDir, dstack.ConfigFile)
	if mounts(c, at.ConfigVolume, file) {
		return true
	}
	server, checked := mountAt(c, file), (*corev1.VolumeMount)(nil)
	for _, arg := range inject.Args {
		if name, ok := strings.CutPrefix(arg, CheckFlag); ok {
			checked = mountAt(inject, path.Clean(name))
		}
	}
	return server != nil && checked != nil && server.Name == checked.Name &&
		server.SubPath == checked.SubPath && server.SubPathExpr == checked.SubPathExpr
}

func mountAt(c *corev1.Container, at string) *corev1.VolumeMount {
	for i := range c.VolumeMounts {
		if m := &c.VolumeMounts[i]; mountDir(m) == at {
			return m
		}
	}
	return nil
}
