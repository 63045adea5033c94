package api_test

import "fmt"

// controlNames are all controls, in the order in which messages list them.
var controlNames = []string{
	"hostSSH", "privileged", "instanceVolumes", "hostNetwork", "distributedTasks", "serviceRouters", "fleetEnvironment", "sshFleets",
	"sharedInstances", "importedFleets", "importedGateways", "existingVolumes", "serverAccess", "servicesWithoutGateway", "services", "tags",
	"fleets", "backends", "registries", "unknownFields",
}

// valueBounds are the values of the controls that know no middle way, of
// existingVolumes and of unknownFields.
func valueBounds() []boundCase {
	var cases []boundCase
	for _, name := range controlNames[5:16] {
		if name == "existingVolumes" {
			continue
		}
		field := "spec.controls." + name
		cases = append(cases,
			boundCase{
				about:    "strictest value of " + name,
				accepted: fields{field: "Denied"},
				rejected: fields{field: "DeniedIfSet"},
				message:  field + `: Unsupported value: "DeniedIfSet": supported values: "Allowed", "Denied"`,
			},
			boundCase{
				about:    "loosest value of " + name,
				accepted: fields{field: "Allowed"},
				rejected: fields{field: ""},
				message:  field + `: Unsupported value: "": supported values: "Allowed", "Denied"`,
			})
	}
	return append(cases,
		boundCase{
			about:    "strictest value of existingVolumes",
			accepted: fields{"spec.controls.existingVolumes": "Denied"},
			rejected: fields{"spec.controls.existingVolumes": "DeniedIfSet"},
			message:  `spec.controls.existingVolumes: Unsupported value: "DeniedIfSet": supported values: "Allowed", "AllowedStorageClasses", "Denied"`,
		},
		boundCase{
			about:    "loosest value of existingVolumes",
			accepted: fields{"spec.controls.existingVolumes": "Allowed"},
			rejected: fields{"spec.controls.existingVolumes": ""},
			message:  `spec.controls.existingVolumes: Unsupported value: "": supported values: "Allowed", "AllowedStorageClasses", "Denied"`,
		},
		boundCase{
			about:    "strictest value of unknownFields",
			accepted: fields{"spec.controls.unknownFields": "DeniedIfSet"},
			rejected: fields{"spec.controls.unknownFields": "Denied"},
			message:  `spec.controls.unknownFields: Unsupported value: "Denied": supported values: "Allowed", "DeniedIfSet"`,
		},
		boundCase{
			about:    "loosest value of unknownFields",
			accepted: fields{"spec.controls.unknownFields": "Allowed"},
			rejected: fields{"spec.controls.unknownFields": "allowed"},
			message:  `spec.controls.unknownFields: Unsupported value: "allowed": supported values: "Allowed", "DeniedIfSet"`,
		})
}

const (
	fleetPattern    = `^([-_.a-zA-Z0-9]+/)?[-_.a-zA-Z0-9]+$`
	backendPattern  = `^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	classPattern    = `^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$`
	registryPattern = `^[a-z0-9]([-.a-z0-9]*[a-z0-9])?(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*$`
)

// listBounds are the bounds of the controls that list what is allowed.
func listBounds() []boundCase {
	var cases []boundCase
	for _, list := range []struct {
		name, pattern string
		most          int
		good, bad     []string
	}{
		{"fleets", fleetPattern, 200, []string{"a100", "research/a100", "A.b_c-9"}, []string{"a/b/c", "/a100", "a100/", "*", "a 100"}},
		{"backends", backendPattern, 63, []string{"aws", "remote", "k8s-2"}, []string{"AWS", "aws-", "a.b", "aws*"}},
		{
			"registries", registryPattern, 255,
			[]string{"docker.io", "ghcr.io/example", "localhost:5000/a__b/c-d.e", "10.0.0.1:443"},
			[]string{"https://ghcr.io", "ghcr.io/", "ghcr.io/Example", "GHCR.io", "ghcr.io:latest", "ghcr.io/a:1", "ghcr.io//a", "*.io", "ghcr.io/a@sha256"},
		},
	} {
		field := "spec.controls." + list.name
		cases = append(cases,
			boundCase{
				about:    list.name + " have a list",
				accepted: fields{field: allowed(list.good...)},
				rejected: fields{field: map[string]any{}},
				message:  field + ".allowed: Required value",
			},
			boundCase{
				about:    "the list of " + list.name + " is not empty",
				rejected: fields{field: allowed()},
				message:  field + ".allowed: Invalid value: 0: " + field + ".allowed in body should have at least 1 items",
			},
			boundCase{
				about:    "the list of " + list.name + " is bounded",
				accepted: fields{field: allowed(texts(64)...)},
				rejected: fields{field: allowed(texts(65)...)},
				message:  field + ".allowed: Too many: 65: must have at most 64 items",
			},
			boundCase{
				about:    list.name + " are named once",
				rejected: fields{field: allowed("a", "a")},
				message:  field + `.allowed[1]: Duplicate value: "a"`,
			},
			boundCase{
				about:    "an entry of " + list.name + " is bounded",
				accepted: fields{field: allowed(repeat(list.most))},
				rejected: fields{field: allowed(repeat(list.most + 1))},
				message:  fmt.Sprintf("%s.allowed[0]: Too long: may not be more than %d bytes", field, list.most),
			})
		for _, bad := range list.bad {
			cases = append(cases, boundCase{
				about:    fmt.Sprintf("%s do not name %q", list.name, bad),
				rejected: fields{field: allowed(bad)},
				message:  fmt.Sprintf("%s.allowed[0]: Invalid value: %q: %s.allowed[0] in body should match '%s'", field, bad, field, list.pattern),
			})
		}
	}
	return cases
}

// classBounds are the bounds of storageClasses.
func classBounds() []boundCase {
	const field = "spec.controls.storageClasses"
	classes := func(names ...string) fields {
		return fields{
			"spec.controls.existingVolumes": "AllowedStorageClasses",
			field:                           strs(len(names), func(i int) string { return names[i] }),
		}
	}
	cases := []boundCase{
		{
			about:    "storageClasses are bounded",
			accepted: classes(texts(64)...),
			rejected: classes(texts(65)...),
			message:  field + ": Too many: 65: must have at most 64 items",
		},
		{
			about:    "storageClasses are named once",
			rejected: classes("a", "a"),
			message:  field + `[1]: Duplicate value: "a"`,
		},
		{
			about:    "an entry of storageClasses is bounded",
			accepted: classes(repeat(253)),
			rejected: classes(repeat(254)),
			message:  field + "[0]: Too long: may not be more than 253 bytes",
		},
		{
			about:    "an entry of storageClasses is not empty",
			rejected: classes(""),
			message:  field + `[0]: Invalid value: "": ` + field + "[0] in body should be at least 1 chars long",
		},
	}
	for _, bad := range []string{"Fast", "fast-", "a/b", "*", "a b"} {
		cases = append(cases, boundCase{
			about:    fmt.Sprintf("storageClasses do not name %q", bad),
			rejected: classes(bad),
			message:  fmt.Sprintf("%s[0]: Invalid value: %q: %s[0] in body should match '%s'", field, bad, field, classPattern),
		})
	}
	return cases
}

func texts(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("a%d", i)
	}
	return all
}
