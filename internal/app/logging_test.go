package app

import (
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
)

func TestLogLevels(t *testing.T) {
	t.Cleanup(func() {
		klog.ClearLogger()
		logf.SetLogger(logr.Discard())
	})
	for level, want := range map[string]string{
		"info":  `"level":"INFO","msg":"usual"`,
		"debug": `"level":"INFO","msg":"usual"` + "\n" + `"level":"DEBUG","msg":"more"` + "\n" + `"level":"DEBUG","msg":"most"`,
	} {
		var out strings.Builder
		log, err := (&logFlags{level: level}).logger(&out)
		if err != nil {
			t.Fatal(err)
		}
		log.Info("usual")
		log.V(1).Info("more")
		log.V(4).Info("most")
		var got []string
		for line := range strings.Lines(out.String()) {
			_, line, _ = strings.Cut(strings.TrimSuffix(line, "}\n"), `,`)
			line, _, _ = strings.Cut(line, `,"logger"`)
			got = append(got, line)
		}
		if s := strings.Join(got, "\n"); s != want {
			t.Errorf("%s: got\n%s\nwant\n%s", level, s, want)
		}
	}
}
