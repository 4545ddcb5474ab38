#!/bin/sh
# Installs what building and testing need on a Debian machine that has Rust: only what is missing,
# and nothing at all where nothing is. Run by make; `setup.sh build|test|bench|bench-vm|ci|conformance|vm` says for
# what.
set -eu

packages() {
    case $1 in
        # A C compiler for the bundled SQLite and zstd.
        build) echo gcc libc6-dev make ;;
        # busybox for images, protoc for the k8s-cri client, real CNI plugins, a real registry.
        test) echo gcc libc6-dev make protobuf-compiler busybox-static containernetworking-plugins docker-registry iproute2 nftables skopeo erofs-utils e2fsprogs strace ;;
        # What the bench compares with, and its scratch file system.
        bench) packages test; echo containerd runc e2fsprogs ;;
        # Without Go the crictl test is skipped; CI must not skip.
        ci) packages test ;;
        # What busybox is built with, and a "host" with System V memory; Go comes from go.dev, Debian's is too old.
        conformance) packages test; echo bzip2 util-linux ;;
        # A machine of its own, and what its disk is made with.
        vm) packages conformance; machine ;;
        bench-vm) packages test; machine ;;
        *) echo "setup.sh: what is \"$1\"? (build, test, bench, bench-vm, ci, conformance, vm)" >&2; exit 2 ;;
    esac
}

machine() {
    case $(uname -m) in aarch64) echo qemu-system-arm ;; *) echo qemu-system-x86 ;; esac
    echo mmdebstrap binutils xz-utils
}

missing() {
    list=$(packages "$1") || exit
    for package in $list; do
        case $(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null) in
            installed) ;;
            *) echo "$package" ;;
        esac
    done
}

install() {
    wanted=$(missing "$1") || exit
    [ -n "$wanted" ] || return 0
    wanted=$(echo "$wanted" | tr '\n' ' ')
    if ! command -v apt-get >/dev/null; then
        echo "setup.sh: not a Debian; install these yourself: $wanted" >&2
        return 0
    fi
    [ "$(id -u)" = 0 ] || { echo "setup.sh: as root, install: $wanted" >&2; exit 1; }
    echo "setup.sh: installing $wanted" >&2
    export DEBIAN_FRONTEND=noninteractive
    # The package lists may be missing or old: refreshed only when the first try fails.
    # shellcheck disable=SC2086 # a list of words
    apt-get install --yes --quiet --no-install-recommends $wanted >/dev/null 2>&1 || {
        apt-get update --quiet >/dev/null
        apt-get install --yes --quiet --no-install-recommends $wanted >/dev/null
    }
    # Debian starts these as services; the tests run their own.
    for service in docker-registry containerd; do
        if [ -d /run/systemd/system ] && [ "$wanted" != "${wanted#*"$service"}" ]; then
            systemctl disable --now "$service" >/dev/null 2>&1 || true
        fi
    done
}

command -v cargo >/dev/null || { echo "setup.sh: Rust is missing: install it with rustup" >&2; exit 1; }
install "${1:-build}"
if { [ "${1:-}" = conformance ] || [ "${1:-}" = vm ]; } && ! command -v go >/dev/null; then
    echo "setup.sh: Go is missing: the cases are a Go module (https://go.dev/dl, 1.26 or later)" >&2
    exit 1
fi
