#!/bin/sh
# In the machine: what is different there. The daemon's cgroups (unified), OOM kills, limits, stats, and AppArmor's cases.
. ./steps.sh
begin
run deps/pod
run deps/container
run deps/restart
FOCUS='AppArmor|Container OOM|Container Mount|UserNamespaces|SeccompProfilePath|sysctls|HostPID|PodPID' run conformance
finish
