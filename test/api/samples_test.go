package api_test

import (
	"context"
	"os"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

var _ = Describe("Samples", func() {
	It("are accepted as they stand", func(ctx context.Context) {
		files, err := filepath.Glob(filepath.Join("..", "..", "config", "samples", "*.yaml"))
		Expect(err).NotTo(HaveOccurred())
		rules, err := filepath.Glob(filepath.Join("..", "..", "config", "samples", "rules", "*.yaml"))
		Expect(err).NotTo(HaveOccurred())
		Expect(len(files)).To(BeNumerically(">=", 3))
		Expect(len(rules)).To(BeNumerically(">=", 6))
		for _, file := range append(files, rules...) {
			text, err := os.ReadFile(file)
			Expect(err).NotTo(HaveOccurred())
			o := &unstructured.Unstructured{}
			Expect(yaml.UnmarshalStrict(text, &o.Object)).To(Succeed(), file)
			o.SetNamespace(namespace)
			Expect(try(ctx, o)).To(Succeed(), file)
		}
	})
})
