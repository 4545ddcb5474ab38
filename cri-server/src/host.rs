//! What a pod has on the host besides processes: a directory with the files that its containers share,
//! and one tmpfs for their `/dev/shm`.
//!
//! ```text
//!   <state>/sandboxes/<id>/  hostname  hosts  resolv.conf  shm/ (tmpfs)  sock
//! ```
//!
//! Agents on a node find their own pod's id in the source path of these bind mounts.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use runtime::launch::IdMapping;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

use crate::confinement::relabel;
use crate::container::ContainerRecord;
use crate::pod::{Dns, NamespaceMode, PodNetwork, PodRecord};
use crate::spec::PodFiles;
use crate::task::blocking;
use crate::{Error, Result};

/// Size of a pod's `/dev/shm`, as Kubernetes documents it.
const SHM: &str = "mode=1777,size=65536k";

/// The host's file system as pods use it.
#[derive(Clone, Debug, Default)]
pub struct Host;

impl Host {
    /// Makes a pod's directory. Blocks.
    ///
    /// # Errors
    /// [`Error::Io`] naming the path.
    pub fn make_directory(&self, files: &PodFiles) -> Result<()> {
        make_directory(&files.directory, 0o700)
    }

    /// Makes a pod's directory unless it is there, files and shared memory, which has the SELinux label `label`.
    ///
    /// # Errors
    /// [`Error::Io`] naming the path.
    pub async fn make_files(
        &self,
        files: &PodFiles,
        record: &PodRecord,
        label: Option<String>,
    ) -> Result<()> {
        let (files, record) = (files.clone(), record.clone());
        blocking(move || {
            make_directory(&files.directory, 0o700)?;
            let name = format!("{}\n", record.config.hostname);
            write(&files.hostname(), name.as_bytes())?;
            write(
                &files.resolv_conf(),
                resolv_conf(record.config.dns.as_ref()).as_bytes(),
            )?;
            if record.config.namespaces.ipc == NamespaceMode::Node {
                return Ok(());
            }
            make_directory(&files.shm(), 0o755)?;
            mount(
                Some("shm"),
                &files.shm(),
                Some("tmpfs"),
                MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
                Some(shm_options(label.as_deref(), record.config.namespaces.user.as_ref()).as_str()),
            )
            .map_err(|errno| Error::io("mount tmpfs on", files.shm())(errno.into()))
        })
        .await
    }

    /// Whether a volume's source is known to exist without its file system being asked: the kernel has the path in its cache
    /// (openat2(2), `RESOLVE_CACHED`; before Linux 5.12 nothing is known).
    pub fn has_source(&self, source: &str) -> bool {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        openat2(CWD, source, flags, Mode::empty(), ResolveFlags::CACHED).is_ok()
    }

    /// Makes the directory of a volume whose source does not exist, as Kubernetes' hostPath volumes rely on.
    /// A source on a file system that hangs holds up this container and nobody else.
    ///
    /// # Errors
    /// [`Error::Io`] naming the path.
    pub async fn make_missing_source(&self, source: &str) -> Result<()> {
        let source = source.to_owned();
        blocking(move || {
            let exists = Path::new(&source)
                .try_exists()
                .map_err(Error::io("look at volume", &source))?;
            match exists {
                true => Ok(()),
                false => make_directory(Path::new(&source), 0o755),
            }
        })
        .await
    }

