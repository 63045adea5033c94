package app

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/testkit"
)

// scrape is what a Prometheus server sees of the conditions.
func scrape(t *testing.T, reader client.Reader) (code int, lines []string) {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(newConditions(reader))
	answer := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for line := range strings.Lines(answer.Body.String()) {
		if !strings.HasPrefix(line, "#") {
			lines = append(lines, strings.TrimSuffix(line, "\n"))
		}
	}
	return answer.Code, lines
}

func TestConditionsAreMetrics(t *testing.T) {
	api := testkit.StartAPIServer(t)
	namespace := api.Namespace(t)
	server := testkit.MakeServer("main").Namespace(namespace).Obj()
	profile := testkit.MakeProfile("research").Namespace(namespace).Obj()
	for _, obj := range []client.Object{server, profile} {
		if err := api.Client.Create(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
	}
	// Before the manager has said anything, the API server's defaults do.
	wantLines(t, api.Client, unset("DstackServer", "main", "Accepted"), unset("DstackServer", "main", "Ready"),
		unset("IsolationProfile", "research", "Accepted"), unset("IsolationProfile", "research", "Ready"))

	server.Status.Conditions, profile.Status.Conditions = nil, nil
	set := func(obj client.Object, conditions *[]metav1.Condition, kind, reason string, status metav1.ConditionStatus) {
		t.Helper()
		*conditions = append(*conditions, metav1.Condition{
			Type: kind, Status: status, Reason: reason, ObservedGeneration: obj.GetGeneration(), LastTransitionTime: metav1.Now(),
		})
		if err := api.Client.Status().Update(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
	}
	set(server, &server.Status.Conditions, v1alpha1.ConditionSSHProxyReady, v1alpha1.ReasonUnreachable, metav1.ConditionFalse)
	set(profile, &profile.Status.Conditions, v1alpha1.ConditionProgrammed, v1alpha1.ReasonProgrammed, metav1.ConditionTrue)
	ofServer := `dstack_isolation_condition{kind="DstackServer",name="main",reason="Unreachable",status="False",type="SSHProxyReady"} 1`
	wantLines(t, api.Client, ofServer,
		`dstack_isolation_condition{kind="IsolationProfile",name="research",reason="Programmed",status="True",type="Programmed"} 1`)

	profile.Spec.Hint = "ask us"
	if err := api.Client.Update(t.Context(), profile); err != nil {
		t.Fatal(err)
	}
	wantLines(t, api.Client, ofServer,
		`dstack_isolation_condition{kind="IsolationProfile",name="research",reason="Outdated",status="Unknown",type="Programmed"} 1`)
}

func unset(kind, name, condition string) string {
	return fmt.Sprintf(`dstack_isolation_condition{kind=%q,name=%q,reason="Pending",status="Unknown",type=%q} 1`, kind, name, condition)
}

func wantLines(t *testing.T, reader client.Reader, want ...string) {
	t.Helper()
	code, lines := scrape(t, reader)
	if got, want := strings.Join(lines, "\n"), strings.Join(want, "\n"); code != http.StatusOK || got != want {
		t.Errorf("HTTP %d\n%s\nwant\n%s", code, got, want)
	}
}

func TestConditionsThatCannotBeReadFailTheScrape(t *testing.T) {
	nobody, err := client.New(&rest.Config{Host: "http://127.0.0.1:1"}, client.Options{Scheme: testkit.NewScheme()})
	if err != nil {
		t.Fatal(err)
	}
	if code, lines := scrape(t, nobody); code != http.StatusInternalServerError {
		t.Errorf("HTTP %d, %q", code, lines)
	}
}
