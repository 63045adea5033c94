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
// DSTACK_DATABASE_URL names another place. The variable's value is not
// repeated. urlByEnvFrom is true when an object that envFrom names certainly has
// that variable: what else comes by envFrom is no database.
func (w *Workload) DatabaseRisk(c *corev1.Container, serverDir string, urlByEnvFrom bool) string {
	file, what, risk := databaseFile(serverDir, databaseURL(c, urlByEnvFrom))
	if file == "" {
		return risk
	}
	m := FindConfig(c, file, "").Mount
	if m == nil {
		return what + " is on no volume"
	}
	if risk := w.volumeRisk(m.Name); risk != "" {
		return fmt.Sprintf("%s is on volume %q, %s", what, m.Name, risk)
	}
	return ""
}

// databaseFile finds the file of the database and how to speak of it. Without a
// file, risk says why it would be lost, or is empty for a database elsewhere.
func databaseFile(serverDir string, url Variable) (file, what, risk string) {
	own := path.Join(serverDir, "data")
	switch {
	case !url.Known:
		return "", "", "" // A Secret, or envFrom, is how an external database is named.
	case !url.Set || url.Value == "":
		return own, own, ""
	}
	local, isSQLite := sqlitePath(url.Value)
	what = "the SQLite file that " + dstack.EnvDatabaseURL + " names"
	switch {
	case !isSQLite:
		return "", "", ""
	case local == "" || local == ":memory:":
		return "", "", "the database that " + dstack.EnvDatabaseURL + " names is kept in memory"
	case !path.IsAbs(local):
		return "", "", what + " has a relative path, so it cannot be told where it is"
	}
	return path.Clean(local), what, ""
}

// databaseURL is what can be known of the variable that names the database. What
// the container sets itself wins over envFrom.
func databaseURL(c *corev1.Container, byEnvFrom bool) Variable {
	if Item(c, dstack.EnvDatabaseURL) == nil {
		return Variable{Set: byEnvFrom, Known: !byEnvFrom}
	}
	return Lookup(c, dstack.EnvDatabaseURL)
}

// sqlitePath reads the file from an SQLAlchemy URL: sqlite:///data/db is
// relative, sqlite+aiosqlite:////data/db is /data/db.
func sqlitePath(url string) (string, bool) {
	scheme, rest, _ := strings.Cut(url, "://")
	if !strings.HasPrefix(scheme, "sqlite") {
		return "", false
	}
	file, _, _ := strings.Cut(rest, "?")
	return strings.TrimPrefix(file, "/"), true
}

// volumeRisk says why a volume does not outlive its pod; "" when it does.
func (w *Workload) volumeRisk(name string) string {
	if slices.Contains(w.ClaimTemplates, name) {
		return ""
	}
	v := findVolume(w.Template.Spec.Volumes, name)
	if v == nil {
		return "which the pod template does not define"
	}
	var kind string
	switch {
	case v.EmptyDir != nil:
		kind = "an emptyDir"
	case v.GitRepo != nil:
		kind = "a gitRepo"
	case v.Ephemeral != nil:
		kind = "an ephemeral volume"
	case v.Image != nil:
		kind = "an image"
	case v.ConfigMap != nil, v.Secret != nil, v.Projected != nil, v.DownwardAPI != nil:
		kind = "a read-only volume of the cluster's own objects"
	case v.CSI != nil:
		kind = "an inline CSI volume"
	default:
		return ""
	}
	return kind + ", which does not outlive its pod"
}

// SQLite tells whether the server certainly keeps its database in a file;
// urlByEnvFrom as for DatabaseRisk.
func SQLite(c *corev1.Container, urlByEnvFrom bool) bool {
	url := databaseURL(c, urlByEnvFrom)
	return url.Known && (!url.Set || strings.HasPrefix(url.Value, "sqlite"))
}
