package testkit

import (
	"cmp"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

// Namespace is where builders put their objects unless told otherwise.
const Namespace = "dstack"

// WorkloadName is the name of the workload that a built DstackServer names.
const WorkloadName = "dstack-server"

// Server builds a DstackServer. Each method changes it and returns it.
type Server struct{ o *v1alpha1.DstackServer }

// MakeServer begins a DstackServer of Deployment dstack-server whose
// unmatchedProjects are Open and enforced. Fields that the API server defaults
// are set as it would.
func MakeServer(name string) *Server {
	return &Server{&v1alpha1.DstackServer{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: Namespace},
		Spec: v1alpha1.DstackServerSpec{
			Workload:     v1alpha1.WorkloadReference{Kind: v1alpha1.WorkloadDeployment, Name: WorkloadName},
			API:          v1alpha1.ServerAPI{Port: 3000},
			ServerDir:    "/root/.dstack/server",
			Injection:    v1alpha1.InjectionEnabled,
			Rollout:      v1alpha1.RolloutAutomatic,
			PolicyPlugin: v1alpha1.PolicyPlugin{Delivery: v1alpha1.DeliveryPython, Replicas: 2},
			UnmatchedProjects: v1alpha1.UnmatchedProjects{
				Level: v1alpha1.LevelOpen, LevelVersion: v1alpha1.LevelVersionV1, Enforcement: v1alpha1.EnforcementEnforce,
			},
		},
	}}
}

// Obj is the built object.
func (b *Server) Obj() *v1alpha1.DstackServer { return b.o }

// Namespace sets metadata.namespace.
func (b *Server) Namespace(ns string) *Server { b.o.Namespace = ns; return b }

// UID sets metadata.uid, which an API server would give.
func (b *Server) UID(uid string) *Server { b.o.UID = types.UID(uid); return b }

// Generation sets metadata.generation, which an API server would give.
func (b *Server) Generation(n int64) *Server { b.o.Generation = n; return b }

// Annotation sets one annotation.
func (b *Server) Annotation(key, value string) *Server {
	metav1.SetMetaDataAnnotation(&b.o.ObjectMeta, key, value)
	return b
}

// Deleted marks it as being deleted since t.
func (b *Server) Deleted(t time.Time) *Server {
	b.o.DeletionTimestamp = ptr.To(metav1.NewTime(t))
	b.o.Finalizers = []string{v1alpha1.Finalizer}
	return b
}

// Workload sets kind and name of spec.workload.
func (b *Server) Workload(kind v1alpha1.WorkloadKind, name string) *Server {
	b.o.Spec.Workload.Kind, b.o.Spec.Workload.Name = kind, name
	return b
}

// Elsewhere makes it one of a server that runs elsewhere, at https://dstack.example.com,
// and reaches the policy server at https://policy.example.com.
func (b *Server) Elsewhere() *Server {
	b.o.Spec.Workload = v1alpha1.WorkloadReference{}
	b.o.Spec.API.URL, b.o.Spec.PolicyPlugin.URL = "https://dstack.example.com", "https://policy.example.com"
	b.o.Spec.Injection = v1alpha1.InjectionManual
	return b
}

// With changes the rest of the spec.
func (b *Server) With(change func(*v1alpha1.DstackServerSpec)) *Server { change(&b.o.Spec); return b }

// Container sets spec.workload.container.
func (b *Server) Container(name string) *Server { b.o.Spec.Workload.Container = name; return b }

// Port sets spec.api.port.
func (b *Server) Port(port int32) *Server { b.o.Spec.API.Port = port; return b }

// AdminToken sets spec.api.adminTokenSecretRef.
func (b *Server) AdminToken(secret, key string) *Server {
	b.o.Spec.API.AdminTokenSecretRef = &v1alpha1.SecretKeyReference{Name: secret, Key: key}
	return b
}

// ServerDir sets spec.serverDir.
func (b *Server) ServerDir(dir string) *Server { b.o.Spec.ServerDir = dir; return b }

// Injection sets spec.injection.
func (b *Server) Injection(i v1alpha1.Injection) *Server { b.o.Spec.Injection = i; return b }

// Delivery sets spec.policyPlugin.delivery.
func (b *Server) Delivery(d v1alpha1.Delivery) *Server { b.o.Spec.PolicyPlugin.Delivery = d; return b }

// Replicas sets spec.policyPlugin.replicas.
func (b *Server) Replicas(n int32) *Server { b.o.Spec.PolicyPlugin.Replicas = n; return b }

// RunAsUser sets spec.policyPlugin.runAsUser.
func (b *Server) RunAsUser(uid int64) *Server { b.o.Spec.PolicyPlugin.RunAsUser = &uid; return b }

// SSHProxy sets spec.sshProxy, with what the API server would add to a managed
// one.
func (b *Server) SSHProxy(p v1alpha1.SSHProxy) *Server {
	if m := p.Managed; m != nil {
		m.Image = cmp.Or(m.Image, "dstackai/sshproxy:0.0.2")
		m.Replicas = cmp.Or(m.Replicas, 3)
		m.TerminationGracePeriodSeconds = cmp.Or(m.TerminationGracePeriodSeconds, 600)
		m.Service.Type = cmp.Or(m.Service.Type, v1alpha1.SSHProxyLoadBalancer)
		m.Service.Port = cmp.Or(m.Service.Port, 22)
	}
	b.o.Spec.SSHProxy = &p
	return b
}

