SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# VERSION is what the binary says of itself and the tag of the image.
VERSION ?= dev
# IMAGE is the name of the operator's image; FUZZTIME is for each fuzzer; PKG narrows test and lint, such as PKG=./internal/policy/...
IMAGE ?= dstack-isolation:$(VERSION)
FUZZTIME ?= 1m
PKG ?= ./...

# Programs that are built from Go modules, Python environments and images stay here.
export DSTACK_ISOLATION_CACHE ?= $(CURDIR)/.cache

##@ Try it

.PHONY: demo
demo: ## Show on a real cluster, set up on this machine, how a dstack server becomes isolated (root; DEMO_USE_CURRENT=1 uses KUBECONFIG).
	hack/demo

.PHONY: demo-down
demo-down: ## Take the demo and its cluster down.
	hack/demo down

.PHONY: cluster-up
cluster-up: ## Start the one-node cluster (root).
	hack/cluster/up

.PHONY: cluster-down
cluster-down: ## Stop the one-node cluster and undo what it changed on this machine.
	hack/cluster/down

##@ Change it

.PHONY: generate
generate: ## Write all generated files anew: code, CRDs, RBAC, chart copies, docs.
	hack/generate

.PHONY: fmt
fmt: ## Format Go and Python code.
	hack/lint --fix $(PKG)

.PHONY: lint
lint: ## Check Go, shell and Python code, and the rules of CONTRIBUTING.md.
	hack/lint $(PKG)

.PHONY: verify
verify: ## Check that generated files, go.mod and formatting are up to date, in a copy: changes nothing.
	hack/verify

##@ Test it

.PHONY: test
test: ## Run all tests that need no root: Go with the race detector, on a real API server, and Python.
	hack/tools/go-test $(PKG)
	cd test/helm && KUBEBUILDER_ASSETS=$$(../../hack/cluster/binaries envtest) go test -timeout=25m ./...
	go test -run='Allocat' ./internal/policy ./internal/policyserver # the race detector allocates too
	hack/python/test

.PHONY: chart-test
chart-test: ## Check the Helm chart: lint, rendered manifests, refused values.
	hack/tools/chart-test

.PHONY: e2e
e2e: ## Run the end-to-end tests on the one-node cluster (root).
	hack/e2e

.PHONY: fuzz
fuzz: ## Run every fuzzer for FUZZTIME.
	hack/tools/fuzz $(FUZZTIME)

.PHONY: bench
bench: ## Measure the policy server against its targets and against other servers; writes docs/benchmarks.md (root for all of it).
	hack/bench

##@ Build it

.PHONY: build
build: ## Build the static binary bin/dstack-isolation.
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X github.com/dstack-isolation/operator/internal/app.Version=$(VERSION)" -o bin/dstack-isolation .

.PHONY: image
image: build ## Build the image as dist/dstack-isolation.tar, for `docker load` or `ctr images import`; needs no container engine.
	hack/images/operator bin/dstack-isolation $(IMAGE) dist/dstack-isolation.tar

.PHONY: clean
clean: ## Remove what was built here; the cache of tools and clusters stays.
	rm -rf bin dist

##@ Help

.PHONY: help
help: ## Show this.
	@awk 'BEGIN { FS = ":.*## " } /^##@ / { printf "\n%s\n", substr($$0, 5) } /^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
