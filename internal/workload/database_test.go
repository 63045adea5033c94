package workload_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/dstack-isolation/operator/internal/testkit"
	"github.com/dstack-isolation/operator/internal/workload"
)

const (
	serverDir   = "/root/.dstack/server"
	databaseURL = "DSTACK_DATABASE_URL"
	secretURL   = "postgresql+asyncpg://dstack:hunter2@db.example.com/dstack"
)

func TestDatabaseRiskByVolume(t *testing.T) {
	const ephemeral = `/root/.dstack/server/data is on volume "data", %, which does not outlive its pod`
	cases := map[string]struct {
		source corev1.VolumeSource
		want   string
	}{
		"PersistentVolumeClaim": {source: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{}}},
		"hostPath":              {source: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{}}},
		"NFS":                   {source: corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{}}},
		"emptyDir":              {source: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}, want: "an emptyDir"},
		"ephemeral":             {source: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}, want: "an ephemeral volume"},
		"inline CSI":            {source: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{}}, want: "an inline CSI volume"},
		"ConfigMap":             {source: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{}}, want: "a read-only volume of the cluster's own objects"},
		"Secret":                {source: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{}}, want: "a read-only volume of the cluster's own objects"},
		"projected":             {source: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{}}, want: "a read-only volume of the cluster's own objects"},
		"downwardAPI":           {source: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{}}, want: "a read-only volume of the cluster's own objects"},
		"image":                 {source: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{}}, want: "an image"},
		"gitRepo":               {source: corev1.VolumeSource{GitRepo: &corev1.GitRepoVolumeSource{}}, want: "a gitRepo"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			pod := testkit.MakeServerPod().Volume("data", tc.source).Mount(corev1.VolumeMount{Name: "data", MountPath: serverDir})
			want := tc.want
			if want != "" {
				want = strings.Replace(ephemeral, "%", want, 1)
			}
			if got := risk(pod, false); got != want {
				t.Errorf("got  %q\nwant %q", got, want)
			}
		})
	}
}

func TestDatabaseRiskByPlace(t *testing.T) {
	claim := corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{}}
	temporary := corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}
	at := func(name, path string) corev1.VolumeMount { return corev1.VolumeMount{Name: name, MountPath: path} }
	const (
		noVolume  = "/root/.dstack/server/data is on no volume"
		named     = "the SQLite file that DSTACK_DATABASE_URL names is on no volume"
		relative  = "the SQLite file that DSTACK_DATABASE_URL names has a relative path, so it cannot be told where it is"
		inMemory  = "the database that DSTACK_DATABASE_URL names is kept in memory"
		lostOnTmp = `the SQLite file that DSTACK_DATABASE_URL names is on volume "tmp", an emptyDir, which does not outlive its pod`
	)
	cases := map[string]struct {
		pod *testkit.ServerPod
		// byEnvFrom is true when an object that envFrom names has the URL.
		byEnvFrom bool
		want      string
	}{
		"on no volume":                     {pod: testkit.MakeServerPod(), want: noVolume},
		"on a claim":                       {pod: testkit.MakeServerPod().Data()},
		"claim above, emptyDir on data":    {pod: testkit.MakeServerPod().Data().Volume("tmp", temporary).Mount(at("tmp", serverDir+"/data")), want: `/root/.dstack/server/data is on volume "tmp", an emptyDir, which does not outlive its pod`},
		"emptyDir above, claim on data":    {pod: testkit.MakeServerPod().Volume("tmp", temporary).Mount(at("tmp", serverDir)).Volume("data", claim).Mount(at("data", serverDir+"/data"))},
		"claim for config.yml only":        {pod: testkit.MakeServerPod().Volume("data", claim).Mount(at("data", serverDir+"/config.yml")), want: noVolume},
		"mount of no volume":               {pod: testkit.MakeServerPod().Mount(at("gone", serverDir)), want: `/root/.dstack/server/data is on volume "gone", which the pod template does not define`},
		"external, literal":                {pod: testkit.MakeServerPod().Env(databaseURL, secretURL)},
		"external, from a Secret":          {pod: testkit.MakeServerPod().EnvFromSecret(databaseURL, "db", "url")},
		"external, of several parts":       {pod: testkit.MakeServerPod().Env(databaseURL, "postgresql://$(PW)@db")},
		"external, by envFrom":             {pod: testkit.MakeServerPod().EnvFrom("settings"), byEnvFrom: true},
		"envFrom without the URL":          {pod: testkit.MakeServerPod().EnvFrom("settings"), want: noVolume},
		"envFrom, and SQLite beside it":    {pod: testkit.MakeServerPod().EnvFrom("settings").Env(databaseURL, "sqlite:////srv/x/db"), byEnvFrom: true, want: named},
		"empty URL":                        {pod: testkit.MakeServerPod().Env(databaseURL, ""), want: noVolume},
		"SQLite URL on a claim":            {pod: testkit.MakeServerPod().Volume("data", claim).Mount(at("data", "/srv")).Env(databaseURL, "sqlite+aiosqlite:////srv/db.sqlite?timeout=5")},
		"SQLite URL on a claim by file":    {pod: testkit.MakeServerPod().Volume("data", claim).Mount(at("data", "/srv/db.sqlite")).Env(databaseURL, "sqlite+aiosqlite:////srv/db.sqlite")},
		"SQLite URL on an emptyDir":        {pod: testkit.MakeServerPod().Volume("tmp", temporary).Mount(at("tmp", "/srv")).Env(databaseURL, "sqlite:////srv/x/db"), want: lostOnTmp},
		"SQLite URL off the claim":         {pod: testkit.MakeServerPod().Data().Env(databaseURL, "sqlite:////var/lib/db"), want: named},
		"SQLite URL, relative":             {pod: testkit.MakeServerPod().Volume("data", claim).Mount(at("data", "/srv")).Env(databaseURL, "sqlite:///srv/db"), want: relative},
		"SQLite in memory":                 {pod: testkit.MakeServerPod().Data().Env(databaseURL, "sqlite+aiosqlite:///:memory:"), want: inMemory},
		"SQLite in memory, without a path": {pod: testkit.MakeServerPod().Data().Env(databaseURL, "sqlite+aiosqlite://"), want: inMemory},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := risk(tc.pod, tc.byEnvFrom)
			if got != tc.want {
				t.Errorf("got  %q\nwant %q", got, tc.want)
			}
			if strings.Contains(got, "hunter2") || strings.Contains(got, "/srv") || strings.Contains(got, "/var/lib") {
				t.Errorf("%q repeats the value of a variable", got)
			}
		})
	}
}

