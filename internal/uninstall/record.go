package uninstall

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// recordUninstalling is the status of a release whose uninstall has begun.
const recordUninstalling = "uninstalling"

// recordsThatStay are the statuses of a release that nobody uninstalls. A
// superseded one has a younger record, which decides.
var recordsThatStay = []string{"deployed", "failed", "pending-install", "pending-upgrade", "pending-rollback", "uninstalled"}

// lasts is how long evidence counts after it was written. Helm writes its record
// just before it creates the Job, whose pod may wait for a node. An uninstall that
// fails leaves the record behind.
const lasts = 15 * time.Minute

// Record is one of Helm's records of a release.
type Record struct {
	Status   string
	Revision int
	// Written is when Helm wrote it last; zero when that is not known.
	Written time.Time
}

// content is where Secrets and ConfigMaps have what Helm records, which changes with
// each write of Helm's.
var content = fieldpath.MakePathOrDie("data", "release")

// ReadRecord reads the labels of Helm's records, which are the same in Secrets and
// ConfigMaps. Their label modifiedAt is not when they were written: Helm 3 and Helm
// 4 set the former value again. So the time is the API server's, of the last change
// of the content: whoever sets a label makes no record younger.
func ReadRecord(meta *metav1.ObjectMeta) Record {
	r := Record{Status: meta.Labels["status"]}
	r.Revision, _ = strconv.Atoi(meta.Labels["version"])
	for i := range meta.ManagedFields {
		entry := &meta.ManagedFields[i]
		if entry.Time == nil || entry.FieldsV1 == nil || !entry.Time.After(r.Written) {
			continue
		}
		var set fieldpath.Set
		if set.FromJSON(entry.FieldsV1.GetRawReader()) == nil && set.Has(content) {
			r.Written = entry.Time.UTC()
		}
	}
	return r
}

// youngest is the record that Helm wrote last; a zero one when there is none. Where
// a release was installed anew with its records in another place, its revisions
// begin at 1 again, so the time decides.
func (e Evidence) youngest() Record {
	if len(e.Records) == 0 {
		return Record{}
	}
	return slices.MaxFunc(e.Records, func(a, b Record) int {
		return cmp.Or(a.Written.Compare(b.Written), cmp.Compare(a.Revision, b.Revision))
	})
}

// recent tells whether something was written so shortly before now, or by a clock
// that is so little ahead, that it is about what happens now.
func (e Evidence) recent(written time.Time) bool {
	return e.Now.Sub(written).Abs() <= lasts
}

// leftover is the error about a record of an uninstall that is not known to be
// under way.
func (e Evidence) leftover(r Record) error {
	what := fmt.Sprintf("Helm wrote status %s of release %s at %s, and now it is %s", r.Status, e.Name, r.Written.Format(time.RFC3339), e.Now.UTC().Format(time.RFC3339))
	if r.Written.IsZero() {
		what = fmt.Sprintf("Helm's record of release %s has status %s, and no managedFields tell when Helm wrote it", e.Name, r.Status)
	}
	return fmt.Errorf("%w: %s: an earlier uninstall failed and left it, or the clocks of this node and of the API server differ; %s", ErrUnknown, what, e.command())
}
