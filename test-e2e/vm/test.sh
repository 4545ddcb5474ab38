#!/bin/sh
# test.sh BUILT [sample|all]: what holds on this machine, again on one with systemd, unified cgroups and AppArmor.
#
# BUILT is the directory with the finished programs and, in deps/, the tests; the machine is made beside them. The sample
# ends within fifteen minutes under emulation; `all` takes the better part of an hour, unless TESTS (names of programs) and FOCUS (a regular
# expression of cases; SYSTEMD=1 for systemd's cgroups) choose some.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
built=$(cd "${1:?usage: test.sh BUILT [sample|all]}" && pwd)
choice=${2:-sample}
case $choice in sample | all) ;; *) echo "test.sh: sample or all?" >&2; exit 2 ;; esac
for program in crisp crisp-pod probe conformance conformance.test ginkgo conformance-parts/busybox; do
    [ -e "$built/$program" ] || { echo "test.sh: $built/$program is missing: make conformance builds it" >&2; exit 1; }
done

share=$(mktemp -d)
trap 'rm -rf "$share"' EXIT
mkdir "$share/deps"
cp -a "$built/crisp" "$built/crisp-pod" "$built/probe" "$built/conformance" "$built/conformance.test" "$built/ginkgo" \
    "$built/conformance-parts" "$share/"
# Under their plain names; the newest where cargo has left several. Other crates have programs of the same names: what cargo
# built them from tells.
for test in "$here"/../tests/*; do
    name=$(basename "$test" .rs)
    # One that is missing there fails there.
    for sources in $(ls -t "$built/deps/$name"-*.d 2>/dev/null); do
        program=${sources%.d}
        if [ -x "$program" ] && grep -q "test-e2e/tests/$name[./]" "$sources"; then
            cp -a "$program" "$share/deps/$name"
            break
        fi
    done
done
# What they carry for debuggers is most of them.
strip "$share/crisp" "$share/crisp-pod" "$share/probe" "$share/conformance" "$share/conformance.test" "$share/ginkgo" \
    "$share"/deps/*
cp "$here/$choice.sh" "$share/command"
{
    printf "export TESTS='%s' FOCUS='%s' SYSTEMD='%s'\n" "${TESTS:-}" "${FOCUS:-}" "${SYSTEMD:-}"
    cat "$here/steps.sh"
} > "$share/steps.sh"
chmod +x "$share/command"

"$here/image.sh" "$built/vm"
status=0
LIMIT=${LIMIT:-$([ "$choice" = all ] && echo 21600 || echo 1500)} "$here/run.sh" "$built/vm" "$share" || status=$?
exit $status
