#!/bin/sh
# What $PROTOC points to (.cargo/config.toml): builds the stand-in once per target directory, then becomes it.
# Only the build script of k8s-cri gets here; our own crates call protox directly.
set -eu
crate=$(cd "$(dirname "$0")/protoc" && pwd)
# OUT_DIR is <target>/[<triple>/]<profile>/build/<package>/out; what we build goes beside the profile.
target=$(cd "${OUT_DIR:?is set by cargo in build scripts}/../../../.." && pwd)/protoc
(
    # Nothing of the outer build may leak into the inner one: no flags, no features, no target.
    unset OUT_DIR CARGO_ENCODED_RUSTFLAGS CARGO_MANIFEST_DIR TARGET HOST RUSTC_WRAPPER
    cd "$crate"
    "${CARGO:-cargo}" build --quiet --locked --target-dir "$target" --target host-tuple
)
exec "$(find "$target" -maxdepth 3 -type f -name protoc -perm -u+x | head -n 1)" "$@"
