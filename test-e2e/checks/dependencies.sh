#!/bin/sh
# Who may know whom. The directions of ARCHITECTURE.md, checked against what cargo resolves.
set -eu
cd "$(dirname "$0")/../.."

failed=0
complain() {
    echo "dependencies: $*" >&2
    failed=1
}

# The crates a package is built with, one name a line; tests and build scripts do not count.
tree() {
    cargo tree --package "$1" --edges normal --prefix none --format '{p}' 2>/dev/null | cut -d' ' -f1 | sort -u
}

# refuse PACKAGE CRATE... : none of them is in its tree.
refuse() {
    package=$1
    shift
    crates=$(tree "$package")
    [ -n "$crates" ] || complain "cargo tree says nothing about $package"
    for crate in "$@"; do
        if printf '%s\n' "$crates" | grep -qx -e "$crate"; then
            complain "$package must not depend on $crate:"
            cargo tree --package "$package" --edges normal --invert "$crate" >&2 || true
        fi
    done
}

# The supervisor is small and synchronous.
refuse runtime tokio tonic prost hyper axum reqwest futures cri-api image cni cri-server
# Libraries know neither each other nor the wire.
refuse image cri-api cni runtime cri-server tonic prost
refuse cni cri-api image runtime cri-server tonic prost
# The contract knows nobody.
refuse cri-api image cni runtime cri-server
# The suite talks to the socket only.
refuse test-e2e image cni runtime cri-server

# Wire types: the server, the suite, nobody else; on the server only where wire meets domain.
for manifest in */Cargo.toml; do
    crate=$(dirname "$manifest")
    case $crate in
        cri-api | cri-server | test-e2e) ;;
        *) ! grep -Eq '^(cri-api|k8s-cri)\b' "$manifest" || complain "$crate must not know the wire types" ;;
    esac
done

# Unsafe code: system calls only. The lint denies it everywhere; only that folder may lift the lint.
unsafe_code=$(grep -rlE --include='*.rs' 'allow\((.*[, ])?unsafe_code|\bunsafe (\{|fn|impl|extern)' \
    cri-api/src cri-server image cni runtime test-e2e 2>/dev/null | grep -v '^runtime/src/sys' || true)
[ -z "$unsafe_code" ] || complain "unsafe code outside runtime/src/sys: $unsafe_code"

[ $failed = 0 ] || exit 1
echo "dependencies: every direction as drawn"
