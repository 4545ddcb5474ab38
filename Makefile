# What a person types. Each target installs what it needs (test-e2e/setup.sh) and builds what it runs.

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
# The target is always named (.cargo/config.toml), so its triple is part of every path.
TRIPLE     := $(shell rustc -vV | sed -n 's/^host: //p')
DEBUG      := $(TARGET_DIR)/$(TRIPLE)/debug
RELEASE    := $(TARGET_DIR)/$(TRIPLE)/release
POD        := $(TARGET_DIR)/$(TRIPLE)/pod
# Side by side, servers share the CPUs: more tests at once than this only wait for each other.
export RUST_TEST_THREADS ?= $(shell n=$$(nproc); echo $$(( n < 2 ? 2 : n > 8 ? 8 : n )))

.PHONY: help demo run build release test conformance test-vm test-vm-all bench bench-cycle bench-vm lint fuzz-check doc clean
.DEFAULT_GOAL := help

help: ## what there is
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | awk -F'\t' '{ printf "  make %-12s %s\n", $$1, $$2 }'

demo: release ## one pod's life, timed, from an image made on the spot; leaves nothing behind
	$(RELEASE)/crisp demo

run: release ## the daemon in the foreground, on /run/crisp/crisp.sock
	$(RELEASE)/crisp

build: ## both programs, for debugging
	@test-e2e/setup.sh build
	cargo build -p cri-server -p runtime --bins

# The daemon favours speed, the supervisor size (one stays resident per pod): two profiles, and the
# daemon finds the supervisor beside itself. Both at once, for the end of each build is one thread's work.
release: ## both programs, optimised, side by side
	@test-e2e/setup.sh build
	cargo build --profile pod -p runtime --bins & \
	    cargo build --release -p cri-server --bins; built=$$?; wait $$! && exit $$built
	cp --update --preserve=timestamps $(POD)/crisp-pod $(RELEASE)/crisp-pod

test: ## everything: units, contracts, and the daemon end to end (as root)
	@test-e2e/setup.sh test
	cargo build --workspace --bins
	cargo test --workspace --no-fail-fast
	@command -v go >/dev/null || echo "make test: without Go these were left out: crictl, and client-go's streaming clients"

conformance: ## Kubernetes' own cases against crisp, as root; RUNS=3 in a row, PROCS=4 at once, FOCUS=regex
	@test-e2e/setup.sh conformance
	cargo build --workspace --bins
	$(DEBUG)/conformance

test-vm: vm-programs ## a sample of tests and cases on a Debian with systemd, cgroup v2 and AppArmor (emulated: 15 minutes)
	test-e2e/vm/test.sh $(DEBUG) sample

test-vm-all: vm-programs ## all of them there (emulated: the better part of an hour), or those of TESTS="exec stop" and FOCUS=regex
	test-e2e/vm/test.sh $(DEBUG) all

# The whole workspace, as for `make test`: with a part of it, what it depends on would be built again.
.PHONY: vm-programs
vm-programs:
	@test-e2e/setup.sh vm
	cargo build --workspace --bins
	cargo test --workspace --no-run
	$(DEBUG)/conformance --build

bench: release ## crisp beside containerd: every call, crowds, memory, logs, pulls (RACE= for its options)
	@test-e2e/setup.sh bench
	CRISP_BIN=$(abspath $(RELEASE))/crisp cargo bench -p test-e2e --bench race -- --report $(abspath $(TARGET_DIR))/race $(RACE)

bench-cycle: release ## one pod's cycle, with criterion's statistics
	@test-e2e/setup.sh test
	CRISP_BIN=$(abspath $(RELEASE))/crisp cargo bench -p test-e2e --bench cycle

bench-vm: release ## a pod's cycle with either cgroup driver, on a Debian with systemd and cgroup v2 (emulated: their ratio is what counts)
	@test-e2e/setup.sh bench-vm
	cargo bench -p test-e2e --bench race --no-run
	test-e2e/vm/bench.sh $(RELEASE) $(DEBUG)/vm $(TARGET_DIR)/race-vm

lint: ## formatting, lints and dependency directions
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	test-e2e/checks/dependencies.sh

fuzz-check: ## that the fuzz targets compile, with the versions of this build and without a fuzzer
	cp Cargo.lock fuzz/Cargo.lock
	RUSTFLAGS="--cfg fuzzing -C target-feature=+crt-static" cargo check --manifest-path fuzz/Cargo.toml --no-default-features

doc: ## the documentation of every crate
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items

clean: ## what cargo built
	cargo clean
