//! Layers: tar archives written entry by entry, with everything an image may hold.

use std::io::Write;

use bytes::Bytes;
use flate2::write::GzEncoder;
use tar::{Builder, EntryType, Header};

/// How a layer travels; its media type follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// As it is.
    None,
    /// gzip, what nearly every image uses.
    Gzip,
    /// zstd.
    Zstd,
    /// zstd, with a window of 2^n bytes, which whoever unpacks it has to keep.
    ZstdWindow(u32),
}

impl Compression {
    /// The OCI media type of a layer packed like this.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::None => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd | Self::ZstdWindow(_) => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }

    /// Packs `tar`.
    ///
    /// # Panics
    /// Never in memory.
    pub fn pack(self, tar: &[u8]) -> Bytes {
        match self {
            Self::None => Bytes::copy_from_slice(tar),
            Self::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(tar).expect("writing to memory");
                encoder.finish().expect("writing to memory").into()
            }
            Self::Zstd => zstd::encode_all(tar, 1).expect("writing to memory").into(),
            Self::ZstdWindow(log) => {
                let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("memory");
                encoder.window_log(log).expect("a window that zstd knows");
                // Else the frame is one segment, and the window as large as it.
                encoder
                    .include_contentsize(false)
                    .expect("a flag that zstd knows");
                encoder.write_all(tar).expect("writing to memory");
                encoder.finish().expect("writing to memory").into()
            }
        }
    }
}

/// A layer in the making. Names are relative to the root, without a leading slash.
pub struct Layer {
    tar: Builder<Vec<u8>>,
    owner: (u64, u64),
    xattrs: Vec<(String, Vec<u8>)>,
}

impl Default for Layer {
    fn default() -> Self {
        Self::new()
    }
}

impl Layer {
    /// An empty layer; what follows belongs to root.
    pub fn new() -> Self {
        Self {
            tar: Builder::new(Vec::new()),
            owner: (0, 0),
            xattrs: Vec::new(),
        }
    }

    /// From here on, entries belong to this user and group.
    pub fn owned_by(mut self, uid: u64, gid: u64) -> Self {
        self.owner = (uid, gid);
        self
    }

    /// The next entry carries this extended attribute.
    pub fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        self.xattrs.push((format!("SCHILY.xattr.{name}"), value.to_vec()));
        self
    }

    /// A directory.
    pub fn directory(self, name: &str, mode: u32) -> Self {
        self.entry(EntryType::Directory, name, mode, None, &[])
    }

    /// A regular file.
    pub fn file(self, name: &str, mode: u32, content: impl AsRef<[u8]>) -> Self {
        self.entry(EntryType::Regular, name, mode, None, content.as_ref())
    }

    /// A symbolic link to `target`, which may be anything.
    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name, 0o777, Some(target), &[])
    }

    /// A hard link to an entry before it, or of a layer below.
    pub fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Link, name, 0o644, Some(target), &[])
    }

    /// A named pipe.
    pub fn fifo(self, name: &str) -> Self {
        self.entry(EntryType::Fifo, name, 0o644, None, &[])
    }

    /// A character device.
    ///
    /// # Panics
    /// Never for numbers of the kernel's.
    pub fn device(mut self, name: &str, major: u32, minor: u32) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Char);
        header.set_mode(0o666);
        header.set_size(0);
        header.set_device_major(major).expect("made as GNU");
        header.set_device_minor(minor).expect("made as GNU");
        put(&mut header.as_gnu_mut().expect("made as GNU").name, name);
        header.set_cksum();
        self.tar.append(&header, &b""[..]).expect("writing to memory");
        self
    }

    /// Removes `name` of the layers below.
    pub fn whiteout(self, name: &str) -> Self {
        let (parent, file) = name
            .rsplit_once('/')
            .map_or(("", name), |(parent, file)| (parent, file));
        let slash = if parent.is_empty() { "" } else { "/" };
        self.entry(
            EntryType::Regular,
            &format!("{parent}{slash}.wh.{file}"),
            0o644,
            None,
            &[],
        )
    }

    /// Hides everything the layers below have in the directory `name`.
    pub fn opaque(self, name: &str) -> Self {
        self.entry(
            EntryType::Regular,
            &format!("{name}/.wh..wh..opq"),
            0o644,
            None,
            &[],
        )
    }

    /// The finished tar.
    ///
    /// # Panics
    /// Never in memory.
    pub fn tar(self) -> Vec<u8> {
        self.tar.into_inner().expect("writing to memory")
    }

    /// Names go into the header as they are: hostile ones are what some tests are about.
    fn entry(mut self, kind: EntryType, name: &str, mode: u32, link: Option<&str>, content: &[u8]) -> Self {
        if !self.xattrs.is_empty() {
            let attributes = std::mem::take(&mut self.xattrs);
            let extensions = attributes
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_slice()));
            self.tar
                .append_pax_extensions(extensions)
                .expect("writing to memory");
        }
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(self.owner.0);
        header.set_gid(self.owner.1);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        put(&mut header.as_gnu_mut().expect("made as GNU").name, name);
        if let Some(target) = link {
            put(&mut header.as_gnu_mut().expect("made as GNU").linkname, target);
        }
        header.set_cksum();
        self.tar.append(&header, content).expect("writing to memory");
        self
    }
}

