# make demo and make test do all the set-up that they need; see README.md.
SHELL       := /bin/bash
.DEFAULT_GOAL := build
BIN         := bin/shoal
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
TAGS        := netgo osusergo seccomp
GOFLAGS_REL := -trimpath -tags "$(TAGS) stage" -ldflags "-s -w -X main.version=$(VERSION) -extldflags -static"
# The small program that the binary carries and starts for each container. The same sources give the same file.
STAGE       := cmd/shoal/stage.gz
GOFLAGS_STG := -trimpath -buildvcs=false -tags "$(TAGS)" -ldflags "-s -w -buildid= -extldflags -static"
# What thinks has no cgo and builds for darwin too; only the container runtime and the binary reach cgo.
PURE        := ./consensus/... ./gossip/... ./node/... ./runtime ./runtime/fake ./runtime/runtimetest
TOOLS       := $(CURDIR)/build/tools
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0

.PHONY: help build demo demo-down demo-off demo-on demo-enter test check bench soak soak-use conformance docs fuzz race repeat sim chaos chaos-controls e2e-vm chaos-vm vagrant-box e2e-vagrant clean deps

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

deps:
	@packaging/deps.sh build

build: deps ## the static binary, bin/shoal
	@mkdir -p bin build
	CGO_ENABLED=1 go build $(GOFLAGS_STG) -o build/stage ./runtime/container/stage/shoal-stage
	@gzip -9nc build/stage > $(STAGE)
	CGO_ENABLED=1 go build $(GOFLAGS_REL) -o $(BIN) ./cmd/shoal

demo: build ## three machines on this one, a web service, and a power cut; KEEP=1 leaves them up
	@CGO_ENABLED=0 go build -o build/demo ./e2e/demo
	@exec build/demo -binary $(BIN) $(if $(KEEP),-keep)

demo-down: ## remove the cluster that make demo KEEP=1 has left
	@CGO_ENABLED=0 go build -o build/demo ./e2e/demo
	@exec build/demo -down

# With M=m2: cut the power of a machine of the kept cluster, switch it on again, open a shell in it.
demo-off demo-on demo-enter:
	@CGO_ENABLED=0 go build -o build/demo ./e2e/demo
	@exec build/demo -$(subst demo-,,$@) $(or $(M),$(error say which machine: make $@ M=m2))

test: build ## all tests, as root: units, cluster in namespaces
	@packaging/deps.sh test
	SHOAL_BINARY=$(CURDIR)/$(BIN) go test -tags "$(TAGS)" -timeout 20m $(TESTFLAGS) ./...

