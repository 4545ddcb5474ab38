#!/bin/sh
# In the machine: one pod's life, over and over, with either cgroup driver; the report is left in the shared folder.
. ./steps.sh
begin
cp -a "$share/race" race
./race --alone --only cycle --cycles "$CYCLES" --report "$share/report" 2> /var/tmp/errors || failed=race
grep '^race: ' /var/tmp/errors
[ -z "$failed" ] || tail -n 100 /var/tmp/errors
finish
