//! Images made on the spot: from static busybox, from our own probe, or from layers a test writes.

use std::collections::BTreeMap;
use std::fs;
use std::sync::OnceLock;

use bytes::Bytes;
use serde_json::{Value, json};
use tar::{Builder, Header};

use crate::built;
use crate::layers::{Compression, Layer};

/// Media type of an image manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an image index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// Where Debian's busybox-static puts its one program.
const BUSYBOX: &str = "/bin/busybox";
const APPLETS: [&str; 40] = [
    "sh", "cat", "chmod", "dd", "echo", "env", "false", "find", "grep", "head", "hostname", "id", "ip",
    "kill", "ln", "ls", "mkdir", "mkfifo", "mknod", "mount", "nc", "printf", "ps", "pwd", "readlink", "rm",
    "seq", "setsid", "sleep", "stat", "sync", "tail", "taskset", "test", "touch", "true", "umount", "usleep",
    "wc", "yes",
];

/// Bytes under the digest that names them.
#[derive(Clone, Debug)]
pub struct Blob {
    /// `sha256:<hex>`.
    pub digest: String,
    /// Its media type, as descriptors state it.
    pub media_type: &'static str,
    /// The content.
    pub bytes: Bytes,
}

impl Blob {
    /// Names `bytes`.
    pub fn new(media_type: &'static str, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            digest: digest(&bytes),
            media_type,
            bytes,
        }
    }

    fn json(media_type: &'static str, value: &Value) -> Self {
        Self::new(media_type, value.to_string())
    }

    /// `{mediaType, digest, size}`.
    pub fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len() })
    }
}

/// `sha256:<hex>` of `bytes`.
pub fn digest(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest
        .as_ref()
        .iter()
        .fold("sha256:".to_owned(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
}

/// One image of one platform: its manifest, config and layers.
#[derive(Clone, Debug)]
pub struct Image {
    /// The manifest, by whose digest the image is pulled.
    pub manifest: Blob,
    /// The config, whose digest is the image's id.
    pub config: Blob,
    /// The layers as they travel, lowest first.
    pub layers: Vec<Blob>,
    tars: Vec<Bytes>,
}

impl Image {
    /// Starts an image of this machine's platform with no layers.
    pub fn builder() -> ImageBuilder {
        let config = json!({ "architecture": architecture(), "os": "linux", "config": {} });
        ImageBuilder {
            config,
            tars: Vec::new(),
        }
    }

    /// Every blob but the manifest.
    pub fn blobs(&self) -> impl Iterator<Item = &Blob> {
        std::iter::once(&self.config).chain(&self.layers)
    }

    /// The image's id: its config's digest.
    pub fn id(&self) -> &str {
        &self.config.digest
    }

    /// An OCI layout as one tar, the image named `reference`.
    ///
    /// # Panics
    /// Never in memory.
    pub fn oci_archive(&self, reference: &str) -> Vec<u8> {
        let mut entry = self.manifest.descriptor();
        entry["annotations"] =
            json!({ "io.containerd.image.name": reference, "org.opencontainers.image.ref.name": reference });
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] });
        let mut files = BTreeMap::from([
            (
                "oci-layout".to_owned(),
                Bytes::from_static(br#"{"imageLayoutVersion":"1.0.0"}"#),
            ),
            ("index.json".to_owned(), Bytes::from(index.to_string())),
        ]);
        for blob in self.blobs().chain([&self.manifest]) {
            files.insert(
                format!("blobs/{}", blob.digest.replace(':', "/")),
                blob.bytes.clone(),
            );
        }
        archive(files)
    }

    /// What `docker save` writes, with these names.
    ///
    /// # Panics
    /// Never in memory.
    pub fn docker_archive(&self, tags: &[&str]) -> Vec<u8> {
        let config = format!("{}.json", self.id().trim_start_matches("sha256:"));
        let names: Vec<_> = (0..self.tars.len())
            .map(|layer| format!("{layer}/layer.tar"))
            .collect();
        let manifest = json!([{ "Config": config, "RepoTags": tags, "Layers": names }]);
        let mut files = BTreeMap::from([
            ("manifest.json".to_owned(), Bytes::from(manifest.to_string())),
            (config, self.config.bytes.clone()),
        ]);
        files.extend(names.into_iter().zip(self.tars.iter().cloned()));
        archive(files)
    }
}

fn archive(files: BTreeMap<String, Bytes>) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, &*content)
            .expect("writing to memory");
    }
    tar.into_inner().expect("writing to memory")
}

/// An image index over `images`, each with the platform it is offered for (`linux/amd64`).
pub fn index(images: &[(&str, &Image)]) -> Blob {
    let manifests: Vec<_> = images
        .iter()
        .map(|(platform, image)| {
            let (os, architecture) = platform.split_once('/').expect("a platform is os/architecture");
            let mut entry = image.manifest.descriptor();
            entry["platform"] = json!({ "os": os, "architecture": architecture });
            entry
        })
        .collect();
    Blob::json(
        INDEX,
        &json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests }),
    )
}

/// An image in the making.
#[derive(Clone)]
pub struct ImageBuilder {
    config: Value,
    tars: Vec<(Bytes, Compression)>,
}

impl ImageBuilder {
    /// Adds a layer on top, gzipped.
    pub fn layer(self, layer: Layer) -> Self {
        self.layer_as(layer, Compression::Gzip)
    }

