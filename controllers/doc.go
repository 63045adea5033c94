// Package controllers holds one reconciler a kind. DstackServerReconciler is
// the only one that applies anything; IsolationProfileReconciler writes the
// status of profiles. Both are thin: they read, call pure packages, and write
// what those return.
package controllers

// What the manager may do, all in its own namespace. Secrets are read and
// written by name, never listed or watched.

// +kubebuilder:rbac:groups=isolation.dstack.ai,resources=dstackservers,verbs=get;list;watch;patch;update
// +kubebuilder:rbac:groups=isolation.dstack.ai,resources=dstackservers/status,verbs=get;patch
// +kubebuilder:rbac:groups=isolation.dstack.ai,resources=dstackservers/finalizers,verbs=update
// +kubebuilder:rbac:groups=isolation.dstack.ai,resources=isolationprofiles,verbs=get;list;watch
// +kubebuilder:rbac:groups=isolation.dstack.ai,resources=isolationprofiles/status,verbs=get;patch
// +kubebuilder:rbac:groups=apps,resources=deployments,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups=apps,resources=statefulsets,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=apps,resources=replicasets,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=services;configmaps,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups="",resources=secrets,verbs=get;create;patch;delete
// +kubebuilder:rbac:groups="",resources=pods,verbs=get;list;watch;delete
// +kubebuilder:rbac:groups="",resources=namespaces,verbs=get
// +kubebuilder:rbac:groups=policy,resources=poddisruptionbudgets,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups=networking.k8s.io,resources=networkpolicies,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups=discovery.k8s.io,resources=endpointslices,verbs=get;list;watch
// +kubebuilder:rbac:groups="";events.k8s.io,resources=events,verbs=create;patch
// +kubebuilder:rbac:groups=coordination.k8s.io,resources=leases,verbs=get;create;update