    /// Gives the container's SELinux label, if it has one, to the volumes that ask for it and to the pod's own files.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a volume that is a directory of the node, [`Error::Io`] naming the path.
    pub async fn relabel(&self, files: &PodFiles, record: &ContainerRecord) -> Result<()> {
        let spec = record.spec()?;
        let Some(label) = spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.mount_label().clone())
        else {
            return Ok(());
        };
        let asking = record
            .config
            .mounts
            .iter()
            .filter(|mount| mount.selinux_relabel && mount.image.is_none());
        let mut paths: Vec<_> = asking.map(|mount| PathBuf::from(&mount.host_path)).collect();
        paths.extend([files.hostname(), files.hosts(), files.resolv_conf()]);
        blocking(move || paths.iter().try_for_each(|path| relabel::volume(path, &label))).await
    }

    /// Writes `/etc/hosts` once the pod's addresses are known. (kubelet brings its own to containers.)
    ///
    /// # Errors
    /// [`Error::Io`] naming the path.
    pub async fn write_hosts(
        &self,
        files: &PodFiles,
        record: &PodRecord,
        network: &PodNetwork,
    ) -> Result<()> {
        let path = files.hosts();
        let text = match record.host_network() {
            true => fs::read_to_string("/etc/hosts").unwrap_or_default(),
            false => hosts(&record.config.hostname, network),
        };
        blocking(move || write(&path, text.as_bytes())).await
    }

    /// Unmounts the pod's shared memory. Nothing happens when that was done before.
    ///
    /// # Errors
    /// [`Error::Io`] naming the path.
    pub async fn release_mounts(&self, files: PodFiles) -> Result<()> {
        blocking(move || unmount_shm(&files)).await
    }

    /// Removes the pod's directory. What is mounted in it is unmounted first; nothing is removed across a mount.
    ///
    /// # Errors
    /// [`Error::Io`] naming the path.
    pub async fn remove_files(&self, files: PodFiles) -> Result<()> {
        blocking(move || {
            unmount_shm(&files)?;
            for file in [
                files.hostname(),
                files.hosts(),
                files.resolv_conf(),
                files.socket(),
            ] {
                gone(fs::remove_file(&file), "remove", &file)?;
            }
            gone(fs::remove_dir(files.shm()), "remove", &files.shm())?;
            gone(fs::remove_dir(&files.directory), "remove", &files.directory)
        })
        .await
    }
}

fn unmount_shm(files: &PodFiles) -> Result<()> {
    match umount2(&files.shm(), MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(errno) => Err(Error::io("unmount", files.shm())(errno.into())),
    }
}

/// A tmpfs takes the label of all that is in it as an option, and its owner: the root of the pod, whoever that is here.
fn shm_options(label: Option<&str>, ids: Option<&IdMapping>) -> String {
    let mut options = SHM.to_owned();
    if let Some((uid, gid)) = ids.and_then(|ids| ids.host_uid(0).zip(ids.host_gid(0))) {
        options.push_str(&format!(",uid={uid},gid={gid}"));
    }
    if let Some(label) = label {
        options.push_str(&format!(",context=\"{label}\""));
    }
    options
}

fn gone(outcome: std::io::Result<()>, operation: &'static str, path: &Path) -> Result<()> {
    match outcome {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io(operation, path)(error)),
        _ => Ok(()),
    }
}

fn make_directory(path: &Path, mode: u32) -> Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(mode).create(path);
    made.map_err(Error::io("create directory", path))
}

/// Files are for everybody in the container to read, whatever the daemon's umask.
fn write(path: &Path, content: &[u8]) -> Result<()> {
    fs::write(path, content).map_err(Error::io("write", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).map_err(Error::io("chmod", path))
}

fn hosts(hostname: &str, network: &PodNetwork) -> String {
    let mut text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
                    fe00::\tip6-localnet\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
        .to_owned();
    for ip in &network.ips {
        text.push_str(&format!("{ip}\t{hostname}\n"));
    }
    text
}

/// resolv.conf(5) from the request, or the host's own.
fn resolv_conf(dns: Option<&Dns>) -> String {
    let Some(dns) = dns else {
        return fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    };
    if *dns == Dns::default() {
        return fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    }
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_memory_has_the_label_of_its_pod() {
        assert_eq!(shm_options(None, None), SHM);
        assert!(shm_options(Some("u:r:t:s0:c1,c2"), None).ends_with(",context=\"u:r:t:s0:c1,c2\""));
    }

    #[test]
    fn resolver_settings_become_lines() {
        let dns = Dns {
            servers: vec!["10.0.0.10".into(), "fd00::a".into()],
            searches: vec!["ns.svc".into(), "svc".into()],
            options: vec!["ndots:5".into()],
        };
        let expected = "search ns.svc svc\nnameserver 10.0.0.10\nnameserver fd00::a\noptions ndots:5\n";
        assert_eq!(resolv_conf(Some(&dns)), expected);
        let hosts = hosts(
            "web",
            &PodNetwork {
                ips: vec!["10.1.2.3".parse().unwrap()],
                result: String::new(),
            },
        );
        assert!(hosts.contains("127.0.0.1\tlocalhost\n") && hosts.ends_with("10.1.2.3\tweb\n"));
    }
}
