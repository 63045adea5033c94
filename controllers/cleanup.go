package controllers

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/apply"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/observe"
	"github.com/dstack-isolation/operator/internal/uninstall"
	"github.com/dstack-isolation/operator/internal/workload"
)

// poll is how often a cleanup looks again.
const poll = time.Second

// Cleanup gives back all servers of a namespace without a manager: before the
// operator is uninstalled, and by hand where no manager is left.
type Cleanup struct {
	client    client.Client
	prober    *observe.Prober
	releaser  releaser
	namespace string
}

// NewCleanup works in one namespace through c, which must not be cached.
func NewCleanup(c client.Client, namespace string) *Cleanup {
	return &Cleanup{client: c, prober: observe.New(nil), releaser: releaser{client: c, live: c, applier: apply.New(c)}, namespace: namespace}
}

// Run stops the manager, gives every server its own settings back, waits until
// no pod asks a policy server any more, deletes what the operator made, and lets
// the DstackServers go. They are not deleted: they are the user's.
//
// When a server's pods do not go in time, the error names it; what was released
// stays released, and its policy server is kept, because without it dstack
// would refuse every run.
//
// An order on the manager's Deployment counts once: later the same Job may run
// again, by an apply of the chart, for an operator that is to stay.
func (c *Cleanup) Run(ctx context.Context, managerDeployment string) error {
	if managerDeployment == "" {
		return c.releaseAll(ctx)
	}
	if err := c.noteOrder(ctx, managerDeployment, func(a map[string]string) bool { return uninstall.Begin(a, time.Now()) }); err != nil {
		return err
	}
	if err := c.stopManager(ctx, managerDeployment); err != nil {
		return err
	}
	if err := c.releaseAll(ctx); err != nil {
		return err
	}
	return c.noteOrder(ctx, managerDeployment, uninstall.End)
}

// noteOrder changes the annotations about an order on the manager's Deployment. A
// manager that is gone has none.
func (c *Cleanup) noteOrder(ctx context.Context, manager string, change func(annotations map[string]string) bool) error {
	var d appsv1.Deployment
	err := c.client.Get(ctx, client.ObjectKey{Namespace: c.namespace, Name: manager}, &d)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read manager Deployment %s: %w", manager, err)
	}
	before := d.DeepCopy()
	if !change(d.Annotations) {
		return nil
	}
	err = c.client.Patch(ctx, &d, client.MergeFrom(before), client.FieldOwner(apply.OwnManager))
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("change annotations of manager Deployment %s, so that its order counts once: %w", manager, err)
	}
	return nil
}

// releaseAll gives all servers of the namespace back.
func (c *Cleanup) releaseAll(ctx context.Context) error {
	log := logr.FromContextOrDiscard(ctx)
	var servers v1alpha1.DstackServerList
	if err := c.client.List(ctx, &servers, client.InNamespace(c.namespace)); err != nil {
		return fmt.Errorf("list DstackServers: %w", err)
	}
	failed := make([]error, len(servers.Items))
	// At once, so that one whose pods do not go keeps no other from its release.
	var group sync.WaitGroup
	for i := range servers.Items {
		s, owner := servers.Items[i].DeepCopy(), owns(servers.Items, &servers.Items[i])
		group.Go(func() {
			if err := c.release(ctx, s, owner); err != nil {
				failed[i] = fmt.Errorf("DstackServer %s: %w", s.Name, err)
				return
			}
			log.Info("Released DstackServer", "name", s.Name, "workload", workloadKey(s))
		})
	}
	group.Wait()
	return errors.Join(failed...)
}

// owns tells whether a DstackServer, and not an older one, has its workload.
func owns(all []v1alpha1.DstackServer, s *v1alpha1.DstackServer) bool {
	for i := range all {
		if workloadKey(&all[i]) == workloadKey(s) && older(&all[i], s) && all[i].UID != s.UID {
			return false
		}
	}
	return true
}

