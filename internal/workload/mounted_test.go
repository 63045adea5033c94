package workload_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/testkit"
	"github.com/dstack-isolation/operator/internal/workload"
)

const configFile = serverDir + "/config.yml"

func named(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }

func item(key, path string) []corev1.KeyToPath { return []corev1.KeyToPath{{Key: key, Path: path}} }

func TestMountedFile(t *testing.T) {
	configMap := func(items []corev1.KeyToPath) corev1.VolumeSource {
		return corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: named("dstack"), Items: items}}
	}
	projected := func(sources ...corev1.VolumeProjection) corev1.VolumeSource {
		return corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: sources}}
	}
	fromMap := func(name string, items []corev1.KeyToPath) corev1.VolumeProjection {
		return corev1.VolumeProjection{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: named(name), Items: items}}
	}
	fromSecret := func(name string, items []corev1.KeyToPath) corev1.VolumeProjection {
		return corev1.VolumeProjection{Secret: &corev1.SecretProjection{LocalObjectReference: named(name), Items: items}}
	}
	token := corev1.VolumeProjection{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}}
	const folder = "is mounted without subPath, so config.yml is a folder there: set subPath to the file's path in the volume, such as config.yml"
	cases := map[string]struct {
		source  corev1.VolumeSource
		subPath string
		want    workload.Mounted
	}{
		"a key of a ConfigMap": {
			configMap(nil), "config.yml",
			workload.Mounted{Source: "configMap", Objects: []workload.ConfigObject{{Kind: "ConfigMap", Name: "dstack", Key: "config.yml"}}},
		},
		"an item of a ConfigMap, not clean": {
			configMap(item("server", "etc/server.yml")), "./etc//server.yml",
			workload.Mounted{Source: "configMap", Objects: []workload.ConfigObject{{Kind: "ConfigMap", Name: "dstack", Key: "server"}}},
		},
		"an item that is another": {
			configMap(item("server", "server.yml")), "config.yml",
			workload.Mounted{Source: "configMap", Problem: "has no ConfigMap or Secret with an item whose path is config.yml, which subPath names: mend one of the two"},
		},
		"a whole ConfigMap": {configMap(nil), "", workload.Mounted{Source: "configMap", Problem: folder}},
		"a Secret": {
			corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "dstack", Items: item("config", "config.yml")}},
			"config.yml",
			workload.Mounted{Source: "secret", Objects: []workload.ConfigObject{{Kind: "Secret", Name: "dstack", Key: "config"}}},
		},
		"several projected: the last comes first": {
			projected(fromMap("first", nil), token, fromMap("other", item("a", "b")), fromSecret("last", item("c", "config.yml"))), "config.yml",
			workload.Mounted{Source: "projected", Objects: []workload.ConfigObject{{Kind: "Secret", Name: "last", Key: "c"}, {Kind: "ConfigMap", Name: "first", Key: "config.yml"}}},
		},
		"projected, and none of ours to read": {
			projected(token), "token",
			workload.Mounted{Source: "projected", Problem: "has no ConfigMap or Secret with an item whose path is token, which subPath names: mend one of the two"},
		},
		"a claim": {
			corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}},
			"config.yml",
			workload.Mounted{Source: "persistentVolumeClaim"},
		},
		"a file of the host": {corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/etc/dstack.yml"}}, "", workload.Mounted{Source: "hostPath"}},
		"a driver":           {corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: "secrets"}}, "config.yml", workload.Mounted{Source: "csi"}},
		"not even a kind":    {corev1.VolumeSource{}, "config.yml", workload.Mounted{Source: "emptyDir"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			w := workload.FromDeployment(testkit.MakeServerPod().Volume("config", tc.source).Deployment("d"))
			tc.want.Volume = "config"
			got := w.MountedFile(&corev1.VolumeMount{Name: "config", MountPath: configFile, SubPath: tc.subPath})
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
	got := workload.FromStatefulSet(testkit.MakeServerPod().ClaimTemplate("data").StatefulSet("s")).MountedFile(&corev1.VolumeMount{Name: "data"})
	if diff := cmp.Diff(workload.Mounted{Volume: "data", Source: "persistentVolumeClaim"}, got); diff != "" {
		t.Errorf("a claim of a StatefulSet, -want +got:\n%s", diff)
	}
}

// A pod whose config.yml is the user's own asks the policy server exactly if the
// init container has checked that very file.
func TestDeliveryOfACheckedFile(t *testing.T) {
	at := func(name, path, sub string) corev1.VolumeMount {
		return corev1.VolumeMount{Name: name, MountPath: path, SubPath: sub}
	}
	server := at("mine", configFile, "config.yml")
	cases := map[string]struct {
		args    []string
		checked corev1.VolumeMount
		server  corev1.VolumeMount
		want    v1alpha1.Delivery
	}{
		"the same file":     {[]string{"inject", "--check=/src/config.yml"}, at("mine", "/src/config.yml", "config.yml"), server, v1alpha1.DeliveryPython},
		"another volume":    {[]string{"inject", "--check=/src/config.yml"}, at("other", "/src/config.yml", "config.yml"), server, ""},
		"another file":      {[]string{"inject", "--check=/src/config.yml"}, at("mine", "/src/config.yml", "other.yml"), server, ""},
		"mounted elsewhere": {[]string{"inject", "--check=/src/config.yml"}, at("mine", "/src/other.yml", "config.yml"), server, ""},
		"only copied":       {[]string{"inject", "--source=/src/config.yml"}, at("mine", "/src/config.yml", "config.yml"), server, ""},
		"not the server's":  {[]string{"inject", "--check=/src/config.yml"}, at("mine", "/src/config.yml", "config.yml"), at("mine", "/etc/config.yml", "config.yml"), ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			pod := asking("config").Mount(tc.server).With(func(t *corev1.PodTemplateSpec) {
				t.Spec.InitContainers[0].Args, t.Spec.InitContainers[0].VolumeMounts = tc.args, []corev1.VolumeMount{tc.checked}
			}).Pod("p")
			got := workload.Running([]corev1.Pod{*pod}, testkit.ServerContainer, endpoint)
			want := v1alpha1.RunningSettings{Pods: 1, NetworkMode: 2}
			if tc.want != "" {
				want.PolicyPods, want.Deliveries = 1, []v1alpha1.Delivery{tc.want}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}
