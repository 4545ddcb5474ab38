#!/bin/sh
# In the machine: the tests that TESTS names and the cases that FOCUS names; neither set: every test, then every case.
. ./steps.sh
begin
if [ -n "$TESTS$FOCUS" ]; then
    for name in $TESTS; do tests "$name"; done
    [ -z "$FOCUS" ] || cases
else
    for program in "$share"/deps/*; do tests "${program##*/}"; done
    cases
fi
finish
