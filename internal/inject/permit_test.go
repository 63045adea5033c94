package inject

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	createProjects = "allow_non_admins_create_projects"
	manageFleets   = "allow_non_admins_manage_ssh_fleets"
)

func TestPermit(t *testing.T) {
	no := Permissions{createProjects: false}
	tests := map[string]struct {
		want    Permissions
		in, out string
	}{
		"nothing wanted": {nil, "projects: []\n", "projects: []\n"},
		"new key":        {no, "# mine\nprojects: []\n", "# mine\ndefault_permissions: {allow_non_admins_create_projects: false}\nprojects: []\n"},
		"two": {
			Permissions{createProjects: false, manageFleets: true},
			"projects: []\n",
			"default_permissions: {allow_non_admins_manage_ssh_fleets: true, allow_non_admins_create_projects: false}\nprojects: []\n",
		},
		"flow file":      {no, `{"projects": []}`, `{"default_permissions": {allow_non_admins_create_projects: false}, "projects": []}`},
		"null":           {no, "projects: []\ndefault_permissions: null # none\n", "projects: []\ndefault_permissions: {allow_non_admins_create_projects: false} # none\n"},
		"empty":          {no, "projects: []\ndefault_permissions:\nplugins: []\n", "projects: []\ndefault_permissions: {allow_non_admins_create_projects: false}\nplugins: []\n"},
		"empty flow":     {no, "projects: []\ndefault_permissions: {}\n", "projects: []\ndefault_permissions: {allow_non_admins_create_projects: false}\n"},
		"flow of others": {no, "projects: []\ndefault_permissions: { allow_non_admins_manage_ssh_fleets: false }\n", "projects: []\ndefault_permissions: {allow_non_admins_create_projects: false,  allow_non_admins_manage_ssh_fleets: false }\n"},
		"block of others": {
			no, "default_permissions:\n  # why\n  allow_non_admins_manage_ssh_fleets: false\nprojects: []\n",
			"default_permissions:\n  # why\n  allow_non_admins_create_projects: false\n  allow_non_admins_manage_ssh_fleets: false\nprojects: []\n",
		},
		"another value": {
			no, "default_permissions:\n  allow_non_admins_create_projects: true # for now\nprojects: []\n",
			"default_permissions:\n  allow_non_admins_create_projects: false # for now\nprojects: []\n",
		},
		"a value that only YAML 1.1 takes for a truth": {
			no, "default_permissions: {allow_non_admins_create_projects: yes}\nprojects: []\n",
			"default_permissions: {allow_non_admins_create_projects: false}\nprojects: []\n",
		},
		"the same":      {no, "default_permissions: {allow_non_admins_create_projects: false}\nprojects: []\n", "default_permissions: {allow_non_admins_create_projects: false}\nprojects: []\n"},
		"windows lines": {no, "projects: []\r\n", "default_permissions: {allow_non_admins_create_projects: false}\r\nprojects: []\r\n"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := Permit([]byte(tc.in), tc.want)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.out, string(got)); diff != "" {
				t.Error(diff)
			}
			if again, err := Permit(got, tc.want); err != nil || string(again) != string(got) {
				t.Errorf("twice changes more: %v\n%s", err, again)
			}
		})
	}
}

func TestPermitErrors(t *testing.T) {
	const unclear = "default_permissions is written in a way that cannot be changed by machine: write it as a plain mapping, or set allow_non_admins_create_projects in it yourself"
	tests := map[string]struct{ in, want string }{
		"no mapping":     {"projects: []\ndefault_permissions: [a]\n", "line 2: default_permissions must be a mapping of permissions to true or false"},
		"an alias":       {"projects: []\nx: &p {allow_non_admins_create_projects: true}\ndefault_permissions: *p\n", "line 3: " + unclear},
		"merged":         {"base: &b {default_permissions: {}}\n<<: *b\nprojects: []\n", "line 1: " + unclear},
		"an anchor":      {"projects: []\ndefault_permissions: &p {}\n", "line 2: " + unclear},
		"a quoted value": {"projects: []\ndefault_permissions: {allow_non_admins_create_projects: \"true\"}\n", "line 2: " + unclear},
		"twice":          {"projects: []\ndefault_permissions: {allow_non_admins_create_projects: true, allow_non_admins_create_projects: true}\n", ""},
		"no config":      {"", "it is empty, and dstack does not start with an empty one: write `projects: []` into it, which changes no project"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := Permit([]byte(tc.in), Permissions{createProjects: false})
			if err == nil {
				t.Fatalf("got %s", got)
			}
			if tc.want != "" && err.Error() != tc.want {
				t.Errorf("got  %s\nwant %s", err, tc.want)
			}
		})
	}
	if _, err := Permit([]byte("projects: []\n"), Permissions{"a: b": true}); err == nil {
		t.Error("a name that is none was taken")
	}
}

func FuzzPermit(f *testing.F) {
	f.Add("projects: []\ndefault_permissions:\n  a: true\n")
	f.Add("{projects: [], default_permissions: {}}")
	f.Fuzz(func(t *testing.T, in string) {
		got, err := Permit([]byte(in), Permissions{createProjects: false})
		if err != nil {
			return
		}
		c, err := readConfig(got)
		if err != nil {
			t.Fatalf("%q became %q, which dstack would not read: %v", in, got, err)
		}
		permissions, _, err := lookup(c.root, keyPermissions)
		if err != nil {
			t.Fatal(err)
		}
		if have, err := permission(permissions, createProjects); err != nil || have == nil || have.Value != "false" {
			t.Fatalf("%q became %q", in, got)
		}
	})
}
