//! The unpacker against archives that mean harm, and against GNU tar.

mod escape;
mod gnu_tar;
mod metadata;
mod refuse;
mod sparse;
mod stacked;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use image::unpack::inherit::LayerView;
use image::unpack::recipe::{self, RecipeWriter};
use image::unpack::root::Root;
use image::unpack::whiteout::Style;
use image::unpack::{Limits, UnpackError, unpack, unpack_image};
use support::{MountedImage, tree};

/// A folder with a canary beside the layers.
struct Bench {
    folder: tempfile::TempDir,
    layers: Vec<PathBuf>,
    /// The same layers as images.
    images: Vec<MountedImage>,
    style: Style,
    limits: Limits,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("canary")).unwrap();
        fs::write(folder.path().join("canary/song"), "tweet").unwrap();
        Self {
            folder,
            layers: Vec::new(),
            images: Vec::new(),
            style: Style::Devices,
            limits: Limits::default(),
        }
    }

    fn canary(&self) -> PathBuf {
        self.folder.path().join("canary")
    }

    /// Unpacks one more layer on top, in both formats, which must agree; gives the tree of the directory.
    fn layer(&mut self, tar: &[u8]) -> Result<PathBuf, UnpackError> {
        let image = self.image(tar);
        let directory = self.directory(tar);
        match (directory, image) {
            (Ok(directory), Ok(image)) => {
                // Whiteouts beside the tree are another way to say the same.
                if self.style == Style::Devices {
                    assert_same(&tree(&directory), &tree(&image.path()));
                }
                self.images.push(image);
                Ok(directory)
            }
            (Err(error), Err(other)) => {
                assert_eq!(
                    std::mem::discriminant(&error),
                    std::mem::discriminant(&other),
                    "{error} / {other}"
                );
                Err(error)
            }
            (directory, image) => panic!("{directory:?} but {:?}", image.err()),
        }
    }

    /// Unpacks one more layer as an image.
    fn image(&self, tar: &[u8]) -> Result<MountedImage, UnpackError> {
        let folder = self.folder.path().join(format!("i{}", self.images.len()));
        fs::create_dir(&folder).unwrap();
        let (file, recipe) = (folder.join("erofs"), folder.join("tar"));
        let writer = RecipeWriter::create(&recipe).unwrap();
        let outcome = unpack_image(tar, &file, writer, &self.limits).and_then(|unsealed| {
            let below = self.images.iter().rev();
            let mut below: Vec<LayerView> = below.map(|image| LayerView::of(image.root())).collect();
            Ok(unsealed.seal(&mut below)?.usage)
        });
        let usage = outcome.inspect_err(|_| fs::remove_dir_all(&folder).unwrap())?;
        assert_eq!(usage.bytes, fs::metadata(&file).unwrap().len());
        check(&file);
        let mounted = MountedImage::new(&file);
        let mut again = Vec::new();
        recipe::replay(&recipe, &mut mounted.root(), &mut again).unwrap();
        assert!(
            again == tar || self.limits.entries < 10,
            "the recipe gives the same tar"
        );
        Ok(mounted)
    }

    /// Unpacks one more layer as a directory.
    fn directory(&mut self, tar: &[u8]) -> Result<PathBuf, UnpackError> {
        let folder = self.folder.path().join(format!("l{}", self.layers.len()));
        let tree = folder.join("fs");
        fs::create_dir_all(&tree).unwrap();
        let recipe = RecipeWriter::create(&folder.join("tar")).unwrap();
        let outcome = unpack(tar, &tree, recipe, &self.limits).and_then(|unsealed| {
            let below = self.layers.iter().rev();
            let mut below: Vec<LayerView> = below
                .map(|layer| LayerView::open(layer, &layer.with_file_name("whiteouts")).unwrap())
                .collect();
            unsealed.seal(self.style, &folder.join("whiteouts"), &mut below)
        });
        assert_eq!(fs::read_to_string(self.canary().join("song")).unwrap(), "tweet");
        assert_eq!(fs::read_dir(self.canary()).unwrap().count(), 1);
        assert_eq!(fs::metadata(self.canary()).unwrap().mode() & 0o7777, 0o755);
        match outcome {
            Ok(usage) => {
                assert_eq!(usage.inodes as usize, inodes(&tree), "inodes are counted exactly");
                let mut again = Vec::new();
                recipe::replay(&folder.join("tar"), &mut Root::open(&tree).unwrap(), &mut again).unwrap();
                assert!(
                    again == tar || self.limits.entries < 10,
                    "the recipe gives the same tar"
                );
                assert_eq!(recipe::size(&folder.join("tar")).unwrap(), tar.len() as u64);
                self.layers.push(tree.clone());
                Ok(tree)
            }
            Err(error) => {
                fs::remove_dir_all(folder).unwrap();
                Err(error)
            }
        }
    }
}

/// What the tools of the format's makers say about an image.
fn check(image: &Path) {
    let checked = Command::new("fsck.erofs")
        .arg(image)
        .output()
        .expect("erofs-utils are installed by test-e2e/setup.sh");
    let said =
        String::from_utf8_lossy(&checked.stdout).into_owned() + &String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success() && !said.contains("<E>"), "{said}");
}

fn assert_same(wanted: &BTreeMap<String, String>, found: &BTreeMap<String, String>) {
    for (path, line) in wanted {
        assert_eq!(found.get(path), Some(line), "{path}");
    }
    assert_eq!(found.len(), wanted.len());
}

fn inodes(root: &Path) -> usize {
    fn walk(path: &Path, seen: &mut std::collections::HashSet<u64>) {
        let metadata = fs::symlink_metadata(path).unwrap();
        seen.insert(metadata.ino());
        if metadata.is_dir() {
            fs::read_dir(path)
                .unwrap()
                .for_each(|entry| walk(&entry.unwrap().path(), seen));
        }
    }
    let mut seen = std::collections::HashSet::new();
    walk(root, &mut seen);
    seen.len()
}
