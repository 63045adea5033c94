// Package crd holds the CustomResourceDefinitions of the operator's kinds.
package crd

import "embed"

// FS holds the generated CustomResourceDefinitions, one YAML file each.
//
//go:embed *.yaml
var FS embed.FS
