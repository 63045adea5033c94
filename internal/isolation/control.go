package isolation

import (
	"slices"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

// Control is the index of a control in the table of all controls.
type Control uint8

// The controls. A new one is a constant here, a row in the table below, a
// field of v1alpha1.Controls and a decision function in package policy.
const (
	HostSSH Control = iota
	Privileged
	InstanceVolumes
	HostNetwork
	DistributedTasks
	ServiceRouters
	FleetEnvironment
	SSHFleets
	SharedInstances
	ImportedFleets
	ImportedGateways
	ExistingVolumes
	ServerAccess
	ServicesWithoutGateway
	Services
	Tags
	Fleets
	Backends
	Registries
	UnknownFields

	// ControlCount is the number of controls.
	ControlCount
)

// Modes that several controls share.
const (
	ModeAllowed         = "Allowed"
	ModeAllowedPaths    = "AllowedPaths"
	ModeAllowedClasses  = "AllowedStorageClasses"
	ModeAllowedList     = "AllowedList"
	ModeDistributedOnly = "DistributedOnly"
	ModeDenied          = "Denied"
	ModeDeniedIfSet     = "DeniedIfSet"
)

// Enforcer names what refuses what a control denies.
type Enforcer string

// The enforcers, in the words of status.effective[].enforcedBy.
const (
	ByPlugin          Enforcer = "policy plugin"
	BySSHProxy        Enforcer = "SSH proxy, policy plugin"
	ByNetworkSettings Enforcer = "network mode, policy plugin"
	// ByServerSettings: dstack itself while all policies deny it, and the plugin.
	ByServerSettings Enforcer = "server setting, policy plugin"
)

// row is what the table says of one control.
type row struct {
	name v1alpha1.ControlName
	// modes from loosest to strictest; the last one is what an unknown value
	// counts as.
	modes []string
	// presets are the modes of Open, Baseline, Restricted and Dedicated in v1.
	presets [4]string
	// override reads the control from spec.controls; false when it is left out.
	override func(*v1alpha1.Controls) (Value, bool)
	// enforcer refuses what the control denies.
	enforcer Enforcer
	// entry checks the entries of lists; nil for a control without lists.
	entry *entryRule
	// nested lists allow what lies below one of their entries too, by components
	// of a path; others allow their entries alone.
	nested bool
	// serverWide controls are enforced for all users alike, so that no exception
	// can lift them.
	serverWide bool
}

var table = [ControlCount]row{
	HostSSH: {
		name:     v1alpha1.ControlHostSSH,
		modes:    []string{ModeAllowed, ModeDenied},
		presets:  [4]string{ModeAllowed, ModeDenied, ModeDenied, ModeDenied},
		override: func(c *v1alpha1.Controls) (Value, bool) { return simple(string(c.HostSSH)) },
		enforcer: BySSHProxy, serverWide: true,
	},
	Privileged: {
		name:     v1alpha1.ControlPrivileged,
		modes:    []string{ModeAllowed, ModeDenied},
		presets:  [4]string{ModeAllowed, ModeDenied, ModeDenied, ModeDenied},
		override: func(c *v1alpha1.Controls) (Value, bool) { return simple(string(c.Privileged)) },
		enforcer: ByPlugin,
	},
	InstanceVolumes: {
		name:     v1alpha1.ControlInstanceVolumes,
		modes:    []string{ModeAllowed, ModeAllowedPaths, ModeDenied},
		presets:  [4]string{ModeAllowed, ModeDenied, ModeDenied, ModeDenied},
		override: instanceVolumes,
		enforcer: ByPlugin, entry: &pathEntry, nested: true,
	},
	HostNetwork: {
		name:     v1alpha1.ControlHostNetwork,
		modes:    []string{ModeAllowed, ModeDistributedOnly, ModeDenied},
		presets:  [4]string{ModeAllowed, ModeDistributedOnly, ModeDenied, ModeDenied},
		override: func(c *v1alpha1.Controls) (Value, bool) { return simple(string(c.HostNetwork)) },
		enforcer: ByNetworkSettings,
	},
	DistributedTasks: {
		name:     v1alpha1.ControlDistributedTasks,
		modes:    []string{ModeAllowed, ModeDenied},
		presets:  [4]string{ModeAllowed, ModeAllowed, ModeDenied, ModeDenied},
		override: func(c *v1alpha1.Controls) (Value, bool) { return simple(string(c.DistributedTasks)) },
		enforcer: ByPlugin,
	},
	ServiceRouters: {
		name:     v1alpha1.ControlServiceRouters,
		modes:    []string{ModeAllowed, ModeDenied},
		presets:  [4]string{ModeAllowed, ModeAllowed, ModeAllowed, ModeAllowed},
		override: func(c *v1alpha1.Controls) (Value, bool) { return simple(string(c.ServiceRouters)) },
		enforcer: ByPlugin,
	},
	FleetEnvironment: {
		name:     v1alpha1.ControlFleetEnvironment,
		modes:    []string{ModeAllowed, ModeDenied},
		presets:  [4]string{ModeAllowed, ModeDenied, ModeDenied, ModeDenied},
		override: func(c *v1alpha1.Controls) (Value, bool) { return simple(string(c.FleetEnvironment)) },
		enforcer: ByPlugin,
	},
	SSHFleets: {
		name:     v1alpha1.ControlSSHFleets,
		modes:    []string{ModeAllowed, ModeDenied},
		presets:  [4]string{ModeAllowed, ModeAllowed, ModeDenied, ModeDenied},
		override: func(c *v1alpha1.Controls) (Value, bool) { return simple(string(c.SSHFleets)) },
		enforcer: ByPlugin,
	},
	SharedInstances: {
		name:     v1alpha1.ControlSharedInstances,
		modes:    []string{ModeAllowed, ModeDenied},
		presets:  [4]string{ModeAllowed, ModeAllowed, ModeDenied, ModeDenied},
		override: func(c *v1alpha1.Controls) (Value, bool) { return simple(string(c.SharedInstances)) },
		enforcer: ByPlugin,
	},
	ImportedFleets: {
		name:     v1alpha1.ControlImportedFleets,
		modes:    []string{ModeAllowed, ModeDenied},
		presets:  [4]string{ModeAllowed, ModeAllowed, ModeDenied, ModeDenied},
		override: func(c *v1alpha1.Controls) (Value, bool) { return simple(string(c.ImportedFleets)) },
		enforcer: ByPlugin,
	},
	ImportedGateways: {
		name:     v1alpha1.ControlImportedGateways,
		modes:    []string{ModeAllowed, ModeDenied},
		presets:  [4]string{ModeAllowed, ModeAllowed, ModeDenied, ModeDenied},
		override: func(c *v1alpha1.Controls) (Value, bool) { return simple(string(c.ImportedGateways)) },
		enforcer: ByPlugin,
	},
	ExistingVolumes: {
		name:     v1alpha1.ControlExistingVolumes,
		modes:    []string{ModeAllowed, ModeAllowedClasses, ModeDenied},
		presets:  [4]string{ModeAllowed, ModeAllowed, ModeDenied, ModeDenied},
		override: existingVolumes,
		enforcer: ByPlugin, entry: &classEntry,
	},
	ServerAccess: {
		name:     v1alpha1.ControlServerAccess,
		modes:    []string{ModeAllowed, ModeDenied},
		presets:  [4]string{ModeAllowed, ModeAllowed, ModeDenied, ModeDenied},
		override: func(c *v1alpha1.Controls) (Value, bool) { return simple(string(c.ServerAccess)) },
		enforcer: ByServerSettings,
	},
	ServicesWithoutGateway: {
		name:     v1alpha1.ControlServicesWithoutGateway,
		modes:    []string{ModeAllowed, ModeDenied},
		presets:  [4]string{ModeAllowed, ModeAllowed, ModeDenied, ModeDenied},
		override: func(c *v1alpha1.Controls) (Value, bool) { return simple(string(c.ServicesWithoutGateway)) },
		enforcer: ByServerSettings,
	},
	Services: {
		name:     v1alpha1.ControlServices,
		modes:    []string{ModeAllowed, ModeDenied},
		presets:  [4]string{ModeAllowed, ModeAllowed, ModeAllowed, ModeAllowed},
		override: func(c *v1alpha1.Controls) (Value, bool) { return simple(string(c.Services)) },
		enforcer: ByPlugin,
	},
	Tags: {
		name:     v1alpha1.ControlTags,
		modes:    []string{ModeAllowed, ModeDenied},
		presets:  [4]string{ModeAllowed, ModeAllowed, ModeAllowed, ModeAllowed},
		override: func(c *v1alpha1.Controls) (Value, bool) { return simple(string(c.Tags)) },
		enforcer: ByPlugin,
	},
	Fleets: {
		name:    v1alpha1.ControlFleets,
		modes:   []string{ModeAllowed, ModeAllowedList, ModeDenied},
		presets: [4]string{ModeAllowed, ModeAllowed, ModeAllowed, ModeDenied},
		override: func(c *v1alpha1.Controls) (Value, bool) {
			if c.Fleets == nil {
				return Value{}, false
			}
			return listed(c.Fleets.Allowed)
		},
		enforcer: ByPlugin, entry: &fleetEntry,
	},
	Backends: {
		name:    v1alpha1.ControlBackends,
		modes:   []string{ModeAllowed, ModeAllowedList, ModeDenied},
		presets: [4]string{ModeAllowed, ModeAllowed, ModeAllowed, ModeAllowed},
		override: func(c *v1alpha1.Controls) (Value, bool) {
			if c.Backends == nil {
				return Value{}, false
			}
			return listed(c.Backends.Allowed)
		},
		enforcer: ByPlugin, entry: &backendEntry,
	},
	Registries: {
		name:    v1alpha1.ControlRegistries,
		modes:   []string{ModeAllowed, ModeAllowedList, ModeDenied},
		presets: [4]string{ModeAllowed, ModeAllowed, ModeAllowed, ModeAllowed},
		override: func(c *v1alpha1.Controls) (Value, bool) {
			if c.Registries == nil {
				return Value{}, false
			}
			return listed(c.Registries.Allowed)
		},
		enforcer: ByPlugin, entry: &registryEntry, nested: true,
	},
	UnknownFields: {
		name:     v1alpha1.ControlUnknownFields,
		modes:    []string{ModeAllowed, ModeDeniedIfSet},
		presets:  [4]string{ModeAllowed, ModeDeniedIfSet, ModeDeniedIfSet, ModeDeniedIfSet},
		override: func(c *v1alpha1.Controls) (Value, bool) { return simple(string(c.UnknownFields)) },
		enforcer: ByPlugin,
	},
}

// Name is the control's name in the API.
func (c Control) Name() v1alpha1.ControlName { return table[c].name }

// Enforcer names what refuses what the control denies.
func (c Control) Enforcer() Enforcer { return table[c].enforcer }

// Modes are the control's modes from loosest to strictest.
func (c Control) Modes() []string { return slices.Clone(table[c].modes) }

// Preset is the control's mode under a level in level version v1, and false
// for a level that this release does not know.
func (c Control) Preset(level v1alpha1.Level) (string, bool) {
	i := slices.Index(levels, level)
	if i < 0 {
		return "", false
	}
	return table[c].presets[i], true
}

// Strictest is the value that denies all that the control can deny.
func (c Control) Strictest() Value {
	modes := table[c].modes
	return Value{Mode: modes[len(modes)-1]}
}

// Loosest is the value that denies nothing.
func (c Control) Loosest() Value { return Value{Mode: table[c].modes[0]} }

// rank orders the control's values; an unknown mode is as strict as can be.
func (c Control) rank(v Value) int {
	if i := slices.Index(table[c].modes, v.Mode); i >= 0 {
		return i
	}
	return len(table[c].modes) - 1
}

// AllControls lists the controls in the order of the table.
func AllControls() []Control {
	all := make([]Control, ControlCount)
	for i := range all {
		all[i] = Control(i)
	}
	return all
}

// ControlByName finds a control by its name in the API.
func ControlByName(name v1alpha1.ControlName) (Control, bool) {
	for c, r := range table {
		if r.name == name {
			return Control(c), true
		}
	}
	return 0, false
}

// levels from loosest to strictest, in the order of row.presets.
var levels = []v1alpha1.Level{
	v1alpha1.LevelOpen, v1alpha1.LevelBaseline, v1alpha1.LevelRestricted, v1alpha1.LevelDedicated,
}

// Levels lists the levels from loosest to strictest.
func Levels() []v1alpha1.Level { return slices.Clone(levels) }
