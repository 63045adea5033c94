package objects

import (
	"context"
	"fmt"
	"io/fs"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"
)

// celCostBudget is what the rules of one object may cost, as in the API
// server.
const celCostBudget int64 = celconfig.RuntimeCELCostBudget

// kind checks objects of one kind as the API server does when one is created.
type kind struct {
	structural *structuralschema.Structural
	schema     validation.SchemaValidator
	rules      *cel.Validator
}

// newKinds reads CustomResourceDefinitions and compiles every served version.
func newKinds(crds fs.FS) (map[schema.GroupVersionKind]*kind, error) {
	names, err := fs.Glob(crds, "*.yaml")
	if err != nil {
		return nil, fmt.Errorf("list CustomResourceDefinitions: %w", err)
	}
	kinds := map[schema.GroupVersionKind]*kind{}
	for _, name := range names {
		data, err := fs.ReadFile(crds, name)
		if err != nil {
			return nil, fmt.Errorf("read CustomResourceDefinition: %w", err)
		}
		var crd apiextensionsv1.CustomResourceDefinition
		if err := yaml.UnmarshalStrict(data, &crd); err != nil {
			return nil, fmt.Errorf("read CustomResourceDefinition %s: %w", name, err)
		}
		for _, version := range crd.Spec.Versions {
			k, err := newKind(version.Schema)
			if err != nil {
				return nil, fmt.Errorf("compile CustomResourceDefinition %s, version %s: %w", crd.Name, version.Name, err)
			}
			kinds[schema.GroupVersionKind{Group: crd.Spec.Group, Version: version.Name, Kind: crd.Spec.Names.Kind}] = k
		}
	}
	return kinds, nil
}

func newKind(v1 *apiextensionsv1.CustomResourceValidation) (*kind, error) {
	var internal apiextensions.CustomResourceValidation
	if err := apiextensionsv1.Convert_v1_CustomResourceValidation_To_apiextensions_CustomResourceValidation(v1, &internal, nil); err != nil {
		return nil, fmt.Errorf("convert schema: %w", err)
	}
	structural, err := structuralschema.NewStructural(internal.OpenAPIV3Schema)
	if err != nil {
		return nil, fmt.Errorf("make schema structural: %w", err)
	}
	// The defaults are shared with the internal schema, and PruneDefaults edits.
	structural = structural.DeepCopy()
	if err := defaulting.PruneDefaults(structural); err != nil {
		return nil, fmt.Errorf("prune defaults: %w", err)
	}
	schemaValidator, _, err := validation.NewSchemaValidator(internal.OpenAPIV3Schema)
	if err != nil {
		return nil, fmt.Errorf("compile schema: %w", err)
	}
	return &kind{
		structural: structural,
		schema:     schemaValidator,
		rules:      cel.NewValidator(structural, true, celconfig.PerCallLimit),
	}, nil
}

// admit does to the object what the API server does on creation, in its order:
// unknown fields are refused, defaults set, status dropped, then metadata,
// schema, list types and CEL rules checked. It returns the metadata.
func (k *kind) admit(object map[string]any) (*metav1.ObjectMeta, field.ErrorList) {
	meta, found, unknown, err := objectmeta.GetObjectMetaWithOptions(object, objectmeta.ObjectMetaOptions{ReturnUnknownFieldPaths: true})
	if err != nil {
		return nil, field.ErrorList{field.Invalid(field.NewPath("metadata"), field.OmitValueType{}, err.Error())}
	}
	if !found {
		meta = &metav1.ObjectMeta{}
	}
	unknown = append(unknown, pruning.PruneWithOptions(object, k.structural, true,
		structuralschema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})...)
	if len(unknown) > 0 {
		return meta, unknownFields(unknown)
	}
	defaulting.PruneNonNullableNullsWithoutDefaults(object, k.structural)
	defaulting.Default(object, k.structural)
	// A status is written by the operator only, through its subresource.
	delete(object, "status")
	return meta, k.validate(object, meta)
}

const unknownField = "unknown field: mend its name or remove it"

func unknownFields(paths []string) field.ErrorList {
	var errs field.ErrorList
	for _, path := range paths {
		errs = append(errs, &field.Error{Type: field.ErrorTypeForbidden, Field: path, Detail: unknownField})
	}
	return errs
}

func (k *kind) validate(object map[string]any, meta *metav1.ObjectMeta) field.ErrorList {
	errs := validateMetadata(meta)
	errs = append(errs, validation.ValidateCustomResource(nil, object, k.schema)...)
	errs = append(errs, objectmeta.Validate(context.Background(), nil, object, k.structural, false)...)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, k.structural, object)...)
	if hidesRules(errs) {
		return errs
	}
	ruleErrs, _ := k.rules.Validate(context.Background(), nil, k.structural, object, nil, celCostBudget)
	return append(errs, ruleErrs...)
}

func validateMetadata(meta *metav1.ObjectMeta) field.ErrorList {
	path := field.NewPath("metadata")
	if meta.Name == "" {
		return field.ErrorList{field.Required(path.Child("name"), "an object in a file needs a name of its own")}
	}
	return apivalidation.ValidateObjectMeta(meta, true, apivalidation.NameIsDNSSubdomain, path)
}

// hidesRules tells whether the object is so wrong that the API server does not
// run CEL rules on it.
func hidesRules(errs field.ErrorList) bool {
	for _, err := range errs {
		switch err.Type {
		case field.ErrorTypeNotSupported, field.ErrorTypeRequired, field.ErrorTypeTooLong,
			field.ErrorTypeTooMany, field.ErrorTypeTypeInvalid:
			return true
		}
	}
	return false
}
