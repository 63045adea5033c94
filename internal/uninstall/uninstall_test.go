package uninstall_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dstack-isolation/operator/internal/uninstall"
)

// deployment is a running manager of a release.
func deployment(release string, edit ...func(*appsv1.Deployment)) appsv1.Deployment {
	d := appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{
		Name: release + "-manager", Labels: uninstall.ManagerLabels(), Annotations: map[string]string{},
	}}
	d.Labels["app.kubernetes.io/instance"] = release
	d.Status.Replicas = 1
	for _, e := range edit {
		e(&d)
	}
	return d
}

func annotated(key, value string) func(*appsv1.Deployment) {
	return func(d *appsv1.Deployment) { d.Annotations[key] = value }
}

func deleted(d *appsv1.Deployment) { d.DeletionTimestamp = &metav1.Time{} }

func stopped(d *appsv1.Deployment) { d.Status.Replicas = 0 }

const (
	order   = uninstall.AnnotationOrder
	helms   = "meta.helm.sh/release-name"
	command = "kubectl -n gpu annotate --overwrite deployment a-manager isolation.dstack.ai/uninstall=a"
	remedy  = ": to restore the dstack servers, delete the DstackServers before you delete the operator, or run: " + command
	unknown = "cannot tell whether the release is being uninstalled: "
)

func TestJudge(t *testing.T) {
	for name, tc := range map[string]struct {
		record   string
		managers []appsv1.Deployment
		want     uninstall.Verdict
		wantErr  string
	}{
		"Helm uninstalls it": {
			record: "uninstalling", managers: []appsv1.Deployment{deployment("a", annotated(helms, "a"))},
			want: uninstall.Verdict{Restore: true, Waits: true, Reason: "Helm is uninstalling release a"},
		},
		"Helm uninstalls it, and its manager is gone": {
			record: "uninstalling",
			want:   uninstall.Verdict{Restore: true, Reason: "Helm is uninstalling release a"},
		},
		"it is ordered": {
			managers: []appsv1.Deployment{deployment("a", annotated(order, "a"))},
			want:     uninstall.Verdict{Restore: true, Waits: true, Reason: "annotation isolation.dstack.ai/uninstall of Deployment a-manager orders it"},
		},
		"it is ordered where Helm's records are elsewhere": {
			managers: []appsv1.Deployment{deployment("a", annotated(helms, "a"), annotated(order, "a"))},
			want:     uninstall.Verdict{Restore: true, Waits: true, Reason: "annotation isolation.dstack.ai/uninstall of Deployment a-manager orders it"},
		},
		"it is ordered while the release is deployed": {
			record: "deployed", managers: []appsv1.Deployment{deployment("a", annotated(order, "a"))},
			want: uninstall.Verdict{Restore: true, Waits: true, Reason: "annotation isolation.dstack.ai/uninstall of Deployment a-manager orders it"},
		},
		"the order names another release": {
			record: "uninstalling", managers: []appsv1.Deployment{deployment("a", annotated(order, "b"))},
			wantErr: unknown + `annotation isolation.dstack.ai/uninstall of Deployment a-manager is "b"; set it to the release's name, "a", or remove it`,
		},
		"it is rendered and applied": {
			managers: []appsv1.Deployment{deployment("a")},
			want:     uninstall.Verdict{Waits: true, Reason: "Helm has no release a in namespace gpu, so the operator is not known to be uninstalled" + remedy},
		},
		"it was never applied": {
			want: uninstall.Verdict{Reason: "Helm has no release a in namespace gpu, so the operator is not known to be uninstalled" + remedy},
		},
		"its manager does not run": {
			managers: []appsv1.Deployment{deployment("a", stopped)},
			want:     uninstall.Verdict{Reason: "Helm has no release a in namespace gpu, so the operator is not known to be uninstalled" + remedy},
		},
		"Helm installed it, and its record is elsewhere": {
			managers: []appsv1.Deployment{deployment("a", annotated(helms, "a"))},
			wantErr: unknown + "Helm installed Deployment a-manager, and namespace gpu has no Secret or ConfigMap with Helm's record of release a; " +
				"to restore the dstack servers, run: " + command,
		},
		"Helm's youngest record is not the last": {
			record:  "superseded",
			wantErr: unknown + `Helm's youngest record of release a has status "superseded", which a later record should replace; to restore the dstack servers, run: ` + command,
		},
		"a status that nobody knows": {
			record:  "dissolving",
			wantErr: unknown + `Helm's youngest record of release a has status "dissolving", which a later record should replace; to restore the dstack servers, run: ` + command,
		},
		"another release manages the namespace": {
			record: "uninstalling", managers: []appsv1.Deployment{deployment("a", annotated(order, "a")), deployment("b")},
			want: uninstall.Verdict{Reason: "namespace gpu is also managed by Deployment b-manager of release b: uninstall that too, or delete the DstackServers, to restore the dstack servers"},
		},
		"another one, scaled to zero, and one without a release": {
			record: "uninstalling", managers: []appsv1.Deployment{deployment("b", stopped), deployment("0", func(d *appsv1.Deployment) { delete(d.Labels, "app.kubernetes.io/instance") })},
			want: uninstall.Verdict{Reason: "namespace gpu is also managed by Deployment 0-manager and Deployment b-manager of release b: uninstall that too, or delete the DstackServers, to restore the dstack servers"},
		},
		"another release has a manager of the same name": {
			managers: []appsv1.Deployment{deployment("b", annotated(order, "a"), func(d *appsv1.Deployment) { d.Name = "a-manager" })},
			want:     uninstall.Verdict{Reason: "namespace gpu is also managed by Deployment a-manager of release b: uninstall that too, or delete the DstackServers, to restore the dstack servers"},
		},
		"another one, which is being deleted": {
			record: "uninstalling", managers: []appsv1.Deployment{deployment("b", deleted)},
			want: uninstall.Verdict{Restore: true, Reason: "Helm is uninstalling release a"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := uninstall.Evidence{
				Release: uninstall.Release{Namespace: "gpu", Name: "a", Manager: "a-manager"}, Record: tc.record, Managers: tc.managers,
			}
			got, err := uninstall.Judge(e)
			if tc.wantErr != "" {
				if err == nil || err.Error() != tc.wantErr || !errors.Is(err, uninstall.ErrUnknown) {
					t.Fatalf("error is %v, want %s", err, tc.wantErr)
				}
				if got.Restore {
					t.Fatal("what is unknown must restore nothing")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Fatal(diff)
			}
		})
	}
}

func TestAReleaseThatStaysIsLeftAlone(t *testing.T) {
	for _, record := range []string{"deployed", "failed", "pending-install", "pending-upgrade", "pending-rollback", "uninstalled"} {
		got, err := uninstall.Judge(uninstall.Evidence{Release: uninstall.Release{Namespace: "gpu", Name: "a", Manager: "a-manager"}, Record: record})
		want := uninstall.Verdict{Reason: "Helm is not uninstalling release a, its status is " + record + remedy}
		if err != nil || got != want {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
	}
}
