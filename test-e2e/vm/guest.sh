#!/bin/sh
# In the machine: run the shared folder's `command`, its output on the second console, and switch off.
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 share /share
ip link set lo up
cd /share
./command > /dev/hvc0 2>&1 < /dev/null
echo $? > status
sync
umount /share 2>/dev/null
systemctl --no-block poweroff
