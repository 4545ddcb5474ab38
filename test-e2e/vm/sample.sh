#!/bin/sh
# In the machine: what is different there (unified cgroups, OOM kills, limits, an older kernel's mounts, AppArmor).
. ./steps.sh
begin
run deps/systemd
run deps/pod
run deps/container
FOCUS='AppArmor|Container OOM|Container Mount|UserNamespaces|sysctls|HostPID|PodPID|listing stats' run conformance
finish
