//! Layers unpacked side by side, the upper ones before the lower ones, are the same as one after the other.

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use image::{LayerFormat, LayerFormatChoice, LayerStage, Store};
use rustix::mount::{UnmountFlags, unmount};
use support::images::{Layer, Tar, TestImage};
use support::registry::{self, TestRegistry};
use support::{config, tree};
use tokio::sync::watch;

const LAYERS: usize = 8;

/// Layers that speak of those below them in every way there is: whiteouts, links, directories left out.
fn image(seed: u64) -> TestImage {
    let mut random = support::random(seed);
    let mut layers = vec![
        Tar::default()
            .dir("./", 0o711)
            .file("linked", "never removed")
            .dir("d0/", 0o1777)
            .file("d1/deep/er/file", "1"),
    ];
    for layer in 1..LAYERS {
        let mut tar = Tar::default().hard_link(&format!("link{layer}"), "linked");
        for number in 0..20 {
            let (directory, name) = (random(4), random(6));
            let path = format!("d{directory}/f{name}");
            tar = match random(8) {
                0 => tar.dir(
                    &format!("d{directory}/"),
                    0o700 + u32::try_from(random(64)).unwrap(),
                ),
                1 => tar.symlink(&path, "../linked"),
                2 => tar.file(&format!("d{directory}/.wh.f{name}"), ""),
                3 => tar.file(&format!(".wh.d{directory}"), ""),
                4 => tar.file(&format!("d{directory}/.wh..wh..opq"), ""),
                5 => tar.file(
                    &format!("d{directory}/deep/er/{layer}-{number}"),
                    "left out above",
                ),
                _ => tar.file(&path, vec![b'x'; random(9000) as usize]),
            };
        }
        // A file in one layer, a directory in the next.
        layers.push(match layer % 2 {
            0 => tar.file("turns", "a file"),
            _ => tar.file("turns/in", "a directory"),
        });
    }
    TestImage::new(layers.into_iter().map(|tar| Layer::gzip(&tar.finish())).collect())
}

/// All that the layers of a store hold: of an image, its very bytes.
fn hashes(root: &Path) -> BTreeMap<String, String> {
    let all = tree(&root.join("l"));
    let content = |(name, line): (String, String)| {
        let (_, below) = name.split_once('/')?;
        match below {
            "tar" => None,
            "erofs" => line
                .split(' ')
                .find(|word| word.starts_with("sha256:"))
                .map(|hash| (name.clone(), hash.to_owned())),
            _ => Some((name, line)),
        }
    };
    all.into_iter().filter_map(content).collect()
}

async fn open(root: &Path, format: LayerFormat, at_once: usize) -> Store {
    let mut settings = config(root);
    settings.layer_format = LayerFormatChoice::Fixed(format);
    settings.parallel_layers = at_once;
    settings.registry.connections_per_host = LAYERS;
    Store::open(settings).await.unwrap()
}

/// Pulls with the lowest layer held back until all others are unpacked.
async fn pull_from_the_top(store: &Store, registry: &TestRegistry, image: &TestImage) {
    let (open, gate) = watch::channel(false);
    let lowest = image.layers[0].blob.clone();
    let path = image::digest::Digest::sha256(&lowest).to_string();
    registry.fault(move |seen| {
        let held = || registry::held(&lowest, gate.clone());
        seen.path.ends_with(&path).then(held)
    });
    let pull = store.pull(registry.request("app:v1"));
    let look = async {
        loop {
            let pulls = store.pulls();
            let unpacked = |pull: &image::PullProgress| {
                pull.layers.len() == LAYERS
                    && pull.layers[1..]
                        .iter()
                        .all(|layer| layer.stage == LayerStage::Unpacked)
            };
            if pulls.iter().any(unpacked) {
                return open.send_replace(true);
            }
            tokio::task::yield_now().await;
        }
    };
    let (pulled, _) = tokio::join!(pull, look);
    pulled.unwrap();
}

/// The directories of the two stores. What they mounted goes with them.
struct Folder(tempfile::TempDir);

impl Drop for Folder {
    fn drop(&mut self) {
        for store in ["serial", "parallel"] {
            let mounts = self.0.path().join(format!("{store}.mounts"));
            for path in [mounts.join("ns"), mounts] {
                let _ = unmount(path, UnmountFlags::DETACH);
            }
        }
    }
}

#[tokio::test]
async fn the_order_of_unpacking_makes_no_difference() {
    for (format, seed) in [LayerFormat::Directory, LayerFormat::Erofs]
        .into_iter()
        .zip([7, 11])
    {
        let image = image(seed);
        let registry = TestRegistry::start().await;
        registry.add("app:v1", &image);
        let folder = Folder(tempfile::tempdir().unwrap());
        let (serial, parallel) = (folder.0.path().join("serial"), folder.0.path().join("parallel"));
        let store = open(&serial, format, 1).await;
        store.pull(registry.request("app:v1")).await.unwrap();
        drop(store);
        let store = open(&parallel, format, LAYERS).await;
        pull_from_the_top(&store, &registry, &image).await;
        let (wanted, found) = (hashes(&serial), hashes(&parallel));
        assert!(wanted.len() >= LAYERS, "{wanted:?}");
        for (name, line) in &wanted {
            assert_eq!(found.get(name), Some(line), "{format}: {name}");
        }
        assert_eq!(found.len(), wanted.len());
    }
}
