//! Programs that the images are made of, built and unpacked by `conformance/parts.sh`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::built;
use crate::layers::Layer;

/// A directory that `parts.sh` has filled.
pub struct Parts {
    directory: PathBuf,
}

impl Parts {
    /// Makes them, unless they are there from before; where the script is not (in another machine), those that were
    /// brought along are taken as they are.
    ///
    /// # Panics
    /// When the script fails; it says why.
    pub fn make() -> Self {
        let directory = built::directory().join("conformance-parts");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/parts.sh");
        if !script.exists() && directory.join("made-by").exists() {
            return Self { directory };
        }
        let status = Command::new(&script)
            .arg(&directory)
            .status()
            .unwrap_or_else(|error| panic!("{}: {error}", script.display()));
        assert!(status.success(), "{}: {status}", script.display());
        Self { directory }
    }

    /// The static busybox.
    ///
    /// # Panics
    /// When it is gone.
    pub fn busybox(&self) -> Vec<u8> {
        read(&self.directory.join("busybox"))
    }

    /// The names of its applets.
    ///
    /// # Panics
    /// When it does not run.
    pub fn applets(&self) -> Vec<String> {
        let program = self.directory.join("busybox");
        let listed = Command::new(&program)
            .arg("--list")
            .output()
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        String::from_utf8_lossy(&listed.stdout)
            .lines()
            .map(str::to_owned)
            .collect()
    }

    /// A layer with everything below `name`: a program and the libraries that it loads.
    ///
    /// # Panics
    /// When it is gone.
    pub fn tree(&self, name: &str) -> Layer {
        let root = self.directory.join(name);
        below(&root)
            .into_iter()
            .fold(Layer::new(), |layer, (path, mode)| {
                let name = path
                    .strip_prefix(&root)
                    .expect("it is below")
                    .display()
                    .to_string();
                if path.is_dir() {
                    layer.directory(&name, mode)
                } else {
                    layer.file(&name, mode, read(&path))
                }
            })
    }
}

/// Directories before what is in them, in a fixed order: the same parts make the same image.
fn below(directory: &Path) -> Vec<(PathBuf, u32)> {
    let listing = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut paths: Vec<_> = listing.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    let mut found = Vec::new();
    for path in paths {
        // Links are followed: libraries are installed under the name by which they are loaded.
        let metadata = fs::metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        found.push((path.clone(), metadata.permissions().mode() & 0o777));
        if metadata.is_dir() {
            found.extend(below(&path));
        }
    }
    found
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
