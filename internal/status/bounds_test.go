package status_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/config/crd"
	ours "github.com/dstack-isolation/operator/internal/status"
	"github.com/dstack-isolation/operator/internal/testkit"
)

// mustFit checks a status against the schema of its kind: what the API server
// refuses would be tried again for ever.
func mustFit(t *testing.T, file string, status any) {
	t.Helper()
	data, err := crd.FS.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var d apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(data, &d); err != nil {
		t.Fatal(err)
	}
	var props apiextensions.JSONSchemaProps
	schema := d.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["status"]
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(&schema, &props, nil); err != nil {
		t.Fatal(err)
	}
	v, _, err := validation.NewSchemaValidator(&props)
	if err != nil {
		t.Fatal(err)
	}
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(status)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	if len(text) > maxStatus {
		t.Errorf("the status has %d bytes, more than %d", len(text), maxStatus)
	}
	for _, err := range validation.ValidateCustomResource(field.NewPath("status"), fields, v) {
		if text := err.Error(); len(text) > 300 {
			t.Errorf("%s…", text[:300])
		} else {
			t.Error(text)
		}
	}
}

const (
	// maxStatus is far below what etcd takes for an object.
	maxStatus   = 64 << 10
	serverFile  = "isolation.dstack.ai_dstackservers.yaml"
	profileFile = "isolation.dstack.ai_isolationprofiles.yaml"
)

// Inputs of 10,000 characters, of one and of more bytes.
var longTexts = map[string]string{"ascii": strings.Repeat("a", 10_000), "wide": strings.Repeat("\U0001F512", 10_000)}

func TestServerStatusFitsItsSchema(t *testing.T) {
	mustFit(t, serverFile, ptr(ours.Server(testkit.MakeServer("main").Obj(), ours.ServerFacts{}, now)))
	for name, long := range longTexts {
		t.Run(name, func(t *testing.T) {
			s := testkit.MakeServer("main").Level(v1alpha1.Level(long)).Obj()
			f := goodFacts(resolve(s))
			f.Accepted, f.Connected = ours.OK("Accepted", long), ours.Unknown("Unreachable", long)
			f.PolicyPlugin, f.Settings = ours.Waiting("RollingOut", long), ours.Stuck("InvalidWorkload", long)
			f.Version.Release = long
			f.Doubts = ours.Doubts(nil, nil, []ours.Finding{ours.Stuck("ConfigDisabled", long), ours.Stuck("ConfigMountClash", long), ours.Stuck("SettingHidden", long)}, now)
			f.ConfigFileGap = &v1alpha1.ConfigFileGap{LostAt: metav1.NewTime(now), BackAt: ptr(metav1.NewTime(now))}
			f.Pending = &v1alpha1.PendingChange{Revision: "0123abcd"}
			for i := range 40 {
				f.Pending.Items = append(f.Pending.Items, v1alpha1.PendingItem{Name: fmt.Sprintf("%d %s", i, long), Action: v1alpha1.ChangeAdd, Why: long})
				f.Warnings = append(f.Warnings, long)
				f.Injected = append(f.Injected, v1alpha1.InjectedItem{Name: fmt.Sprintf("%d %s", i, long), State: v1alpha1.InjectedConflict, Manager: long})
			}
			mustFit(t, serverFile, ptr(ours.Server(s, f, now)))
		})
	}
}

func TestProfileStatusFitsItsSchema(t *testing.T) {
	for name, long := range longTexts {
		t.Run(name, func(t *testing.T) {
			server := testkit.MakeServer(long).Level(v1alpha1.LevelRestricted).Obj()
			all := testkit.MakeProfile(long).Server(long).Include("*").Level(v1alpha1.LevelRestricted).Obj()
			p := testkit.MakeProfile("research").Server(long).Level(v1alpha1.Level(long)).
				Exception(long, time.Time{}, v1alpha1.ControlHostSSH, v1alpha1.ControlName(long)).
				Controls(func(c *v1alpha1.Controls) {
					c.Privileged, c.HostNetwork, c.DistributedTasks = v1alpha1.AllowedDenied(long), v1alpha1.HostNetworkAllowed, v1alpha1.Allowed
				}).Controls(paths("/"+v1alpha1.InstancePath(long), "relative "+v1alpha1.InstancePath(long))).Obj()
			wide := testkit.MakeProfile("wide").Server(long).Include("*").Level(v1alpha1.LevelDedicated).
				Exception(long, time.Time{}, v1alpha1.ControlPrivileged).Users(long, long+"b", long+"c", long+"d").
				Controls(longLists(long)).Obj()
			for i := range 70 {
				wide.Spec.Exceptions = append(wide.Spec.Exceptions, v1alpha1.Exception{
					Name: fmt.Sprintf("%063d", i), Users: []string{"ada"}, ExpiresAt: &metav1.Time{Time: now.Add(time.Duration(i-35) * time.Hour)},
					Controls: []v1alpha1.ControlName{"privileged", "privileged", "hostNetwork", "instanceVolumes", "distributedTasks", "tags", "fleets", "backends"},
				})
			}
			loose := open("loose").Server(long).Obj()
			e := resolve(server, all, p, loose, wide)
			alone := resolve(server, wide)
			mustFit(t, profileFile, ptr(ours.Profile(wide, goodView(alone), now)))
			for _, o := range []*v1alpha1.IsolationProfile{all, p, loose, wide} {
				mustFit(t, profileFile, ptr(ours.Profile(o, goodView(e), now)))
				mustFit(t, profileFile, ptr(ours.ProfileWithoutServer(o, now)))
				server.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionFalse, Reason: "ContainerNotFound", Message: long}}
				mustFit(t, profileFile, ptr(ours.Profile(o, ours.ViewOf(server, e), now)))
			}
		})
	}
}

// longLists fills lists with as many entries as the API takes, as long as it
// takes them.
func longLists(long string) func(*v1alpha1.Controls) {
	entry := func(i, length int) string { return fmt.Sprintf("%0*d", length, i) }
	return func(c *v1alpha1.Controls) {
		c.Fleets, c.Backends, c.Registries = &v1alpha1.AllowedFleets{}, &v1alpha1.AllowedBackends{}, &v1alpha1.AllowedRegistries{}
		c.InstanceVolumes = &v1alpha1.InstanceVolumes{Mode: v1alpha1.InstanceVolumesAllowedPaths}
		for i := range 64 {
			c.Fleets.Allowed = append(c.Fleets.Allowed, v1alpha1.FleetName(entry(i, 200)))
			c.Backends.Allowed = append(c.Backends.Allowed, v1alpha1.BackendName(entry(i, 63)), v1alpha1.BackendName(long))
			c.Registries.Allowed = append(c.Registries.Allowed, v1alpha1.RegistryName(entry(i, 255)))
			c.InstanceVolumes.Paths = append(c.InstanceVolumes.Paths, v1alpha1.InstancePath("/"+long+entry(i, 20)))
		}
	}
}

func ptr[T any](v T) *T { return &v }