func TestDatabaseRiskOfAStatefulSet(t *testing.T) {
	pod := testkit.MakeServerPod().ClaimTemplate("data").Mount(corev1.VolumeMount{Name: "data", MountPath: serverDir})
	w := workload.FromStatefulSet(pod.StatefulSet("dstack"))
	c, err := w.Container("")
	if err != nil {
		t.Fatal(err)
	}
	if got := w.DatabaseRisk(c, serverDir, false); got != "" {
		t.Errorf("got %q, want no risk: the volume has a claim template", got)
	}
}

func TestSQLite(t *testing.T) {
	cases := map[string]struct {
		pod             *testkit.ServerPod
		byEnvFrom, want bool
	}{
		"by default":                 {pod: testkit.MakeServerPod(), want: true},
		"by URL":                     {pod: testkit.MakeServerPod().Env(databaseURL, "sqlite+aiosqlite:////srv/db"), want: true},
		"another":                    {pod: testkit.MakeServerPod().Env(databaseURL, secretURL)},
		"not known":                  {pod: testkit.MakeServerPod().EnvFromSecret(databaseURL, "db", "url")},
		"not known, for envFrom":     {pod: testkit.MakeServerPod().EnvFrom("settings"), byEnvFrom: true},
		"by URL, whatever envFrom":   {pod: testkit.MakeServerPod().EnvFrom("settings").Env(databaseURL, "sqlite:////srv/db"), byEnvFrom: true, want: true},
		"envFrom brings other names": {pod: testkit.MakeServerPod().EnvFrom("settings"), want: true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			c := tc.pod.Template().Spec.Containers[0]
			if got := workload.SQLite(&c, tc.byEnvFrom); got != tc.want {
				t.Errorf("got %t, want %t", got, tc.want)
			}
		})
	}
}

func risk(pod *testkit.ServerPod, byEnvFrom bool) string {
	w := workload.FromDeployment(pod.Deployment(testkit.WorkloadName))
	return w.DatabaseRisk(&w.Template.Spec.Containers[0], serverDir, byEnvFrom)
}
