# Sourced by what runs in the machine: one line per program, its output where it fails.
failed=

begin() {
    echo "$(uname -sr), $(systemctl --version | head -n 1), cgroups: $(stat -f -c %T /sys/fs/cgroup), AppArmor: $(cat /sys/module/apparmor/parameters/enabled)"
    # Off the shared folder: pages of programs come from there one by one. Not below /run, which tests cover.
    mkdir /var/tmp/crisp && cp -a crisp crisp-pod probe conformance conformance.test ginkgo conformance-parts deps /var/tmp/crisp/
    cd /var/tmp/crisp
    export RUST_TEST_THREADS="${RUST_TEST_THREADS:-2}" TMPDIR=/var/tmp CRISP_TEST_PATIENCE=10
}

run() {
    started=$(date +%s)
    if ./"$1" > /var/tmp/output 2>&1; then outcome=ok; else outcome=FAILED failed="$failed $1"; fi
    echo "== $1: $outcome, $(($(date +%s) - started)) s: $(grep -E '^test result|passed, ' /var/tmp/output | tail -n 1)"
    [ "$outcome" = ok ] || tail -n 400 /var/tmp/output
}

finish() {
    [ -z "$failed" ] || { echo "failed:$failed"; exit 1; }
    echo "all well"
}