fn put(field: &mut [u8; 100], text: &str) {
    assert!(text.len() < field.len(), "names in test layers are short: {text}");
    field[..text.len()].copy_from_slice(text.as_bytes());
}

/// Whether this kernel stacks layers that are EROFS images; says so when it does not, for what is left out then.
pub fn are_images_stackable() -> bool {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let stackable = version >= (6, 15);
    if !stackable {
        println!("left out: layers as EROFS images, which take Linux 6.15 ({release})");
    }
    stackable
}

/// The formats of layers (`image.layer_format`) that this kernel stacks.
pub fn formats() -> &'static [&'static str] {
    match are_images_stackable() {
        true => &["directory", "erofs"],
        false => &["directory"],
    }
}

#[cfg(test)]
mod tests {
    use super::{Compression, Layer};
    use std::io::Read;

    #[test]
    fn an_archive_reads_back_as_written() {
        let tar = Layer::new()
            .directory("etc", 0o755)
            .owned_by(7, 8)
            .xattr("user.colour", b"red")
            .file("etc/name", 0o640, "crisp")
            .hard_link("etc/alias", "etc/name")
            .whiteout("etc/gone")
            .whiteout("top")
            .opaque("var")
            .tar();
        let mut archive = tar::Archive::new(tar.as_slice());
        let mut names = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_string_lossy().into_owned();
            if name == "etc/name" {
                let mut content = String::new();
                entry.read_to_string(&mut content).unwrap();
                assert_eq!(content, "crisp");
                assert_eq!(entry.header().uid().unwrap(), 7);
                let attributes: Vec<_> = entry
                    .pax_extensions()
                    .unwrap()
                    .unwrap()
                    .map(Result::unwrap)
                    .collect();
                assert_eq!(attributes[0].key().unwrap(), "SCHILY.xattr.user.colour");
                assert_eq!(attributes[0].value_bytes(), b"red");
            }
            names.push(name);
        }
        assert_eq!(
            names,
            [
                "etc",
                "etc/name",
                "etc/alias",
                "etc/.wh.gone",
                ".wh.top",
                "var/.wh..wh..opq"
            ]
        );
    }

    #[test]
    fn every_compression_unpacks_to_the_same() {
        let tar = Layer::new().file("a", 0o644, [7; 100_000]).tar();
        let mut gzip = Vec::new();
        flate2::read::GzDecoder::new(&*Compression::Gzip.pack(&tar))
            .read_to_end(&mut gzip)
            .unwrap();
        let zstd = zstd::decode_all(&*Compression::Zstd.pack(&tar)).unwrap();
        assert_eq!(
            (gzip, zstd, Compression::None.pack(&tar).to_vec()),
            (tar.clone(), tar.clone(), tar)
        );
    }
}
