# Shorthands for .ci/run, which holds the commands.
.DEFAULT_GOAL := help
.PHONY: help build test all e2e race lint fuzz bench gobench h2spec image ci

VERSION = $(shell git describe --tags --always --dirty)

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "  make %-7s  %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## the binaries, into bin/
	@.ci/run build

test: ## the tests of packages that need no etcd, in less than a minute
	@.ci/run quick

all: ## all tests: go test ./...
	@.ci/run test

e2e: ## only the stories: real etcd, real servers, real clients
	go test -count=1 ./test/e2e/

race: ## all tests with the race detector
	@.ci/run race

lint: ## formatting, go vet, staticcheck, go.mod
	@.ci/run format lint modules

fuzz: ## every fuzz target, FUZZTIME=5000x inputs each
	@.ci/run fuzz

bench: ## lbproxy beside nginx, HAProxy and nghttpx, into docs/benchmarks.md: ten quiet minutes, see bench/README.md
	go run ./bench -o docs/benchmarks.md -json bin/benchmarks.json $(BENCHFLAGS)

gobench: ## the benchmarks of packages; compare two outputs with: go tool benchstat OLD NEW
	go test -run '^$$' -bench . -benchmem ./...

h2spec: ## the relay against h2spec, which is fetched and built
	@.ci/run h2spec

image: ## the container image lbproxy:VERSION
	docker build --build-arg VERSION=$(VERSION) --tag lbproxy:$(VERSION) .

ci: ## everything that CI runs
	@.ci/run
