//! Compiles the two contracts with `protox`, a protobuf compiler in Rust: nobody needs `protoc`.

use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["proto/runtime.proto", "proto/admin.proto"], ["proto"])?;
    let descriptor_file = PathBuf::from(std::env::var("OUT_DIR")?).join("descriptors.bin");
    std::fs::write(
        descriptor_file,
        protox::prost::Message::encode_to_vec(&descriptors),
    )?;

    tonic_prost_build::configure()
        // Equal messages have equal bytes: records, caches and tests may compare encodings.
        .btree_map(".")
        // Both hold secrets; lib.rs gives them a Debug that shows none.
        .skip_debug([".runtime.v1.AuthConfig", ".runtime.v1.KeyValue"])
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)?;
    Ok(())
}
