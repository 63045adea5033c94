//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

const (
	namespace = "dstack"
	// projectsEach is how many projects a profile names.
	projectsEach = 10
)

// apiServer serves lists and watches of one DstackServer and its profiles, and
// nothing else: 10,000 objects in a real API server would take minutes to make.
type apiServer struct {
	mu       sync.Mutex
	version  int
	profiles []v1alpha1.IsolationProfile
	changes  map[chan []byte]bool
	listener net.Listener
	server   *http.Server
}

func startAPIServer(profiles int) (*apiServer, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &apiServer{version: 1, changes: map[chan []byte]bool{}, listener: listener}
	for i := range profiles {
		s.profiles = append(s.profiles, newProfile(i))
	}
	mux := http.NewServeMux()
	prefix := "GET /apis/" + v1alpha1.GroupVersion.String() + "/namespaces/" + namespace
	mux.HandleFunc(prefix+"/dstackservers", func(w http.ResponseWriter, r *http.Request) {
		s.serve(w, r, "DstackServerList", nil, []any{newServer()})
	})
	mux.HandleFunc(prefix+"/isolationprofiles", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		items := make([]any, len(s.profiles))
		for i := range s.profiles {
			items[i] = s.profiles[i]
		}
		changes := make(chan []byte, 1)
		s.changes[changes] = true
		s.mu.Unlock()
		s.serve(w, r, "IsolationProfileList", changes, items)
	})
	s.server = &http.Server{Handler: mux}
	go func() { _ = s.server.Serve(listener) }()
	return s, nil
}

func (s *apiServer) stop() { _ = s.server.Close() }

// serve answers a list, or a watch that may begin with what is there.
func (s *apiServer) serve(w http.ResponseWriter, r *http.Request, kind string, changes <-chan []byte, items []any) {
	w.Header().Set("Content-Type", "application/json")
	if r.URL.Query().Get("watch") != "true" {
		_ = json.NewEncoder(w).Encode(map[string]any{
			"apiVersion": v1alpha1.GroupVersion.String(), "kind": kind,
			"metadata": map[string]string{"resourceVersion": "1"}, "items": items,
		})
		return
	}
	encoder := json.NewEncoder(w)
	if r.URL.Query().Get("sendInitialEvents") == "true" {
		for _, item := range items {
			_ = encoder.Encode(map[string]any{"type": "ADDED", "object": item})
		}
		_ = encoder.Encode(map[string]any{"type": "BOOKMARK", "object": map[string]any{
			"apiVersion": v1alpha1.GroupVersion.String(), "kind": strings.TrimSuffix(kind, "List"),
			"metadata": map[string]any{"resourceVersion": "1", "annotations": map[string]string{metav1.InitialEventsAnnotationKey: "true"}},
		}})
	}
	for {
		_ = http.NewResponseController(w).Flush()
		select {
		case <-r.Context().Done():
			return
		case change := <-changes:
			_, _ = w.Write(change)
		}
	}
}

// change changes the hint of one profile and tells who watches.
func (s *apiServer) change(i int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	p := &s.profiles[i]
	p.Generation++
	p.ResourceVersion = strconv.Itoa(s.version)
	p.Spec.Hint = "Ask the platform team, " + p.ResourceVersion + "."
	event, err := json.Marshal(map[string]any{"type": "MODIFIED", "object": p})
	if err != nil {
		return err
	}
	for changes := range s.changes {
		select {
		case changes <- event:
		default: // a list, or a watch that has ended
		}
	}
	return nil
}

func (s *apiServer) kubeconfig(file string) error {
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "http://%s"}}]
users: [{name: u, user: {}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`, s.listener.Addr())
	return os.WriteFile(file, []byte(text), 0o600)
}

func newServer() *v1alpha1.DstackServer {
	server := &v1alpha1.DstackServer{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "DstackServer"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "main", UID: "server", Generation: 1, ResourceVersion: "1"},
	}
	server.Spec.Workload = v1alpha1.WorkloadReference{Kind: "Deployment", Name: "dstack-server"}
	server.Spec.UnmatchedProjects = v1alpha1.UnmatchedProjects{Level: v1alpha1.LevelRestricted, Enforcement: v1alpha1.EnforcementEnforce}
	server.Status.Running = &v1alpha1.RunningSettings{Pods: 1, PolicyPods: 1, NetworkMode: v1alpha1.NetworkModeBridge}
	return server
}

// projectOf is the first project of a profile.
func projectOf(i int) string { return fmt.Sprintf("team-%05d-project-0", i) }

// newProfile has what an API server sends with a profile in use: field managers
// and a status, which the policy server does not keep.
func newProfile(i int) v1alpha1.IsolationProfile {
	name := fmt.Sprintf("team-%05d", i)
	p := v1alpha1.IsolationProfile{
		TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "IsolationProfile"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name, UID: types.UID(name), Generation: 1, ResourceVersion: "1",
			Labels: map[string]string{"app.kubernetes.io/managed-by": "Helm", "team": name},
			ManagedFields: []metav1.ManagedFieldsEntry{{
				Manager: "helm", Operation: metav1.ManagedFieldsOperationApply, APIVersion: v1alpha1.GroupVersion.String(), FieldsType: "FieldsV1",
				FieldsV1: metav1.NewFieldsV1(`{"f:metadata":{"f:labels":{"f:app.kubernetes.io/managed-by":{},"f:team":{}}},"f:spec":{"f:controls":{"f:hostSSH":{}},"f:exceptions":{},"f:hint":{},"f:level":{},"f:projects":{"f:include":{}},"f:serverRef":{"f:name":{}}}}`),
			}},
		},
	}
	p.Spec.ServerRef.Name = "main"
	for j := range projectsEach {
		p.Spec.Projects.Include = append(p.Spec.Projects.Include, v1alpha1.ProjectPattern(fmt.Sprintf("%s-project-%d", name, j)))
	}
	p.Spec.Level, p.Spec.LevelVersion, p.Spec.Enforcement = v1alpha1.LevelOpen, v1alpha1.LevelVersionV1, v1alpha1.EnforcementEnforce
	p.Spec.Controls = &v1alpha1.Controls{
		HostSSH: "Denied", Privileged: "Denied", DistributedTasks: "Denied",
		InstanceVolumes: &v1alpha1.InstanceVolumes{Mode: "Denied"},
	}
	p.Spec.Exceptions = []v1alpha1.Exception{{
		Name: "lead", Users: []string{"lead-of-" + name}, Controls: []v1alpha1.ControlName{"distributedTasks"}, Reason: "trains on several nodes",
	}}
	p.Spec.Hint = "Ask the platform team."
	for _, condition := range []string{"Accepted", "Programmed", "Ready"} {
		p.Status.Conditions = append(p.Status.Conditions, metav1.Condition{
			Type: condition, Status: metav1.ConditionTrue, Reason: condition, Message: "everything that the profile asks for is in place", ObservedGeneration: 1,
		})
	}
	return p
}
