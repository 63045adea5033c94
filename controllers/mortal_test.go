package controllers_test

import (
	"context"
	"errors"
	"fmt"
	"io"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

// fate is what befalls the manager at which of its writes.
type fate struct {
	// dies after a write: nothing that it sends later arrives. Another process
	// goes on, which remembers nothing.
	dies func(write int) bool
	// unanswered writes happen, and the manager, which lives on, sees an error.
	unanswered func(write int) bool
}

func never(int) bool  { return false }
func always(int) bool { return true }

func at(n int) func(int) bool { return func(write int) bool { return write == n } }

var (
	undisturbed = fate{dies: never, unanswered: never}
	errDead     = errors.New("the process is gone")
)

// mortal is a manager to which something happens while it works, and a look at
// each of its writes.
type mortal struct {
	*world
	kind v1alpha1.WorkloadKind
	fate
	dead bool
	// writes of all its lives, without those that changed nothing.
	writes []string
	// held is what the workload enforces, until releasing.
	held      held
	releasing bool
	// dropping is true while the SSH proxy is no more wanted.
	dropping bool
	// policy servers, once they are to follow what the manager says.
	policy []*policyServer
	// proxiesUp is true once the SSH proxies answer.
	proxiesUp bool
}

// makeMortal puts a manager in charge of a world that another one has left.
func makeMortal(w *world, kind v1alpha1.WorkloadKind, f fate) *mortal {
	m := &mortal{world: w, kind: kind, fate: f}
	w.config.Live = interceptor.NewClient(api.Client, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			return m.send(func() error { return c.Get(ctx, key, o, opts...) })
		},
	})
	w.withFaults(m.funcs())
	return m
}

// funcs stand between the manager and the API server.
func (m *mortal) funcs() interceptor.Funcs {
	return interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			return m.send(func() error { return c.Get(ctx, key, o, opts...) })
		},
		List: func(ctx context.Context, c client.WithWatch, l client.ObjectList, opts ...client.ListOption) error {
			return m.send(func() error { return c.List(ctx, l, opts...) })
		},
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			return m.write("create", o, func() error { return c.Create(ctx, o, opts...) })
		},
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			m.beforeDelete(o)
			return m.write("delete", o, func() error { return c.Delete(ctx, o, opts...) })
		},
		Update: func(context.Context, client.WithWatch, client.Object, ...client.UpdateOption) error {
			panic("the manager updates nothing")
		},
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
			if m.lastPatch(o) {
				return m.write("let go of", o, func() error { return c.Patch(ctx, o, p, opts...) })
			}
			return m.write("patch", o, func() error { return c.Patch(ctx, o, p, opts...) })
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
			return m.write("patch "+sub+" of", o, func() error { return c.SubResource(sub).Patch(ctx, o, p, opts...) })
		},
		Apply: func(ctx context.Context, c client.WithWatch, o runtime.ApplyConfiguration, opts ...client.ApplyOption) error {
			var options client.ApplyOptions
			options.ApplyOptions(opts)
			if len(options.DryRun) > 0 {
				return m.send(func() error { return c.Apply(ctx, o, opts...) })
			}
			return m.write("apply", o.(versioned), func() error { return c.Apply(ctx, o, opts...) })
		},
	}
}

// versioned is an object, or the configuration of one.
type versioned interface {
	GetName() string
	GetResourceVersion() string
}

// send is a request that changes nothing.
func (m *mortal) send(request func() error) error {
	if m.dead {
		return errDead
	}
	return request()
}

// write is a request that changes something, unless all is as it should be.
func (m *mortal) write(verb string, o versioned, request func() error) error {
	if m.dead {
		return errDead
	}
	before := m.versionOf(o)
	if err := request(); err != nil {
		return err
	}
	ends := verb == "delete" || verb == "let go of"
	if !ends && o.GetResourceVersion() == before {
		return nil
	}
	m.writes = append(m.writes, fmt.Sprintf("%s %s %s", verb, m.kindOf(o), o.GetName()))
	m.lookAtWrite(o)
	n := len(m.writes)
	if m.dies(n) {
		m.dead = true
		return errDead
	}
	if m.unanswered(n) {
		return fmt.Errorf("read the answer: %w", io.ErrUnexpectedEOF)
	}
	return nil
}

func (m *mortal) kindOf(o versioned) string {
	if named, is := o.(interface{ GetKind() string }); is {
		return named.GetKind()
	}
	return kindOf(o.(client.Object))
}

// versionOf is the resourceVersion of the object before the write; "" if it is
// not there.
func (m *mortal) versionOf(o versioned) string {
	GinkgoHelper()
	applied, is := o.(interface {
		GetKind() string
		GroupVersionKind() schema.GroupVersionKind
	})
	if !is {
		return o.GetResourceVersion()
	}
	var live metav1.PartialObjectMetadata
	live.SetGroupVersionKind(applied.GroupVersionKind())
	Expect(client.IgnoreNotFound(api.Client.Get(context.Background(), m.key(o.GetName()), &live))).To(Succeed())
	return live.ResourceVersion
}

// live lets the manager and everybody else work, in as many lives as it takes,
// until nothing changes any more.
func (m *mortal) live() {
	GinkgoHelper()
	for range 100 {
		before := len(m.writes)
		err := m.passOnce()
		switch {
		case m.dead:
			m.dead = false
			m.restart()
		case err != nil:
			Expect(err).To(MatchError(io.ErrUnexpectedEOF))
		}
		if others := m.play(); !others && err == nil && len(m.writes) == before {
			return
		}
	}
	Fail(fmt.Sprintf("a hundred passes, and it never ends: %v", m.writes))
}

// passOnce lets the manager look at DstackServer main once, and at all profiles.
func (m *mortal) passOnce() error {
	GinkgoHelper()
	ctx := context.Background()
	var errs []error
	var server v1alpha1.DstackServer
	if err := api.Client.Get(ctx, m.key("main"), &server); client.IgnoreNotFound(err) != nil {
		Expect(err).NotTo(HaveOccurred())
	} else if err == nil {
		_, err = m.reconciler.Reconcile(ctx, &server)
		errs = append(errs, err)
	}
	var all v1alpha1.IsolationProfileList
	Expect(api.Client.List(ctx, &all, client.InNamespace(m.ns))).To(Succeed())
	for i := range all.Items {
		_, err := m.profiles.Reconcile(ctx, &all.Items[i])
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