func (c *Cleanup) release(ctx context.Context, s *v1alpha1.DstackServer, owner bool) error {
	if owner && !manifests.Elsewhere(s) {
		c.announce(ctx, s)
		if err := c.giveBack(ctx, s); err != nil {
			return fmt.Errorf("give %s back: %w", workloadKey(s), err)
		}
	}
	if err := c.releaser.deleteChildren(ctx, s, nil); err != nil {
		return err
	}
	// Whatever becomes of its status, a server that was given back may go.
	return errors.Join(c.forget(ctx, s), c.releaser.removeFinalizer(ctx, s))
}

// giveBack releases the workload and waits until the policy server is free to
// go. It tries again until ctx ends, but for what the API server will not allow
// the next time either.
func (c *Cleanup) giveBack(ctx context.Context, s *v1alpha1.DstackServer) error {
	var waiting string
	var failed error
	err := wait.PollUntilContextCancel(ctx, poll, true, func(ctx context.Context) (bool, error) {
		w, err := c.read(ctx, s)
		free := false
		if err == nil {
			free, err = c.releaser.release(ctx, s, w)
		}
		if err != nil {
			failed = err
			return false, hopeless(err)
		}
		waiting = "the settings were taken back, and a server pod still asks the policy server: look at the pods of the workload, and run the cleanup again" + blockedNote(w)
		if held := heldByManifest(w); held != "" {
			waiting = held
		}
		return free, nil
	})
	switch {
	case err == nil || hopeless(err) != nil:
		return err
	case waiting != "":
		return fmt.Errorf("%s: %w", waiting, err)
	default:
		return fmt.Errorf("%w: %w", err, failed)
	}
}

// hopeless is the error if the API server will not allow it the next time
// either, else nil.
func hopeless(err error) error {
	if apierrors.IsForbidden(err) || apierrors.IsInvalid(err) {
		return err
	}
	return nil
}

// read reads the workload; nil when it is gone.
func (c *Cleanup) read(ctx context.Context, s *v1alpha1.DstackServer) (*workload.Workload, error) {
	w, err := readWorkload(ctx, c.client, s)
	if err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	return w, nil
}

// stopManager scales the manager to zero, so that it does not set again what is
// being taken back, and waits until its last pod is gone. A manager that is gone
// is stopped.
func (c *Cleanup) stopManager(ctx context.Context, name string) error {
	key := client.ObjectKey{Namespace: c.namespace, Name: name}
	var d appsv1.Deployment
	err := c.client.Get(ctx, key, &d)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read manager Deployment %s: %w", name, err)
	}
	zero := &autoscalingv1.Scale{Spec: autoscalingv1.ScaleSpec{Replicas: 0}}
	zero.Namespace, zero.Name = c.namespace, name
	if err := c.client.SubResource("scale").Update(ctx, &d, client.WithSubResourceBody(zero)); err != nil {
		return fmt.Errorf("scale manager Deployment %s to zero: %w", name, err)
	}
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		return fmt.Errorf("read the selector of manager Deployment %s: %w", name, err)
	}
	err = wait.PollUntilContextCancel(ctx, poll, true, func(ctx context.Context) (bool, error) {
		var pods corev1.PodList
		err := c.client.List(ctx, &pods, client.InNamespace(c.namespace), client.MatchingLabelsSelector{Selector: selector})
		return len(workload.Live(pods.Items)) == 0, err
	})
	if err != nil {
		return fmt.Errorf("wait until the pods of manager Deployment %s are gone: %w", name, err)
	}
	return nil
}

// LeaveTerminatingNamespace lets the DstackServers of a namespace go that is
// being deleted. Kubernetes deletes pods first and everything else after that,
// so a manager in that namespace is gone before the DstackServers are: it calls
// this when it is told to stop. In any other namespace it does nothing.
func (c *Cleanup) LeaveTerminatingNamespace(ctx context.Context) error {
	terminating, err := namespaceTerminating(ctx, c.client, c.namespace)
	if err != nil || !terminating {
		return err
	}
	var servers v1alpha1.DstackServerList
	if err := c.client.List(ctx, &servers, client.InNamespace(c.namespace)); err != nil {
		return fmt.Errorf("list DstackServers: %w", err)
	}
	var failed []error
	for i := range servers.Items {
		failed = append(failed, c.releaser.removeFinalizer(ctx, &servers.Items[i]))
	}
	return errors.Join(failed...)
}