// Level sets spec.unmatchedProjects.level.
func (b *Server) Level(l v1alpha1.Level) *Server { b.o.Spec.UnmatchedProjects.Level = l; return b }

// Enforcement sets spec.unmatchedProjects.enforcement.
func (b *Server) Enforcement(e v1alpha1.Enforcement) *Server {
	b.o.Spec.UnmatchedProjects.Enforcement = e
	return b
}

// Controls changes spec.unmatchedProjects.controls.
func (b *Server) Controls(change func(*v1alpha1.Controls)) *Server {
	if b.o.Spec.UnmatchedProjects.Controls == nil {
		b.o.Spec.UnmatchedProjects.Controls = &v1alpha1.Controls{}
	}
	change(b.o.Spec.UnmatchedProjects.Controls)
	return b
}

// Condition sets one of status.conditions.
func (b *Server) Condition(kind string, status metav1.ConditionStatus, reason, message string) *Server {
	b.o.Status.Conditions = append(b.o.Status.Conditions, metav1.Condition{
		Type: kind, Status: status, Reason: reason, Message: message, ObservedGeneration: b.o.Generation,
	})
	return b
}

// Profile builds an IsolationProfile. Each method changes it and returns it.
type Profile struct{ o *v1alpha1.IsolationProfile }

// MakeProfile begins an Open, enforced profile of server main for the projects
// NAME-*. Fields that the API server defaults are set as it would.
func MakeProfile(name string) *Profile {
	return &Profile{&v1alpha1.IsolationProfile{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: Namespace},
		Spec: v1alpha1.IsolationProfileSpec{
			ServerRef:    v1alpha1.LocalObjectReference{Name: "main"},
			Projects:     v1alpha1.ProjectSelector{Include: []v1alpha1.ProjectPattern{v1alpha1.ProjectPattern(name + "-*")}},
			Level:        v1alpha1.LevelOpen,
			LevelVersion: v1alpha1.LevelVersionV1,
			Enforcement:  v1alpha1.EnforcementEnforce,
		},
	}}
}

// Obj is the built object.
func (b *Profile) Obj() *v1alpha1.IsolationProfile { return b.o }

// Namespace sets metadata.namespace.
func (b *Profile) Namespace(ns string) *Profile { b.o.Namespace = ns; return b }

// Generation sets metadata.generation, which an API server would give.
func (b *Profile) Generation(n int64) *Profile { b.o.Generation = n; return b }

// Server sets spec.serverRef.name.
func (b *Profile) Server(name string) *Profile { b.o.Spec.ServerRef.Name = name; return b }

// Include sets spec.projects.include.
func (b *Profile) Include(patterns ...v1alpha1.ProjectPattern) *Profile {
	b.o.Spec.Projects.Include = patterns
	return b
}

// Exclude sets spec.projects.exclude.
func (b *Profile) Exclude(patterns ...v1alpha1.ProjectPattern) *Profile {
	b.o.Spec.Projects.Exclude = patterns
	return b
}

// Level sets spec.level.
func (b *Profile) Level(l v1alpha1.Level) *Profile { b.o.Spec.Level = l; return b }

// LevelVersion sets spec.levelVersion.
func (b *Profile) LevelVersion(v v1alpha1.LevelVersion) *Profile {
	b.o.Spec.LevelVersion = v
	return b
}

// Audit sets spec.enforcement to Audit.
func (b *Profile) Audit() *Profile {
	b.o.Spec.Enforcement = v1alpha1.EnforcementAudit
	return b
}

// Controls lets set change spec.controls.
func (b *Profile) Controls(set func(*v1alpha1.Controls)) *Profile {
	if b.o.Spec.Controls == nil {
		b.o.Spec.Controls = &v1alpha1.Controls{}
	}
	set(b.o.Spec.Controls)
	return b
}

// AllowHostSSH sets spec.controls.hostSSH to Allowed.
func (b *Profile) AllowHostSSH() *Profile {
	return b.Controls(func(c *v1alpha1.Controls) { c.HostSSH = v1alpha1.Allowed })
}

// Fleets sets spec.controls.fleets.
func (b *Profile) Fleets(names ...v1alpha1.FleetName) *Profile {
	return b.Controls(func(c *v1alpha1.Controls) { c.Fleets = &v1alpha1.AllowedFleets{Allowed: names} })
}

// Exception adds an exception for user ada. A zero time means that it does not
// end.
func (b *Profile) Exception(name string, expires time.Time, controls ...v1alpha1.ControlName) *Profile {
	x := v1alpha1.Exception{Name: name, Users: []string{"ada"}, Controls: controls, Reason: "for a test"}
	if !expires.IsZero() {
		x.ExpiresAt = ptr.To(metav1.NewTime(expires))
	}
	b.o.Spec.Exceptions = append(b.o.Spec.Exceptions, x)
	return b
}

// Users sets the users of the last exception.
func (b *Profile) Users(names ...string) *Profile {
	b.o.Spec.Exceptions[len(b.o.Spec.Exceptions)-1].Users = names
	return b
}

// Rule adds a rule about runs.
func (b *Profile) Rule(name, expression, message string) *Profile {
	b.o.Spec.Rules = append(b.o.Spec.Rules, v1alpha1.Rule{
		Name: name, Kind: v1alpha1.RuleKindRun, Expression: expression, Message: message,
	})
	return b
}

// Hint sets spec.hint.
func (b *Profile) Hint(hint string) *Profile { b.o.Spec.Hint = hint; return b }
