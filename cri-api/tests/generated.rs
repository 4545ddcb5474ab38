//! The committed Rust of the contracts is what the contracts say.
//!
//! With `CRISP_GENERATE=1` in the environment it is written anew instead: for whoever has changed a `.proto`.

use std::fs;
use std::path::Path;

const MODULES: [&str; 2] = ["runtime.v1.rs", "crisp.admin.v1.rs"];

#[test]
fn the_generated_code_is_of_these_contracts() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let proto = root.join("proto");
    let descriptors = protox::compile(
        ["runtime.proto", "admin.proto"].map(|name| proto.join(name)),
        [&proto],
    )
    .expect("two contracts");
    let made = tempfile::tempdir().expect("a directory");
    tonic_prost_build::configure()
        .out_dir(made.path())
        // Equal messages have equal bytes: records, caches and tests may compare encodings.
        .btree_map(".")
        // Both hold secrets; lib.rs gives them a Debug that shows none.
        .skip_debug([".runtime.v1.AuthConfig", ".runtime.v1.KeyValue"])
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)
        .expect("Rust");
    let committed = root.join("src/generated");
    for module in MODULES {
        let wanted = fs::read_to_string(made.path().join(module)).expect("a module");
        let path = committed.join(module);
        if std::env::var_os("CRISP_GENERATE").is_some() {
            fs::write(&path, wanted).expect("written");
            continue;
        }
        let found = fs::read_to_string(&path).unwrap_or_default();
        // Not with assert_eq!, which would print both.
        assert!(
            found == wanted,
            "{} is not what proto/ says: run CRISP_GENERATE=1 cargo test -p cri-api --test generated",
            path.display()
        );
    }
}
