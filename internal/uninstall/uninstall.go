// Package uninstall judges whether a release of the chart is being uninstalled.
// Tools that render the chart and apply it run the cleanup at an install, and
// Argo CD runs it at every deletion of an Application: that the cleanup runs is
// no evidence that the release goes.
package uninstall

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

const (
	// AnnotationOrder on the manager's Deployment, with the release's name as value,
	// orders the cleanup to restore the dstack servers.
	AnnotationOrder = v1alpha1.Group + "/uninstall"
	// AnnotationBegun takes the place of an order that is being carried out, with the
	// time as value, until that has ended. So an order counts once, and a Job that
	// tries again goes on with it.
	AnnotationBegun = v1alpha1.Group + "/uninstall-begun"

	// annotationHelm is set by Helm on what it installs, and by no tool that only
	// renders the chart.
	annotationHelm = "meta.helm.sh/release-name"
	labelInstance  = "app.kubernetes.io/instance"
)

// ManagerLabels are those of every Deployment of a manager.
func ManagerLabels() map[string]string {
	return map[string]string{"app.kubernetes.io/name": "dstack-isolation", "app.kubernetes.io/component": "manager"}
}

// Release is the release that a cleanup belongs to.
type Release struct {
	Namespace, Name string
	// Manager is the name of its manager's Deployment.
	Manager string
}

// Evidence is what is known of a release and of its namespace.
type Evidence struct {
	Release
	// Records are Helm's youngest record of the release in each place where Helm may
	// keep them.
	Records []Record
	// Managers are the Deployments of all managers in the namespace.
	Managers []appsv1.Deployment
	// Now is the time of the judgement.
	Now time.Time
}

// Verdict says what a cleanup does.
type Verdict struct {
	// Restore is true when the release is being uninstalled.
	Restore bool
	// Reason says why, or why not.
	Reason string
	// Waits is true when the release's own manager runs, so that the servers that are
	// being deleted need it.
	Waits bool
}

// ErrUnknown is returned when it cannot be known whether the release is being
// uninstalled.
var ErrUnknown = errors.New("cannot tell whether the release is being uninstalled")

// Judge decides by the evidence. Servers that another manager works are never this
// release's, whatever is ordered.
func Judge(e Evidence) (Verdict, error) {
	own := e.own()
	v := Verdict{Waits: own != nil && own.DeletionTimestamp == nil && own.Status.Replicas > 0}
	if others := e.others(); len(others) > 0 {
		v.Waits = false
		v.Reason = fmt.Sprintf("namespace %s is also managed by %s: uninstall that too, or delete the DstackServers, to restore the dstack servers", e.Namespace, strings.Join(others, " and "))
		return v, nil
	}
	if own != nil {
		switch order := own.Annotations[AnnotationOrder]; order {
		case "":
		case e.Name:
			v.Restore, v.Reason = true, fmt.Sprintf("annotation %s of Deployment %s orders it", AnnotationOrder, e.Manager)
			return v, nil
		default:
			return v, fmt.Errorf("%w: annotation %s of Deployment %s is %q; set it to the release's name, %q, or remove it", ErrUnknown, AnnotationOrder, e.Manager, order, e.Name)
		}
	}
	return e.withoutOrder(v)
}

// withoutOrder decides where there is no order that waits: by Helm's records, and
// by an order that is being carried out.
func (e Evidence) withoutOrder(v Verdict) (Verdict, error) {
	own, record := e.own(), e.youngest()
	switch {
	case record.Status == recordUninstalling && e.recent(record.Written):
		v.Restore, v.Reason = true, fmt.Sprintf("Helm is uninstalling release %s", e.Name)
	case own != nil && own.Annotations[AnnotationBegun] != "":
		return e.begun(v, own.Annotations[AnnotationBegun])
	case record.Status == recordUninstalling:
		return v, e.leftover(record)
	case slices.Contains(recordsThatStay, record.Status):
		v.Reason = fmt.Sprintf("Helm is not uninstalling release %s, its status is %s: %s", e.Name, record.Status, e.remedy())
	case record.Status != "":
		return v, fmt.Errorf("%w: Helm's youngest record of release %s has status %q, which a later record should replace; %s", ErrUnknown, e.Name, record.Status, e.command())
	case own != nil && own.Annotations[annotationHelm] != "":
		return v, fmt.Errorf("%w: Helm installed Deployment %s, and namespace %s has no Secret or ConfigMap with Helm's record of release %s; %s",
			ErrUnknown, e.Manager, e.Namespace, e.Name, e.command())
	default:
		v.Reason = fmt.Sprintf("Helm has no release %s in namespace %s, so the operator is not known to be uninstalled: %s", e.Name, e.Namespace, e.remedy())
	}
	return v, nil
}

// own is the release's own manager; nil when it is not there.
func (e Evidence) own() *appsv1.Deployment {
	for i := range e.Managers {
		if e.owns(&e.Managers[i]) {
			return &e.Managers[i]
		}
	}
	return nil
}

// owns tells the release's manager from that of another release which has the same
// name, by fullnameOverride.
func (e Evidence) owns(d *appsv1.Deployment) bool {
	release := d.Labels[labelInstance]
	return d.Name == e.Manager && (release == "" || release == e.Name)
}

// others names the managers of other releases, also one that is scaled to zero: it
// may come back at any time.
func (e Evidence) others() []string {
	var names []string
	for i := range e.Managers {
		d := &e.Managers[i]
		if e.owns(d) || d.DeletionTimestamp != nil {
			continue
		}
		name := "Deployment " + d.Name
		if release := d.Labels[labelInstance]; release != "" {
			name += " of release " + release
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// remedy says how to restore the servers where nothing shows that the release goes.
func (e Evidence) remedy() string {
	return "to restore the dstack servers, delete the DstackServers before you delete the operator, or " + e.order()
}

func (e Evidence) command() string { return "to restore the dstack servers, " + e.order() }

func (e Evidence) order() string {
	return fmt.Sprintf("run: kubectl -n %s annotate --overwrite deployment %s %s=%s", e.Namespace, e.Manager, AnnotationOrder, e.Name)
}
