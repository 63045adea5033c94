package workload

import (
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/dstack-isolation/operator/internal/dstack"
)

// DatabaseRisk says why a restart would lose the server's database, or "" when
// it would not. dstack keeps an SQLite file below the server directory unless
// DSTACK_DATABASE_URL names another place.
func (w *Workload) DatabaseRisk(c *corev1.Container, serverDir string) string {
	file := path.Join(serverDir, "data")
	switch url := Lookup(c, dstack.EnvDatabaseURL); {
	case url.Set && !url.Known:
		return "" // A reference to a Secret is how an external database is named.
	case url.Set && url.Value != "":
		local, isSQLite := sqlitePath(url.Value)
		if !isSQLite {
			return ""
		}
		file = local
	case !url.Set && !url.Known:
		return "" // envFrom may name an external database; a volume cannot be asked for.
	}
	m := FindConfig(c, file, "").Mount
	if m == nil {
		return fmt.Sprintf("%s is on no volume", file)
	}
	return w.volumeRisk(m.Name, file)
}

// sqlitePath reads the file from a URL such as sqlite+aiosqlite:////data/db.
func sqlitePath(url string) (string, bool) {
	scheme, rest, _ := strings.Cut(url, "://")
	if !strings.HasPrefix(scheme, "sqlite") {
		return "", false
	}
	file, _, _ := strings.Cut(rest, "?")
	return path.Clean("/" + strings.TrimLeft(file, "/")), true
}

func (w *Workload) volumeRisk(name, file string) string {
	if slices.Contains(w.ClaimTemplates, name) {
		return ""
	}
	v := findVolume(w.Template.Spec.Volumes, name)
	if v == nil {
		return fmt.Sprintf("%s is on volume %q, which the pod template does not define", file, name)
	}
	kind := ""
	switch {
	case v.EmptyDir != nil:
		kind = "an emptyDir"
	case v.Ephemeral != nil:
		kind = "an ephemeral volume"
	case v.ConfigMap != nil, v.Secret != nil, v.Projected != nil, v.DownwardAPI != nil:
		kind = "a read-only volume of the cluster's own objects"
	case v.CSI != nil:
		kind = "an inline CSI volume"
	default:
		return ""
	}
	return fmt.Sprintf("%s is on volume %q, %s, which does not outlive its pod", file, name, kind)
}

// SQLite tells whether the server certainly keeps its database in a file.
func SQLite(c *corev1.Container) bool {
	url := Lookup(c, dstack.EnvDatabaseURL)
	return url.Known && (!url.Set || strings.HasPrefix(url.Value, "sqlite"))
}
