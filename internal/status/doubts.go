package status

import (
	"cmp"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

// Doubts returns the doubts about a server's settings once some reasons were looked
// at: of these, found has all that hold now. Those of other reasons stay, because
// nothing has cleared them.
func Doubts(before []v1alpha1.SettingsDoubt, looked []string, found []Finding, now time.Time) []v1alpha1.SettingsDoubt {
	var out []v1alpha1.SettingsDoubt
	for _, d := range before {
		if !slices.Contains(looked, string(d.Reason)) {
			out = append(out, d)
		}
	}
	for _, f := range found {
		d := v1alpha1.SettingsDoubt{Reason: v1alpha1.SettingsDoubtReason(f.Reason), Message: clipTo(f.Message, 1000), Since: metav1.NewTime(now)}
		same := func(e v1alpha1.SettingsDoubt) bool { return e.Reason == d.Reason }
		if doubt(f.Reason) == "" || slices.ContainsFunc(out, same) {
			continue
		}
		if i := slices.IndexFunc(before, same); i >= 0 {
			d.Since = before[i].Since
		}
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b v1alpha1.SettingsDoubt) int { return cmp.Compare(a.Reason, b.Reason) })
	return out
}

// doubtOf tells why settings that are in place may not take effect, by the doubts that
// stand and by the reason of SettingsApplied; "" when nothing says so. No reason is no
// evidence: SettingsApplied has one reason at a time.
func doubtOf(standing []v1alpha1.SettingsDoubt, reason string) string {
	for _, d := range standing {
		if text := doubt(string(d.Reason)); text != "" {
			return text
		}
	}
	return doubt(reason)
}

// doubt tells why settings that are in place may not take effect, by the reason of
// SettingsApplied; "" for all other reasons.
func doubt(reason string) string {
	switch reason {
	case v1alpha1.ReasonConfigDisabled:
		return "the server is told to read no config.yml, so it may load no plugin"
	case v1alpha1.ReasonConfigMountClash:
		return "the server's config.yml may not name the plugin"
	case v1alpha1.ReasonSettingHidden:
		return "the server may not have a setting as the operator wrote it"
	default:
		return ""
	}
}
