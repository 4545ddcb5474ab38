#!/bin/sh
# In the machine: what is different there (unified cgroups, OOM kills, limits, an older kernel's mounts, AppArmor), and
# containers as systemd's scopes.
. ./steps.sh
begin
tests apparmor
tests systemd
FOCUS='AppArmor|Container OOM|Container Mount|UserNamespaces|sysctls|HostPID|PodPID|listing stats' cases
SYSTEMD=1 FOCUS='Container OOM|support (starting|stopping|removing running) container \[|execSync|stats for started' cases
tests pod
tests container
finish
