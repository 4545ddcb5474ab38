//! Plans on their way: CBOR in a memfd that nobody can change any more.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use minicbor::{Decode, Encode};
use rustix::fs::SealFlags;
use rustix::io::Errno;

use crate::sys::memfd;

/// No plan is larger; a larger memfd is refused before it is read.
const PLAN_MAX: u64 = 16 << 20;

/// Writes a value into a sealed memfd.
pub(crate) fn seal<T: Encode<()>>(value: &T) -> io::Result<OwnedFd> {
    let mut bytes = Vec::with_capacity(4096);
    minicbor::encode(value, &mut bytes).map_err(io::Error::other)?;
    memfd::sealed(c"plan", &bytes)
}

/// Reads a value from a memfd that the daemon sealed. The fd's offset is left alone.
pub(crate) fn unseal<T>(memfd: BorrowedFd<'_>) -> rustix::io::Result<T>
where
    T: for<'b> Decode<'b, ()>,
{
    let seals = rustix::fs::fcntl_get_seals(memfd)?;
    if !seals.contains(SealFlags::WRITE | SealFlags::SHRINK) {
        return Err(Errno::PERM);
    }
    let size = rustix::fs::fstat(memfd)?.st_size as u64;
    if size > PLAN_MAX {
        return Err(Errno::FBIG);
    }
    let mut bytes = vec![0; size as usize];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::io::pread(memfd, &mut bytes[filled..], filled as u64)? {
            0 => return Err(Errno::IO),
            read => filled += read,
        }
    }
    minicbor::decode(&bytes).map_err(|_| Errno::BADMSG)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::plan::{
        Capabilities, CgroupEntry, ExecPlan, LimitedResource, ProcessPlan, ResourceLimit, Terminal,
    };
    use crate::launch::values::{ContainerPath, HostPath, ProcessString};
    use rustix::fs::MemfdFlags;
    use std::os::fd::AsFd;

    fn exec_plan() -> ExecPlan {
        ExecPlan {
            user: None,
            cgroup: CgroupEntry {
                tasks: vec![HostPath::parse(b"/cg/tasks").unwrap()],
                namespace: true,
            },
            process: ProcessPlan {
                args: vec![ProcessString::parse(b"/bin/\xff").unwrap()],
                env: vec![ProcessString::parse(&[b'x'; 2 << 20]).unwrap()],
                cwd: ContainerPath::parse(b"/").unwrap(),
                uid: 1,
                gid: 2,
                groups: vec![3],
                umask: 0o22,
                capabilities: Capabilities {
                    bounding: 7,
                    ..Capabilities::default()
                },
                no_new_privileges: true,
                rlimits: vec![ResourceLimit {
                    resource: LimitedResource::OpenFiles,
                    soft: 1,
                    hard: u64::MAX,
                }],
                oom_score_adj: -998,
                terminal: Some(Terminal {
                    rows: 24,
                    columns: 80,
                }),
                seccomp: None,
                apparmor: Some(ProcessString::parse(b"profile").unwrap()),
                selinux: None,
            },
        }
    }

    #[test]
    fn a_sealed_plan_is_read_back_with_two_mebibytes_of_environment() {
        let plan = exec_plan();
        let memfd = plan.seal().unwrap();
        assert_eq!(unseal::<ExecPlan>(memfd.as_fd()).unwrap(), plan);
        assert!(
            rustix::io::pwrite(&memfd, b"x", 0).is_err(),
            "the plan must not change any more"
        );
    }

    #[test]
    fn unknown_keys_are_ignored() {
        #[derive(Encode)]
        #[cbor(map)]
        struct Newer {
            #[n(0)]
            cgroup: CgroupEntry,
            #[n(1)]
            process: ProcessPlan,
            #[n(99)]
            addition: Vec<String>,
        }
        let plan = exec_plan();
        let newer = Newer {
            cgroup: plan.cgroup.clone(),
            process: plan.process.clone(),
            addition: vec!["later".into()],
        };
        assert_eq!(
            minicbor::decode::<ExecPlan>(&minicbor::to_vec(&newer).unwrap()).unwrap(),
            plan
        );
    }

    #[test]
    fn what_is_not_sealed_or_no_plan_is_refused() {
        let open = rustix::fs::memfd_create("open", MemfdFlags::ALLOW_SEALING).unwrap();
        assert_eq!(
            unseal::<ExecPlan>(open.as_fd()).unwrap_err(),
            rustix::io::Errno::PERM
        );
        let garbage = seal(&"garbage").unwrap();
        assert_eq!(
            unseal::<ExecPlan>(garbage.as_fd()).unwrap_err(),
            rustix::io::Errno::BADMSG
        );
    }
}
