package app

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationv1client "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

// A manager that loses its lease ends. While the API server is away no lease can be
// renewed, and nothing is gained by a restart: so it is given time. One that is told
// to stop lets go of the lease, and one that is killed comes back in the same pod,
// under the same name, and goes on at once: others wait for the whole time only when
// a node is lost, and policy servers need no manager meanwhile.
const (
	leaseDuration = 2 * time.Minute
	renewDeadline = 100 * time.Second
	leaseRetry    = 4 * time.Second
	// leaseTimeout bounds one request, so that one which hangs does not cost the lease.
	leaseTimeout = 10 * time.Second

	leaseName = "manager." + v1alpha1.Group
)

// leaseLock is the lease, held under the name of the pod: no two containers of the
// manager run in one pod at a time. Nil without a name; the library makes one up
// then, which is another after each restart.
func leaseLock(config *rest.Config, o ManagerOptions) (resourcelock.Interface, error) {
	if !o.LeaderElect || o.Identity == "" {
		return nil, nil //nolint:nilnil // as the library takes it
	}
	config = rest.AddUserAgent(rest.CopyConfig(config), "leader-election")
	config.Timeout = leaseTimeout
	c, err := coordinationv1client.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("build a client for the lease: %w", err)
	}
	return &resourcelock.LeaseLock{
		LeaseMeta:  metav1.ObjectMeta{Namespace: o.Namespace, Name: leaseName},
		Client:     c,
		LockConfig: resourcelock.ResourceLockConfig{Identity: o.Identity},
	}, nil
}
