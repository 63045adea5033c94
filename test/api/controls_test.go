package api_test

import (
	"fmt"
	"strings"
)

// controlsOf is an object with controls, and the field that holds them beside a
// level.
type controlsOf struct{ kind, field string }

var (
	ofProfile   = controlsOf{profileKind, "spec.controls"}
	ofUnmatched = controlsOf{serverKind, "spec.unmatchedProjects.controls"}
)

// parent is the field that holds level and controls.
func (o controlsOf) parent() string { return strings.TrimSuffix(o.field, ".controls") }

func (o controlsOf) invalid(what string) string {
	return fmt.Sprintf("%s.isolation.dstack.ai %q is invalid: %s", o.kind, "main", what)
}

// controlNames are all controls, in the order in which messages list them.
var controlNames = []string{
	"hostSSH", "privileged", "instanceVolumes", "hostNetwork", "distributedTasks", "serviceRouters", "fleetEnvironment", "sshFleets",
	"sharedInstances", "importedFleets", "importedGateways", "existingVolumes", "serverAccess", "servicesWithoutGateway", "services", "tags",
	"fleets", "backends", "registries", "unknownFields",
}

// valueBounds are the values of the controls that know no middle way, of
// existingVolumes and of unknownFields.
func valueBounds(o controlsOf) []boundCase {
	var cases []boundCase
	unknown, volumes := o.field+".unknownFields", o.field+".existingVolumes"
	for _, name := range controlNames[5:16] {
		if name == "existingVolumes" {
			continue
		}
		field := o.field + "." + name
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
	cases = append(cases, namedBounds(o)...)
	return append(cases,
		boundCase{
			about:    "strictest value of existingVolumes",
			accepted: fields{volumes: "Denied"},
			rejected: fields{volumes: "DeniedIfSet"},
			message:  volumes + `: Unsupported value: "DeniedIfSet": supported values: "Allowed", "AllowedStorageClasses", "Denied"`,
		},
		boundCase{
			about:    "loosest value of existingVolumes",
			accepted: fields{volumes: "Allowed"},
			rejected: fields{volumes: ""},
			message:  volumes + `: Unsupported value: "": supported values: "Allowed", "AllowedStorageClasses", "Denied"`,
		},
		boundCase{
			about:    "strictest value of unknownFields",
			accepted: fields{unknown: "DeniedIfSet"},
			rejected: fields{unknown: "Denied"},
			message:  unknown + `: Unsupported value: "Denied": supported values: "Allowed", "DeniedIfSet"`,
		},
		boundCase{
			about:    "loosest value of unknownFields",
			accepted: fields{unknown: "Allowed"},
			rejected: fields{unknown: "allowed"},
			message:  unknown + `: Unsupported value: "allowed": supported values: "Allowed", "DeniedIfSet"`,
		})
}

const (
	fleetPattern    = `^([-_.a-zA-Z0-9]+/)?[-_.a-zA-Z0-9]+$`
	backendPattern  = `^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	classPattern    = `^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$`
	registryPattern = `^[a-z0-9]([-.a-z0-9]*[a-z0-9])?(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*$`
)

// listBounds are the bounds of the controls that list what is allowed.
func listBounds(o controlsOf) []boundCase {
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
		field := o.field + "." + list.name
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
func classBounds(o controlsOf) []boundCase {
	field := o.field + ".storageClasses"
	classes := func(names ...string) fields {
		return fields{
			o.field + ".existingVolumes": "AllowedStorageClasses",
			field:                        strs(len(names), func(i int) string { return names[i] }),
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

// namedBounds are those of the controls that have values of their own.
func namedBounds(o controlsOf) []boundCase {
	return []boundCase{
		{
			about:    "values of privileged",
			accepted: fields{o.field: map[string]any{"privileged": "Allowed"}},
			rejected: fields{o.field: map[string]any{"privileged": "true"}},
			message:  o.field + `.privileged: Unsupported value: "true": supported values: "Allowed", "Denied"`,
		},
		{
			about:    "values of hostSSH",
			accepted: fields{o.field: map[string]any{"hostSSH": "Denied"}},
			rejected: fields{o.field: map[string]any{"hostSSH": "No"}},
			message:  o.field + `.hostSSH: Unsupported value: "No": supported values: "Allowed", "Denied"`,
		},
		{
			about:    "values of hostNetwork",
			accepted: fields{o.field: map[string]any{"hostNetwork": "DistributedOnly"}},
			rejected: fields{o.field: map[string]any{"hostNetwork": "Bridge"}},
			message:  o.field + `.hostNetwork: Unsupported value: "Bridge": supported values: "Allowed", "DistributedOnly", "Denied"`,
		},
		{
			about:    "values of distributedTasks",
			accepted: fields{o.field: map[string]any{"distributedTasks": "Denied"}},
			rejected: fields{o.field: map[string]any{"distributedTasks": ""}},
			message:  o.field + `.distributedTasks: Unsupported value: "": supported values: "Allowed", "Denied"`,
		},
		{
			about:    "modes of instanceVolumes",
			rejected: fields{o.field + ".instanceVolumes": map[string]any{"mode": "ReadOnly"}},
			message:  o.field + `.instanceVolumes.mode: Unsupported value: "ReadOnly": supported values: "Allowed", "AllowedPaths", "Denied"`,
		},
		{
			about:    "allowed paths are bounded",
			accepted: fields{o.field + ".instanceVolumes": map[string]any{"mode": "AllowedPaths", "paths": strs(64, numbered("/p%d"))}},
			rejected: fields{o.field + ".instanceVolumes": map[string]any{"mode": "AllowedPaths", "paths": strs(65, numbered("/p%d"))}},
			message:  o.field + `.instanceVolumes.paths: Too many: 65: must have at most 64 items`,
		},
		{
			about:    "an allowed path is bounded",
			accepted: fields{o.field + ".instanceVolumes": allowedPaths("/" + repeat(1023))},
			rejected: fields{o.field + ".instanceVolumes": allowedPaths("/" + repeat(1024))},
			message:  o.field + `.instanceVolumes.paths[0]: Too long: may not be more than 1024 bytes`,
		},
		{
			about:    "the root directory is not an allowed path",
			rejected: fields{o.field + ".instanceVolumes": allowedPaths("/")},
			message: `[` + o.field + `.instanceVolumes.paths[0]: Invalid value: "/": ` + o.field + `.instanceVolumes.paths[0] in body should be at least 2 chars long, ` +
				o.field + `.instanceVolumes.paths[0]: Invalid value: "/": paths ` + cleanPaths + `]`,
		},
	}
}

// controlRules are the rules about controls, which hold wherever they are.
func controlRules(o controlsOf) []ruleCase {
	level, volumes := o.parent()+".level", o.field+".instanceVolumes"
	existing, classes := o.field+".existingVolumes", o.field+".storageClasses"
	return []ruleCase{
		{
			kind: o.kind, path: o.parent(),
			accepted: []fields{
				{level: "Dedicated", o.field: map[string]any{"fleets": allowed("a100")}},
				{level: "Restricted", o.field: map[string]any{"fleets": allowed("a100")}},
				{level: "Restricted"},
			},
			rejected: []rejection{
				{fields{level: "Dedicated"}, o.invalid(o.parent() + fleetsRule)},
				{fields{level: "Dedicated", o.field: map[string]any{}}, o.invalid(o.parent() + fleetsRule)},
				{fields{level: "Dedicated", o.field: map[string]any{"backends": allowed("aws")}}, o.invalid(o.parent() + fleetsRule)},
			},
		},
		{
			kind: o.kind, path: o.field,
			accepted: []fields{
				{existing: "Denied"},
				{existing: "AllowedStorageClasses", classes: []any{"fast-ssd"}},
			},
			rejected: []rejection{
				{fields{existing: "AllowedStorageClasses"}, o.invalid(o.field + classesRule)},
				{fields{existing: "AllowedStorageClasses", classes: []any{}}, o.invalid(o.field + classesRule)},
				{fields{existing: "Denied", classes: []any{"fast-ssd"}}, o.invalid(o.field + classesRule)},
				{fields{existing: "Allowed", classes: []any{"fast-ssd"}}, o.invalid(o.field + classesRule)},
				{fields{classes: []any{"fast-ssd"}}, o.invalid(o.field + classesRule)},
			},
		},
		{
			kind: o.kind, path: o.field + ".instanceVolumes",
			accepted: []fields{
				{volumes: map[string]any{"mode": "Allowed"}},
				{volumes: map[string]any{"mode": "Denied"}},
				{volumes: map[string]any{"mode": "AllowedPaths", "paths": []any{"/data"}}},
			},
			rejected: []rejection{
				{fields{volumes: map[string]any{"mode": "AllowedPaths"}}, o.invalid(o.field + pathsRule)},
				{fields{volumes: map[string]any{"mode": "AllowedPaths", "paths": []any{}}}, o.invalid(o.field + pathsRule)},
				{fields{volumes: map[string]any{"mode": "Denied", "paths": []any{"/data"}}}, o.invalid(o.field + pathsRule)},
				{fields{volumes: map[string]any{"mode": "Allowed", "paths": []any{"/data"}}}, o.invalid(o.field + pathsRule)},
			},
		},
		{
			kind: o.kind, path: o.field + ".instanceVolumes.paths[]",
			accepted: []fields{
				{volumes: allowedPaths("/data", "/models/llama", "/a/..b/c..d/.e")},
			},
			rejected: pathRejections(func(path string) rejection {
				return rejection{
					fields{volumes: allowedPaths("/ok", path)},
					o.invalid(fmt.Sprintf("%s.instanceVolumes.paths[1]: Invalid value: %q: paths %s", o.field, path, cleanPaths)),
				}
			}),
		},
	}
}
