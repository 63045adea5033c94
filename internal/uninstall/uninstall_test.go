package uninstall_test

import (
	"errors"
	"maps"
	"testing"
	"time"

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
	begun   = uninstall.AnnotationBegun
	// notEnded is what to do about an ordered cleanup that has not ended.
	notEnded = "; to restore the dstack servers, run: " + command + "; to keep them isolated, run: kubectl -n gpu annotate deployment a-manager isolation.dstack.ai/uninstall-begun-"
	// oldRecord says of a record that it shows no uninstall under way.
	oldRecord = ": an earlier uninstall failed and left it, or the clocks of this node and of the API server differ; to restore the dstack servers, run: " + command
)

var now = time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC)

// ago is a time before now, as an annotation has it.
func ago(d time.Duration) string { return now.Add(-d).Format(time.RFC3339) }

// written is a record that Helm wrote some time before now.
func written(d time.Duration, status string, revision int) uninstall.Record {
	return uninstall.Record{Status: status, Revision: revision, Written: now.Add(-d)}
}

func TestJudge(t *testing.T) {
	for name, tc := range map[string]struct {
		record   string
		records  []uninstall.Record
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
		"an ordered cleanup is tried again": {
			managers: []appsv1.Deployment{deployment("a", annotated(begun, ago(15*time.Minute)))},
			want:     uninstall.Verdict{Restore: true, Waits: true, Reason: "annotation isolation.dstack.ai/uninstall-begun of Deployment a-manager shows that an ordered cleanup began at 2026-03-01T11:45:00Z and has not ended"},
		},
		"an ordered cleanup did not end": {
			managers: []appsv1.Deployment{deployment("a", annotated(begun, ago(15*time.Minute+time.Second)))},
			wantErr:  unknown + "annotation isolation.dstack.ai/uninstall-begun of Deployment a-manager shows that an ordered cleanup began at 2026-03-01T11:44:59Z and has not ended" + notEnded,
		},
		"an ordered cleanup begins later": {
			managers: []appsv1.Deployment{deployment("a", annotated(begun, ago(-16*time.Minute)))},
			wantErr:  unknown + "annotation isolation.dstack.ai/uninstall-begun of Deployment a-manager shows that an ordered cleanup began at 2026-03-01T12:16:00Z and has not ended" + notEnded,
		},
		"an ordered cleanup began at no time": {
			managers: []appsv1.Deployment{deployment("a", annotated(begun, "b"))},
			wantErr:  unknown + `annotation isolation.dstack.ai/uninstall-begun of Deployment a-manager must be the time at which an ordered cleanup began, and is "b"` + notEnded,
		},
		"an ordered cleanup did not end, and is ordered again": {
			managers: []appsv1.Deployment{deployment("a", annotated(begun, ago(time.Hour)), annotated(order, "a"))},
			want:     uninstall.Verdict{Restore: true, Waits: true, Reason: "annotation isolation.dstack.ai/uninstall of Deployment a-manager orders it"},
		},
		"an ordered cleanup did not end, and Helm uninstalls it": {
			record: "uninstalling", managers: []appsv1.Deployment{deployment("a", annotated(begun, ago(time.Hour)))},
			want: uninstall.Verdict{Restore: true, Waits: true, Reason: "Helm is uninstalling release a"},
		},
		"Helm wrote its record when the Job may just have begun": {
			records: []uninstall.Record{written(15*time.Minute, "uninstalling", 2)},
			want:    uninstall.Verdict{Restore: true, Reason: "Helm is uninstalling release a"},
		},
		"the API server's clock is ahead": {
			records: []uninstall.Record{written(-15*time.Minute, "uninstalling", 2)},
			want:    uninstall.Verdict{Restore: true, Reason: "Helm is uninstalling release a"},
		},
		"an uninstall of Helm's failed earlier": {
			records: []uninstall.Record{written(15*time.Minute+time.Second, "uninstalling", 2)},
			wantErr: unknown + "Helm wrote status uninstalling of release a at 2026-03-01T11:44:59Z, and now it is 2026-03-01T12:00:00Z" + oldRecord,
		},
		"the API server's clock is far ahead": {
			records: []uninstall.Record{written(-16*time.Minute, "uninstalling", 2)},
			wantErr: unknown + "Helm wrote status uninstalling of release a at 2026-03-01T12:16:00Z, and now it is 2026-03-01T12:00:00Z" + oldRecord,
		},
		"Helm's record has no time": {
			records: []uninstall.Record{{Status: "uninstalling", Revision: 2}},
			wantErr: unknown + "Helm's record of release a has status uninstalling, and no managedFields tell when Helm wrote it" + oldRecord,
		},
		"an uninstall of Helm's failed before it kept its records elsewhere": {
			records: []uninstall.Record{written(time.Hour, "uninstalling", 9), written(time.Minute, "deployed", 1)},
			want:    uninstall.Verdict{Reason: "Helm is not uninstalling release a, its status is deployed" + remedy},
		},
		"an uninstall of Helm's failed after it kept its records elsewhere": {
			records: []uninstall.Record{written(3*time.Hour, "deployed", 9), written(time.Hour, "uninstalling", 1)},
			wantErr: unknown + "Helm wrote status uninstalling of release a at 2026-03-01T11:00:00Z, and now it is 2026-03-01T12:00:00Z" + oldRecord,
		},
		"Helm uninstalls it, and kept its records elsewhere before": {
			records: []uninstall.Record{written(time.Hour, "deployed", 9), written(time.Minute, "uninstalling", 1)},
			want:    uninstall.Verdict{Restore: true, Reason: "Helm is uninstalling release a"},
		},
		"two records are of the same time": {
			records: []uninstall.Record{written(time.Minute, "uninstalling", 1), written(time.Minute, "deployed", 2)},
			want:    uninstall.Verdict{Reason: "Helm is not uninstalling release a, its status is deployed" + remedy},
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
				Release: uninstall.Release{Namespace: "gpu", Name: "a", Manager: "a-manager"}, Records: tc.records, Managers: tc.managers, Now: now,
			}
			if tc.record != "" {
				e.Records = []uninstall.Record{written(time.Minute, tc.record, 1)}
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
		got, err := uninstall.Judge(uninstall.Evidence{
			Release: uninstall.Release{Namespace: "gpu", Name: "a", Manager: "a-manager"}, Records: []uninstall.Record{written(24*time.Hour, record, 1)}, Now: now,
		})
		want := uninstall.Verdict{Reason: "Helm is not uninstalling release a, its status is " + record + remedy}
		if err != nil || got != want {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
	}
}

// changed is what the API server notes of a change by somebody, some time before now.
func changed(by string, ago time.Duration, fields string) metav1.ManagedFieldsEntry {
	return metav1.ManagedFieldsEntry{
		Manager: by, Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: "v1",
		Time: &metav1.Time{Time: now.Add(-ago)}, FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(fields),
	}
}

func TestReadRecord(t *testing.T) {
	const (
		all    = `{"f:data":{".":{},"f:release":{}},"f:metadata":{"f:labels":{".":{},"f:status":{},"f:version":{}}},"f:type":{}}`
		status = `{"f:metadata":{"f:labels":{"f:status":{}}}}`
	)
	labels := map[string]string{"status": "uninstalling", "version": "12", "createdAt": "1", "modifiedAt": "1772366400"}
	for name, tc := range map[string]struct {
		labels  map[string]string
		changes []metav1.ManagedFieldsEntry
		want    uninstall.Record
	}{
		"one of Helm's":                  {labels, []metav1.ManagedFieldsEntry{changed("helm", time.Hour, all)}, written(time.Hour, "uninstalling", 12)},
		"one with a younger label":       {labels, []metav1.ManagedFieldsEntry{changed("helm", time.Hour, all), changed("backup", 0, `{"f:metadata":{"f:labels":{"f:backup":{}}}}`)}, written(time.Hour, "uninstalling", 12)},
		"one of two Helms":               {labels, []metav1.ManagedFieldsEntry{changed("helm", time.Hour, status), changed("terraform", time.Minute, all)}, written(time.Minute, "uninstalling", 12)},
		"one with two owners":            {labels, []metav1.ManagedFieldsEntry{changed("terraform", time.Minute, all), changed("helm", time.Hour, all)}, written(time.Minute, "uninstalling", 12)},
		"one whose content is not named": {labels, []metav1.ManagedFieldsEntry{changed("helm", 0, status)}, uninstall.Record{Status: "uninstalling", Revision: 12}},
		"one without a time":             {labels, []metav1.ManagedFieldsEntry{{Manager: "helm", FieldsV1: metav1.NewFieldsV1(all)}}, uninstall.Record{Status: "uninstalling", Revision: 12}},
		"one with fields that nobody can read": {
			map[string]string{"status": "deployed", "version": "x"},
			[]metav1.ManagedFieldsEntry{changed("helm", 0, "{"), {Manager: "helm", Time: &metav1.Time{Time: now}}},
			uninstall.Record{Status: "deployed"},
		},
		"nothing": {},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, uninstall.ReadRecord(&metav1.ObjectMeta{Labels: tc.labels, ManagedFields: tc.changes})); diff != "" {
				t.Fatal(diff)
			}
		})
	}
}

