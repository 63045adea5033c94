package app

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

// conditions is the collector of one metric: what the status of each object says,
// at the time of the scrape. When that cannot be read the scrape fails, since a
// series that is left away looks like an object that is gone.
type conditions struct {
	reader client.Reader
	desc   *prometheus.Desc
}

// conditionsTimeout is shorter than the 10 seconds that Prometheus waits.
const conditionsTimeout = 8 * time.Second

// newConditions shows the objects of reader, which is the manager's cache.
func newConditions(reader client.Reader) *conditions {
	return &conditions{reader: reader, desc: prometheus.NewDesc("dstack_isolation_condition",
		"1 for each condition of a DstackServer or IsolationProfile, with its status (True, False, Unknown) and reason; Unknown and Outdated while it is of an earlier spec.",
		[]string{"kind", "name", "type", "status", "reason"}, nil)}
}

// Describe is part of prometheus.Collector.
func (c *conditions) Describe(descs chan<- *prometheus.Desc) { descs <- c.desc }

// Collect is part of prometheus.Collector.
func (c *conditions) Collect(metrics chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), conditionsTimeout)
	defer cancel()
	var servers v1alpha1.DstackServerList
	var profiles v1alpha1.IsolationProfileList
	for _, list := range []client.ObjectList{&servers, &profiles} {
		// Nothing is changed in what the cache shares with its other readers.
		if err := c.reader.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			metrics <- prometheus.NewInvalidMetric(c.desc, err)
			return
		}
	}
	for i := range servers.Items {
		c.send(metrics, "DstackServer", &servers.Items[i], servers.Items[i].Status.Conditions)
	}
	for i := range profiles.Items {
		c.send(metrics, "IsolationProfile", &profiles.Items[i], profiles.Items[i].Status.Conditions)
	}
}

// reasonOutdated is in no status: the condition is of an earlier spec, and the
// manager has not come to the present one.
const reasonOutdated = "Outdated"

func (c *conditions) send(metrics chan<- prometheus.Metric, kind string, of client.Object, all []metav1.Condition) {
	for _, condition := range all {
		status, reason := condition.Status, condition.Reason
		if status != metav1.ConditionUnknown && condition.ObservedGeneration < of.GetGeneration() {
			status, reason = metav1.ConditionUnknown, reasonOutdated
		}
		metrics <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, 1,
			kind, of.GetName(), condition.Type, string(status), reason)
	}
}
