#!/bin/sh
# In the machine: what is different there (unified cgroups, OOM kills, limits, an older kernel's mounts, AppArmor).
. ./steps.sh
begin
tests apparmor
tests systemd
FOCUS='AppArmor|Container OOM|Container Mount|UserNamespaces|sysctls|HostPID|PodPID|listing stats' cases
tests pod
tests container
finish