func TestAnOrderCountsOnce(t *testing.T) {
	for name, tc := range map[string]struct {
		annotations      map[string]string
		afterBegin       map[string]string
		begins, hasEnded bool
	}{
		"no order":      {annotations: map[string]string{"theirs": "1"}, afterBegin: map[string]string{"theirs": "1"}},
		"no annotation": {},
		"an order": {
			annotations: map[string]string{"theirs": "1", order: "a"}, afterBegin: map[string]string{"theirs": "1", begun: ago(0)},
			begins: true, hasEnded: true,
		},
		"another try of an order": {
			annotations: map[string]string{begun: ago(time.Minute)}, afterBegin: map[string]string{begun: ago(time.Minute)}, hasEnded: true,
		},
		"another order, after one that did not end": {
			annotations: map[string]string{order: "a", begun: ago(time.Hour)}, afterBegin: map[string]string{begun: ago(0)},
			begins: true, hasEnded: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := maps.Clone(tc.annotations)
			if begins := uninstall.Begin(got, now); begins != tc.begins {
				t.Errorf("begins: %v", begins)
			}
			if diff := cmp.Diff(tc.afterBegin, got); diff != "" {
				t.Error(diff)
			}
			if ended := uninstall.End(got); ended != tc.hasEnded {
				t.Errorf("ended: %v", ended)
			}
			for _, key := range []string{order, begun} {
				if value, is := got[key]; is {
					t.Errorf("%s stays: %s", key, value)
				}
			}
			if got["theirs"] != tc.annotations["theirs"] {
				t.Error("an annotation of somebody else's went")
			}
		})
	}
}
