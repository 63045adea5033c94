package policy

import (
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/dstack-isolation/operator/internal/isolation"
)

// registries refuses images from elsewhere than the list says. Names without a
// registry count as docker.io's, as they are unless the server is told
// otherwise; the image that dstack takes of its own accord counts too. The one
// that stands in a request for offers does not exist.
func registries(v isolation.Value, s *subject) []finding {
	if v.Mode == isolation.ModeAllowed || s.run.offer {
		return nil
	}
	var found []finding
	for _, image := range s.run.images {
		repository, err := repositoryOf(image.name)
		if err == nil && allowsRepository(v, repository) {
			continue
		}
		remedy := allowedOf(v, "use only images of", "registries")
		what := fmt.Sprintf("image %s is", quote(image.name))
		switch {
		case image.dstacks && image.key == "docker":
			what = fmt.Sprintf("dstack's image %s, which docker asks for, is", quote(repository))
			remedy = "set docker to false and " + remedy
		case image.dstacks:
			what = fmt.Sprintf("dstack's image %s, which a run without image gets, is", quote(repository))
			remedy = "set image and " + remedy
		case err != nil:
			what = fmt.Sprintf("image %s cannot be read as the name of one, and is", quote(image.name))
		}
		found = append(found, finding{image.String(), fmt.Sprintf("%s not allowed in project %s: %s", what, s.project, remedy)})
	}
	return found
}

func allowsRepository(v isolation.Value, repository string) bool {
	if v.Mode != isolation.ModeAllowedList {
		return false
	}
	for _, allowed := range v.List {
		if isolation.Below(repository, allowed) {
			return true
		}
	}
	return false
}

// dockerRegistry stands for the registry of names without one.
const dockerRegistry = "docker.io"

// maxImageName is longer than any name of an image that can be pulled.
const maxImageName = 1024

// repositoryOf is REGISTRY/REPOSITORY of an image, without tag and digest.
func repositoryOf(image string) (string, error) {
	if len(image) > maxImageName {
		return "", fmt.Errorf("longer than %d bytes", maxImageName)
	}
	ref, err := name.ParseReference(image)
	if err != nil {
		return "", err
	}
	registry, path := ref.Context().RegistryStr(), ref.Context().RepositoryStr()
	if registry == name.DefaultRegistry {
		registry = dockerRegistry
	}
	// What looks like a path must not be one that leads elsewhere.
	for component := range strings.SplitSeq(path, "/") {
		if !isAlphanumeric(component, 0) || !isAlphanumeric(component, len(component)-1) {
			return "", fmt.Errorf("a component does not begin and end with a letter or a digit")
		}
	}
	return registry + "/" + path, nil
}

// isAlphanumeric tells whether there is a letter or a digit at i.
func isAlphanumeric(s string, i int) bool {
	return i >= 0 && i < len(s) && (s[i] >= 'a' && s[i] <= 'z' || s[i] >= '0' && s[i] <= '9')
}
