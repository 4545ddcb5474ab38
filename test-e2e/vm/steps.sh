# Sourced by what runs in the machine: one line per program, its output where it fails.
failed= share=$PWD begun=$(date +%s)

begin() {
    echo "$(uname -sr), $(systemctl --version | head -n 1), cgroups: $(stat -f -c %T /sys/fs/cgroup), AppArmor: $(cat /sys/module/apparmor/parameters/enabled), up for $(cut -d . -f 1 /proc/uptime) s"
    # Off the shared folder: pages of programs come from there one by one. Not below /run, which tests cover.
    mkdir -p /var/tmp/crisp/deps
    cd /var/tmp/crisp
    (cd "$share" && cp -a crisp crisp-pod probe /var/tmp/crisp/)
    export RUST_TEST_THREADS="${RUST_TEST_THREADS:-2}" TMPDIR=/var/tmp CRISP_TEST_PATIENCE=10
}

# One program of tests, by its name; more words go to it.
tests() {
    cp -a "$share/deps/$1" deps/
    run "deps/$@"
    rm "deps/$1"
}

# The cases that FOCUS names, else all; more words say in what way.
cases() {
    [ -e conformance ] || (cd "$share" && cp -a conformance conformance.test ginkgo conformance-parts /var/tmp/crisp/)
    run conformance "$@"
}

run() {
    started=$(date +%s)
    if ./"$@" > /var/tmp/output 2>&1; then outcome=ok; else outcome=FAILED failed="$failed $1"; fi
    echo "== $1${SYSTEMD:+ with systemd}: $outcome, $(($(date +%s) - started)) s: $(grep -E '^test result|passed, ' /var/tmp/output | tail -n 1)"
    [ "$outcome" = ok ] || tail -n 400 /var/tmp/output
}

finish() {
    [ -z "$failed" ] || { echo "failed:$failed"; exit 1; }
    echo "all well, after $(($(date +%s) - begun)) s"
}
