//! Images, layer by layer.

use std::io::Write;

use image::digest::Digest;
use image::platform::Platform;
use serde_json::{Value, json};

/// A tar under construction; entries are written by an implementation that is not ours.
pub(crate) struct Tar(tar::Builder<Vec<u8>>);

impl Default for Tar {
    fn default() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }
}

impl Tar {
    pub(crate) fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(1_600_000_000);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        header
    }

    pub(crate) fn file(mut self, path: &str, content: impl AsRef<[u8]>) -> Self {
        let content = content.as_ref();
        let mut header = Self::header(tar::EntryType::Regular, 0o644);
        header.set_size(content.len() as u64);
        self.0.append_data(&mut header, path, content).unwrap();
        self
    }

    pub(crate) fn dir(mut self, path: &str, mode: u32) -> Self {
        let mut header = Self::header(tar::EntryType::Directory, mode);
        self.0.append_data(&mut header, path, &b""[..]).unwrap();
        self
    }

    pub(crate) fn symlink(mut self, path: &str, target: &str) -> Self {
        let mut header = Self::header(tar::EntryType::Symlink, 0o777);
        self.0.append_link(&mut header, path, target).unwrap();
        self
    }

    pub(crate) fn hard_link(mut self, path: &str, target: &str) -> Self {
        let mut header = Self::header(tar::EntryType::Link, 0o644);
        self.0.append_link(&mut header, path, target).unwrap();
        self
    }

    pub(crate) fn device(mut self, path: &str, kind: tar::EntryType, major: u32, minor: u32) -> Self {
        let mut header = Self::header(kind, 0o600);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        self.0.append_data(&mut header, path, &b""[..]).unwrap();
        self
    }

    /// A header with the name put in byte by byte: the builder refuses evil ones.
    pub(crate) fn raw(mut self, path: &[u8], link: &[u8], kind: tar::EntryType, content: &[u8]) -> Self {
        let mut header = Self::header(kind, 0o644);
        header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path);
        header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    /// PAX records for the next entry.
    pub(crate) fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.0.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

/// With a window of 2^`log` bytes, which a decoder has to keep.
pub(crate) fn zstd_with_window(bytes: &[u8], log: u32) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(log).unwrap();
    // Else the frame is one segment, and the window as large as it.
    encoder.include_contentsize(false).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A layer as it is stored in a registry.
#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) media_type: &'static str,
    pub(crate) blob: Vec<u8>,
    pub(crate) diff_id: Digest,
}

impl Layer {
    pub(crate) fn gzip(tar: &[u8]) -> Self {
        let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
        Self {
            media_type,
            blob: gzip(tar),
            diff_id: Digest::sha256(tar),
        }
    }

    pub(crate) fn zstd(tar: &[u8]) -> Self {
        let media_type = "application/vnd.oci.image.layer.v1.tar+zstd";
        Self {
            media_type,
            blob: zstd(tar),
            diff_id: Digest::sha256(tar),
        }
    }

    pub(crate) fn plain(tar: &[u8]) -> Self {
        let media_type = "application/vnd.oci.image.layer.v1.tar";
        Self {
            media_type,
            blob: tar.to_vec(),
            diff_id: Digest::sha256(tar),
        }
    }
}

/// An image as it is stored in a registry.
#[derive(Clone)]
pub(crate) struct TestImage {
    pub(crate) manifest: Vec<u8>,
    pub(crate) config: Vec<u8>,
    pub(crate) layers: Vec<Layer>,
}

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

impl TestImage {
    pub(crate) fn new(layers: Vec<Layer>) -> Self {
        Self::with(
            layers,
            &Platform::host(),
            json!({ "User": "1000:1000", "Cmd": ["sh"] }),
        )
    }

    pub(crate) fn with(layers: Vec<Layer>, platform: &Platform, process: Value) -> Self {
        let diff_ids: Vec<&Digest> = layers.iter().map(|layer| &layer.diff_id).collect();
        let config = json!({
            "architecture": platform.architecture, "os": platform.os, "config": process,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = config.to_string().into_bytes();
        let manifest = Self::manifest(&config, &layers).to_string().into_bytes();
        Self {
            manifest,
            config,
            layers,
        }
    }

    pub(crate) fn manifest(config: &[u8], layers: &[Layer]) -> Value {
        let layers: Vec<Value> = layers
            .iter()
            .map(|layer| descriptor(layer.media_type, &layer.blob))
            .collect();
        json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": descriptor(CONFIG, config), "layers": layers,
        })
    }

    pub(crate) fn id(&self) -> String {
        Digest::sha256(&self.config).to_string()
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::sha256(&self.manifest)
    }
}

pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": Digest::sha256(bytes), "size": bytes.len() })
}

/// An OCI layout with the images under their names.
pub(crate) fn layout(images: &[(&str, &TestImage)]) -> Vec<u8> {
    let mut tar = Tar::default().file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
    let mut entries = Vec::new();
    for (name, image) in images {
        let mut entry = descriptor(MANIFEST, &image.manifest);
        entry["annotations"] = json!({ "io.containerd.image.name": name });
        entries.push(entry);
        let blobs = image.layers.iter().map(|layer| &layer.blob);
        for blob in blobs.chain([&image.manifest, &image.config]) {
            tar = tar.file(&format!("blobs/sha256/{}", Digest::sha256(blob).hex()), blob);
        }
    }
    tar.file(
        "index.json",
        json!({ "schemaVersion": 2, "manifests": entries }).to_string(),
    )
    .finish()
}
