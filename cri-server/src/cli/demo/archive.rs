//! An image made on the spot: a docker-archive whose one layer holds this very binary.

use std::io;

use image::digest::Digest;
use serde_json::json;
use tar::{Builder, Header};

/// What the image is called. `localhost` is no registry that anybody pulls from.
pub(super) const NAME: &str = "localhost/crisp-demo:latest";
/// The binary's path in the image.
pub(super) const BINARY: &str = "/crisp";

/// The archive, as `docker save` would write it.
pub(super) fn make(binary: &[u8]) -> io::Result<Vec<u8>> {
    let layer = tar_of([(&BINARY[1..], 0o755, binary)])?;
    let diff_id = Digest::sha256(&layer);
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": { "Entrypoint": [BINARY], "Cmd": ["demo-workload"] },
        "rootfs": { "type": "layers", "diff_ids": [diff_id.as_str()] },
    })
    .to_string();
    let config_name = format!("{}.json", Digest::sha256(config.as_bytes()).hex());
    let layer_name = format!("{}/layer.tar", diff_id.hex());
    let manifest = json!([{ "Config": config_name, "RepoTags": [NAME], "Layers": [layer_name] }]).to_string();
    tar_of([
        ("manifest.json", 0o644, manifest.as_bytes()),
        (config_name.as_str(), 0o644, config.as_bytes()),
        (layer_name.as_str(), 0o644, &layer),
    ])
}

fn tar_of<'a>(files: impl IntoIterator<Item = (&'a str, u32, &'a [u8])>) -> io::Result<Vec<u8>> {
    let mut archive = Builder::new(Vec::new());
    for (path, mode, content) in files {
        let mut header = Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(mode);
        archive.append_data(&mut header, path, content)?;
    }
    archive.into_inner()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;

    use super::*;

    #[test]
    fn the_archive_describes_its_one_layer() {
        let archive = make(b"#!binary").expect("an archive");
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(archive.as_slice()).entries().expect("a tar") {
            let mut entry = entry.expect("an entry");
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("readable");
            files.insert(entry.path().expect("a path").display().to_string(), content);
        }
        let manifest: serde_json::Value = serde_json::from_slice(&files["manifest.json"]).expect("JSON");
        assert_eq!(manifest[0]["RepoTags"], json!([NAME]));
        let config_name = manifest[0]["Config"].as_str().expect("a config");
        assert_eq!(
            config_name,
            format!("{}.json", Digest::sha256(&files[config_name]).hex())
        );
        let config: serde_json::Value = serde_json::from_slice(&files[config_name]).expect("JSON");
        let layer = &files[manifest[0]["Layers"][0].as_str().expect("a layer")];
        assert_eq!(
            config["rootfs"]["diff_ids"],
            json!([Digest::sha256(layer).as_str()])
        );
        let mut layer = tar::Archive::new(layer.as_slice());
        let entry = layer
            .entries()
            .expect("a tar")
            .next()
            .expect("an entry")
            .expect("readable");
        assert_eq!(
            (entry.path().expect("a path").as_ref(), entry.header().mode().ok()),
            ("crisp".as_ref(), Some(0o755))
        );
    }
}
