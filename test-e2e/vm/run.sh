#!/bin/sh
# run.sh IMAGE SHARE: boots the machine of image.sh with the folder SHARE, whose `command` it runs; exits as that did.
#
# Environment: MEMORY (3G), CPUS (2), LIMIT (seconds until the machine is switched off: 1800), ACCEL (kvm or tcg; kvm
# where it works). Its disk starts anew each time: only what is written to SHARE lasts.
set -eu

[ $# = 2 ] || { echo "usage: run.sh IMAGE SHARE" >&2; exit 2; }
image=$(cd "$1" && pwd) share=$(cd "$2" && pwd)
rm -f "$share/status"
case $(uname -m) in
    x86_64) emulator=qemu-system-x86_64 model=q35 processor=max console=ttyS0 ;;
    aarch64) emulator=qemu-system-aarch64 model=virt processor=max console=ttyAMA0 ;;
    *) echo "run.sh: no machine for $(uname -m)" >&2; exit 1 ;;
esac
console_log=$share/console more=

boot() {
    accelerator=$1
    shift
    timeout "${2:-${LIMIT:-1800}}" "$emulator" -no-user-config -nodefaults -display none -no-reboot \
        -machine "$model" -accel "$accelerator" -cpu "$processor" -m "${MEMORY:-3G}" -smp "${CPUS:-2}" \
        -kernel "$image/kernel" -initrd "$image/initrd" \
        -append "root=/dev/vda rw console=$console quiet panic=-1 net.ifnames=0 mitigations=off no_timer_check random.trust_cpu=1 $more $1" \
        -drive "if=virtio,file=$image/disk,format=raw,snapshot=on,cache=unsafe" \
        -fsdev "local,id=share,path=$share,security_model=none,multidevs=remap" \
        -device virtio-9p-pci,fsdev=share,mount_tag=share \
        -device virtio-serial-pci -chardev stdio,id=out,signal=off -device virtconsole,chardev=out \
        -serial "file:$console_log" -nic none < /dev/null
}

# A device that can be opened is no proof: inside some machines it hangs. A kernel that panics at once for want of a root
# has shown that it runs.
kvm_works() {
    [ -w /dev/kvm ] || return 1
    (boot kvm "root=none panic=-1 rdinit=/none" 20) > /dev/null 2>&1 || true
    grep -q 'Kernel panic' "$console_log"
}

accel=${ACCEL:-}
[ -n "$accel" ] || { if kvm_works; then accel=kvm; else accel=tcg; fi; }
echo "vm: booting ($accel)" >&2
case $accel in
    kvm) processor=host ;;
    # Without what an emulator does slowly; and with grace periods that nobody waits long for.
    tcg)
        accel=tcg,thread=multi more='nokaslr audit=0 rcupdate.rcu_expedited=1 cryptomgr.notests systemd.show_status=0'
        [ "$processor" != max ] || [ "$model" != q35 ] \
            || processor=max,la57=off,smap=off,smep=off,avx=off,avx2=off,xsave=off
        ;;
esac
boot "$accel" "" || { echo "vm: not switched off in time; the end of its console:" >&2; tail -n 30 "$console_log" >&2; exit 124; }
[ -s "$share/status" ] || { echo "vm: the command left no status; the end of its console:" >&2; tail -n 30 "$console_log" >&2; exit 125; }
exit "$(cat "$share/status")"
