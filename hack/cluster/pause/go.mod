// The process that holds a pod's namespaces.
module github.com/dstack-isolation/operator/hack/cluster/pause

go 1.26.0
