#!/bin/sh
# bench.sh BUILT IMAGE REPORT: the race's cycle on a machine with systemd and unified cgroups, for the sake of one ratio:
# that of the two cgroup drivers.
#
# BUILT is the directory with the finished programs and, in deps/, the race; the machine is made in IMAGE, where it is not
# there yet; what the race found goes to REPORT. Where the machine is emulated, everything takes many times as long as
# on a real one. Environment: CYCLES (60), and that of run.sh.
set -eu

[ $# = 3 ] || { echo "usage: bench.sh BUILT IMAGE REPORT" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
built=$(cd "$1" && pwd) image=$2 report=$3
race=
for sources in $(ls -t "$built"/deps/race-*.d 2>/dev/null); do
    if [ -x "${sources%.d}" ] && grep -q test-e2e/benches/race/ "$sources"; then race=${sources%.d}; break; fi
done
for program in "$built/crisp" "$built/crisp-pod" "$built/probe" "$race"; do
    [ -x "$program" ] || { echo "bench.sh: ${program:-the race} is missing in $built: make bench-vm builds it" >&2; exit 1; }
done

share=$(mktemp -d)
trap 'rm -rf "$share"' EXIT
cp -a "$built/crisp" "$built/crisp-pod" "$built/probe" "$share/"
cp -a "$race" "$share/race"
strip "$share/crisp" "$share/crisp-pod" "$share/probe" "$share/race"
cp "$here/race.sh" "$share/command"
{
    echo "export CYCLES='${CYCLES:-60}'"
    cat "$here/steps.sh"
} > "$share/steps.sh"
chmod +x "$share/command"

"$here/image.sh" "$image"
LIMIT=${LIMIT:-900} "$here/run.sh" "$image" "$share"
mkdir -p "$report"
cp "$share"/report/race.* "$report/"
