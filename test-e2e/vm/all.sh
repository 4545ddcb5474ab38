#!/bin/sh
# In the machine: every test of the daemon, then every case.
. ./steps.sh
begin
for test in deps/*; do
    run "$test"
done
run conformance
finish