    /// Adds a layer on top, packed as told.
    pub fn layer_as(mut self, layer: Layer, compression: Compression) -> Self {
        self.tars.push((layer.tar().into(), compression));
        self
    }

    /// Sets a field of the config's `config`: `Env`, `Entrypoint`, `Cmd`, `User`, `WorkingDir` …
    pub fn config(mut self, field: &str, value: Value) -> Self {
        self.config["config"][field] = value;
        self
    }

    /// Offers the image for another architecture (`arm64`).
    pub fn architecture(mut self, name: &str) -> Self {
        self.config["architecture"] = json!(name);
        self
    }

    /// Writes config and manifest.
    pub fn build(mut self) -> Image {
        let diff_ids: Vec<_> = self.tars.iter().map(|(tar, _)| digest(tar)).collect();
        self.config["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids });
        let config = Blob::json(CONFIG, &self.config);
        let layers: Vec<_> = self
            .tars
            .iter()
            .map(|(tar, packed)| Blob::new(packed.media_type(), packed.pack(tar)))
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor(),
            "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
        });
        let tars = self.tars.into_iter().map(|(tar, _)| tar).collect();
        Image {
            manifest: Blob::json(MANIFEST, &manifest),
            config,
            layers,
            tars,
        }
    }
}

/// busybox with a shell and the usual applets, `/etc/passwd` with root, daemon (1) and app
/// (1000, in groups 1000 and 2000), a sticky `/tmp`. Its command is a shell.
pub fn busybox() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| busybox_builder().build())
}

/// [`busybox`] plus our probe at `/probe`, which is also the entrypoint.
pub fn probe() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let program = fs::read(built::probe()).expect("the probe is readable");
        busybox_builder()
            .layer(Layer::new().file("probe", 0o755, program))
            .config("Entrypoint", json!(["/probe"]))
            .config("Cmd", json!(["sleep"]))
            .build()
    })
}

/// [`busybox`], to be continued by the test.
///
/// # Panics
/// When Debian's busybox-static is missing (`make test` installs it).
pub fn busybox_builder() -> ImageBuilder {
    static BASE: OnceLock<Bytes> = OnceLock::new();
    let base = BASE.get_or_init(|| {
        let program =
            fs::read(BUSYBOX).expect("/bin/busybox (Debian: busybox-static; `make test` installs it)");
        let mut layer = Layer::new()
            .directory("bin", 0o755)
            .file("bin/busybox", 0o755, program)
            .directory("etc", 0o755)
            .file("etc/passwd", 0o644, PASSWD)
            .file("etc/group", 0o644, GROUP)
            .directory("root", 0o700)
            .directory("tmp", 0o1777);
        for applet in APPLETS {
            layer = layer.symlink(&format!("bin/{applet}"), "busybox");
        }
        layer
            .owned_by(1000, 1000)
            .directory("home/app", 0o755)
            .tar()
            .into()
    });
    let mut builder = Image::builder();
    builder.tars.push((base.clone(), Compression::Gzip));
    builder.config("Cmd", json!(["/bin/sh"]))
}

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
                      daemon:x:1:1:daemon:/:/bin/false\n\
                      app:x:1000:1000:app:/home/app:/bin/sh\n";
const GROUP: &str = "root:x:0:\ndaemon:x:1:\napp:x:1000:\nextra:x:2000:app\n";

/// This machine's architecture, in OCI's words.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::{Image, architecture, busybox, index};
    use crate::layers::{Compression, Layer};
    use serde_json::Value;

    #[test]
    fn the_manifest_names_its_parts() {
        let image = Image::builder()
            .layer(Layer::new().file("a", 0o644, "a"))
            .layer_as(Layer::new().file("b", 0o644, "b"), Compression::Zstd)
            .config("User", "app".into())
            .build();
        let manifest: Value = serde_json::from_slice(&image.manifest.bytes).unwrap();
        assert_eq!(manifest["config"]["digest"], image.id());
        assert_eq!(manifest["layers"][1]["digest"], image.layers[1].digest.as_str());
        assert!(
            manifest["layers"][1]["mediaType"]
                .as_str()
                .unwrap()
                .ends_with("+zstd")
        );
        let config: Value = serde_json::from_slice(&image.config.bytes).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), 2);
        assert_ne!(
            config["rootfs"]["diff_ids"][0],
            image.layers[0].digest.as_str(),
            "a diff id is of the bare tar"
        );
        assert_eq!(config["config"]["User"], "app");
    }

    #[test]
    fn archives_hold_every_blob() {
        let image = busybox();
        let names = |tar: Vec<u8>| -> Vec<String> {
            let mut archive = tar::Archive::new(tar.as_slice());
            archive
                .entries()
                .unwrap()
                .map(|entry| entry.unwrap().path().unwrap().display().to_string())
                .collect()
        };
        let oci = names(image.oci_archive("busybox:test"));
        assert_eq!(
            oci.len(),
            2 + 3,
            "layout, index, manifest, config, one layer: {oci:?}"
        );
        let docker = names(image.docker_archive(&["busybox:test"]));
        assert!(docker.contains(&"manifest.json".to_owned()) && docker.contains(&"0/layer.tar".to_owned()));
    }

    #[test]
    fn an_index_offers_platforms() {
        let offered = index(&[
            ("linux/s390x", busybox()),
            (&format!("linux/{}", architecture()), busybox()),
        ]);
        let offered: Value = serde_json::from_slice(&offered.bytes).unwrap();
        assert_eq!(offered["manifests"][0]["platform"]["architecture"], "s390x");
    }
}