check: build ## gofmt, vet, staticcheck, builds without cgo, import table, generated docs
	@out=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "not gofmt-ed:"; echo "$$out"; exit 1; fi
	go vet -tags "$(TAGS)" ./...
	CGO_ENABLED=0 go build $(PURE)
	CGO_ENABLED=0 GOOS=darwin go vet ./consensus/... ./gossip/... ./runtime ./runtime/fake
	go test ./e2e/house
	@for page in "cli:" "compose:--compose"; do \
		$(BIN) docs $${page#*:} | cmp -s - docs/$${page%%:*}.md || { echo "docs/$${page%%:*}.md is not what the code says: run make docs"; exit 1; }; \
	done
	@test -x $(TOOLS)/staticcheck || GOBIN=$(TOOLS) go install $(STATICCHECK)
	$(TOOLS)/staticcheck -tags "$(subst $() ,$(comma),$(TAGS))" ./...
	@test -x $(TOOLS)/govulncheck || GOBIN=$(TOOLS) go install $(GOVULNCHECK)
	@$(TOOLS)/govulncheck -tags "$(subst $() ,$(comma),$(TAGS))" ./... || { [ $$? -ne 3 ] && echo "govulncheck: the database is out of reach; not checked"; }

bench: build ## the figures: submit, start, fail-over, memory, size
	@packaging/deps.sh test
	@CGO_ENABLED=0 go build -o build/bench ./e2e/bench
	@exec build/bench -binary $(BIN) $(BENCHFLAGS)

soak: build ## five machines under packet loss and a busy CPU for TIME (default 30m): is any declared dead?
	@CGO_ENABLED=0 go build -o build/bench ./e2e/bench
	@exec build/bench -binary $(BIN) -only '^soak$$' -soak $(or $(TIME),30m)

soak-use: build ## three machines in use for TIME (default 2h): does memory, disk or anything else grow? the plot: build/soak
	@CGO_ENABLED=0 go build -o build/soak-use ./e2e/soak
	@exec build/soak-use -binary $(BIN) -for $(or $(TIME),2h)

conformance: build ## others' suites judge what starts containers: runtime-tools' validation, beside runc; docker and podman over it
	@packaging/deps.sh conformance
	@CGO_ENABLED=0 go build -o build/conformance/conformance ./e2e/conformance
	@exec build/conformance/conformance -binary $(BIN) $(CONFORMANCEFLAGS)

vagrant-box: ## a Vagrant box for libvirt out of Debian's packages, build/vagrant/shoal-debian12.box; `vagrant up` prefers it
	@packaging/deps.sh vagrant
	@packaging/vagrant/box.sh build/vagrant/shoal-debian12.box

e2e-vagrant: build ## vagrant up with that box beside a libvirtd of its own, a power cut, vagrant destroy; minutes
	@test -e build/vagrant/shoal-debian12.box || $(MAKE) vagrant-box
	@packaging/deps.sh vagrant
	@packaging/vagrant/apart.sh packaging/vagrant/proof.sh

docs: build ## write the pages that come from the code
	$(BIN) docs > docs/cli.md
	$(BIN) docs --compose > docs/compose.md

fuzz: ## each fuzz target for FUZZTIME (default 30s), two at a time; ONLY=REGEXP picks some
	@packaging/fuzz.sh $(or $(FUZZTIME),30s) "$(ONLY)"

RACE := ./consensus/... ./gossip/... ./node/... ./runtime/... ./cmd/... ./e2e/chaos
race: ## the race detector over all unit and simulation tests; PKGS= picks packages
	@packaging/deps.sh test
	CGO_ENABLED=1 go test -race -short -p 2 -tags "$(TAGS)" -timeout 60m $(TESTFLAGS) $(or $(PKGS),$(RACE))

repeat: build ## the tests N times (default 100), a table of what failed; PKGS=, RUN=, FOR= (no new round after)
	@packaging/deps.sh test
	@CGO_ENABLED=0 go build -o build/repeat-tests ./e2e/repeat
	@SHOAL_BINARY=$(CURDIR)/$(BIN) exec build/repeat-tests -n $(or $(N),100) -run "$(RUN)" -for $(or $(FOR),0) $(or $(PKGS),./...)

sim: ## fake time: leaders lost, decisions, false deaths, whole clusters under random trouble, for SECONDS (default 300); SEEDS= FIRST=
	@node/nodetest/sim.sh $(or $(SECONDS),300) "$(FIRST)" $(SEEDS)

chaos: build ## break a cluster at random for SECONDS or FAULTS faults (default 60), by SEED; CHAOSFLAGS=-list tells which
	@packaging/deps.sh test
	@CGO_ENABLED=0 go build -o build/chaos-run ./e2e/chaos/run
	@CGO_ENABLED=1 go build $(subst main.version=$(VERSION),main.version=chaos-next,$(GOFLAGS_REL)) -o build/next/shoal ./cmd/shoal
	@exec build/chaos-run -binary $(BIN) -next build/next/shoal -time $(or $(SECONDS),0)s -count $(or $(FAULTS),0) -seed $(or $(SEED),0) $(CHAOSFLAGS)

chaos-controls: build ## builds that are wrong on purpose (no fsync, local reads, a lost log kept quiet, no re-join): each must be caught; ONLY=
	@packaging/deps.sh test
	@e2e/chaos/controls.sh "$(TAGS)" $(ONLY)

# The tests of ./e2e that make sense where the host sees no process and no file of a machine; `make e2e-vm E2E=…` picks others.
E2E_VM := TestVM.*|TestForm

e2e-vm: build ## the end-to-end tests on machines with kernels of their own, under qemu (real cgroup v2); E2E=PATTERN picks some
	@packaging/deps.sh vm
	SHOAL_MACHINES=vm SHOAL_BINARY=$(CURDIR)/$(BIN) go test -count=1 -v -tags "$(TAGS)" -timeout $(or $(VMTIME),60m) -run '^($(or $(E2E),$(E2E_VM)))$$' ./e2e

chaos-vm: build ## faults that take real kernels: netem, failing and slow disks, clock steps, panics; FAULTS=number or names, SEED=
	@packaging/deps.sh vm
	SHOAL_MACHINES=vm SHOAL_CHAOS_FAULTS=$(FAULTS) SHOAL_SEED=$(SEED) SHOAL_BINARY=$(CURDIR)/$(BIN) go test -count=1 -v -tags "$(TAGS)" -timeout $(or $(VMTIME),60m) -run '^TestVMChaos$$' ./e2e

.PHONY: crash
crash: ## crash consistency of the log, identity and files: each step killed 20 times, 150 power cuts, …, all TIMES as often (default 10)
	@packaging/deps.sh test
	@set -o pipefail; SHOAL_CRASH_TIMES=$(or $(TIMES),10) go test -count=1 -v -timeout 3h -run '^(TestKilledAtEachStep|TestPowerCuts|TestEveryChangeFailsOnce|TestDamageIsNeverServed)$$' ./consensus ./node | grep -vE '^(=== |    --- PASS)'

clean: ## what building made
	rm -rf bin build $(STAGE)

comma := ,
