#!/bin/sh
# image.sh DIRECTORY: a machine to test in, made of Debian packages only
#
#   kernel, initrd   Debian's (6.1 for bookworm: no file-backed EROFS, no lowerdir+)
#   disk             systemd, unified cgroups, AppArmor, and what the tests ask of a host
#
# The machine boots, mounts the folder that it is given (9p, tag "share"), runs its `command`, leaves the exit code in
# its `status`, and switches itself off. Made once; a change of what it is made from makes it again.
set -eu

[ $# = 1 ] || { echo "usage: image.sh DIRECTORY" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cd "$1"
mark=$(cat "$here/image.sh" "$here/guest.sh" "$here/guest.service" | cksum)
[ "$(cat made-by 2>/dev/null || true)" != "$mark" ] || exit 0
suite=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
mirror=$(apt-get indextargets --format '$(CODENAME) $(REPO_URI)' 'Created-By: Packages' \
    | sed -n "s/^$suite //p" | head -n 1)
machine=$(dpkg --print-architecture)

packages=linux-image-$machine,initramfs-tools,zstd,systemd-sysv,dbus,kmod,udev,procps,util-linux,sudo
packages=$packages,apparmor,busybox-static,iproute2,nftables,containernetworking-plugins,docker-registry,skopeo

# Run in the new root before packages are configured: an initrd with nothing but what finds the disk, for an emulated
# processor unpacks slowly.
prepare='mkdir -p "$1/etc/initramfs-tools/conf.d"
printf "MODULES=list\nCOMPRESS=zstd\n" > "$1/etc/initramfs-tools/conf.d/small"
printf "virtio_pci\nvirtio_blk\next4\ncrc32c_generic\n" > "$1/etc/initramfs-tools/modules.ours"'

finish='cat "$1/etc/initramfs-tools/modules.ours" >> "$1/etc/initramfs-tools/modules"
chroot "$1" update-initramfs -u
: > "$1/etc/fstab"
# sudo, by which cases load profiles, complains of a host that it cannot resolve; for them that is a failure.
echo crisp-vm > "$1/etc/hostname"
printf "127.0.0.1 localhost crisp-vm\n::1 localhost\n" > "$1/etc/hosts"
mkdir -p "$1/share" "$1/etc/systemd/system/multi-user.target.wants"
printf "9pnet_virtio\nvirtio_console\noverlay\nveth\nbridge\nnf_tables\n" > "$1/etc/modules-load.d/crisp.conf"
cp "'"$here"'/guest.sh" "$1/usr/local/sbin/crisp-test"
cp "'"$here"'/guest.service" "$1/etc/systemd/system/crisp-test.service"
ln -s ../crisp-test.service "$1/etc/systemd/system/multi-user.target.wants/"
# Each unit and each module costs seconds where the processor is emulated. AppArmor itself is on without its service; the
# devices that udev would load modules for are of no use here.
for unit in docker-registry.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
    e2scrub_reap.service fstrim.timer getty@tty1.service serial-getty@ttyS0.service serial-getty@ttyAMA0.service \
    systemd-timesyncd.service networking.service apparmor.service systemd-udev-trigger.service systemd-logind.service \
    systemd-journal-flush.service systemd-random-seed.service systemd-update-utmp.service \
    systemd-update-utmp-runlevel.service systemd-pstore.service systemd-remount-fs.service modprobe@configfs.service \
    modprobe@dm_mod.service modprobe@drm.service modprobe@efi_pstore.service modprobe@fuse.service \
    modprobe@loop.service sys-kernel-config.mount sys-fs-fuse-connections.mount; do
    ln -sf /dev/null "$1/etc/systemd/system/$unit"
done
ln -sf /lib/systemd/system/multi-user.target "$1/etc/systemd/system/default.target"
mkdir -p "$1/etc/systemd/system-generators"
for generator in "$1"/lib/systemd/system-generators/*; do
    ln -sf /dev/null "$1/etc/systemd/system-generators/${generator##*/}"
done'

# Takes the kernel out of its xz, where its header says that it is one (x86): an emulated processor would take half a
# minute for that at every start. Four bytes of length follow what is compressed.
unpack() {
    number() { od -An -v -t "u$2" -j "$1" -N "$2" "$vmlinuz" | tr -d ' '; }
    vmlinuz=$1
    [ "$(dd if="$vmlinuz" bs=1 skip=514 count=4 2>/dev/null)" = HdrS ] || return 1
    start=$((($(number 497 1) + 1) * 512 + $(number 584 4)))
    tail -c "+$((start + 1))" "$vmlinuz" | head -c "$(($(number 588 4) - 4))" | xz -dc > kernel 2>/dev/null
}

rm -rf made-by root disk kernel initrd
echo "vm: making a Debian $suite ($machine) from $mirror" >&2
mmdebstrap --mode=root --variant=minbase --include="$packages" \
    --aptopt='Acquire::Languages "none"' --aptopt='APT::Sandbox::User "root"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --essential-hook="$prepare" --customize-hook="$finish" "$suite" root "$mirror" > log 2>&1 < /dev/null \
    || { tail -n 30 log >&2; exit 1; }
unpack root/boot/vmlinuz-* || cp root/boot/vmlinuz-* kernel
cp root/boot/initrd.img-* initrd
rm -rf root/var/lib/apt/lists/* root/var/cache/apt/*
truncate -s 6G disk
mke2fs -q -F -t ext4 -E lazy_itable_init=1,nodiscard -d root disk
rm -rf root
echo "$mark" > made-by
