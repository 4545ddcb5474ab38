//! The named steps of a launch, and the report of the one that failed.

use std::fmt;

macro_rules! steps {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal;)*) => {
        /// A step of a launch. Names and numbers are stable: they appear in container statuses and on the wire.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Step { $($(#[$doc])* $variant = $number,)* }

        impl Step {
            /// Every step, in the order of its number.
            pub const ALL: &'static [Step] = &[$(Step::$variant,)*];

            /// The stable name, as users see it.
            pub fn name(self) -> &'static str {
                match self { $(Step::$variant => $name,)* }
            }
        }
    };
}

steps! {
    /// Anything that is a bug of ours: a panic in the child.
    Internal = 0, "internal";
    /// Reading the plan from its memfd.
    DecodePlan = 1, "decode plan";
    /// Attaching to the container's cgroups.
    JoinCgroup = 2, "join cgroup";
    /// Writing `/proc/self/oom_score_adj`.
    OomScore = 3, "set oom_score_adj";
    /// Making the root file system, detached.
    PrepareRoot = 4, "prepare root file system";
    /// Cloning a volume's source, detached.
    PrepareVolume = 5, "prepare volume";
    /// Creating the pod's namespaces or joining a container's.
    Namespaces = 6, "enter namespaces";
    /// Cloning the process that becomes the container.
    CloneInit = 7, "clone init";
    /// Attaching the root file system in the new mount namespace.
    AttachRoot = 8, "attach root file system";
    /// Mounting at a target below the root.
    Mount = 9, "mount";
    /// Creating a device node or a link in `/dev`.
    Device = 10, "create device";
    /// Hiding a path.
    Mask = 11, "mask path";
    /// Making a path read-only.
    ReadonlyPath = 12, "make path read-only";
    /// `pivot_root`.
    PivotRoot = 13, "pivot root";
    /// Creating or entering the working directory.
    WorkingDir = 14, "enter working directory";
    /// Allocating the terminal.
    Console = 15, "set up terminal";
    /// Wiring standard input, output and error.
    Stdio = 16, "set up stdio";
    /// Resource limits.
    Rlimit = 17, "set rlimit";
    /// User, group and additional groups.
    Identity = 18, "set user";
    /// Capability sets.
    Capabilities = 19, "set capabilities";
    /// `no_new_privs`.
    NoNewPrivileges = 20, "set no_new_privs";
    /// Kernel parameters of the pod.
    Sysctl = 21, "set sysctl";
    /// The pod's hostname.
    Hostname = 22, "set hostname";
    /// The loopback interface.
    Loopback = 23, "raise loopback";
    /// Starting the pid 1 of a pod that shares its PID namespace.
    PodInit = 24, "start pod init";
    /// `execve`: no such file, or no permission.
    Exec = 25, "exec";
    /// `execve`: the file is there, but the interpreter it names is not.
    ExecInterpreter = 26, "find interpreter of";
    /// `execve`: a program for another machine.
    ExecArchitecture = 27, "exec for another architecture";
    /// `execve`: no format that the kernel knows.
    ExecFormat = 28, "exec of unknown format";
    /// `execve`: the file system forbids execution.
    ExecNoexec = 29, "exec on noexec mount";
    /// Loading the seccomp filter.
    Seccomp = 30, "load seccomp filter";
    /// Asking for the AppArmor profile from `execve` on.
    AppArmor = 31, "enter AppArmor profile";
    /// Asking for the SELinux label from `execve` on.
    Selinux = 32, "set SELinux label";
    /// Running an OCI hook.
    Hook = 33, "run hook";
    /// Showing a file system with the ids of the pod's user namespace: it must support id-mapped mounts.
    MapIds = 34, "map the ids of";
    /// A volume that is to propagate mounts, but whose source does not (mount_namespaces(7)).
    Propagation = 35, "propagate mounts of";
    /// What an image volume shows.
    ImageVolume = 36, "mount image volume at";
    /// Copying what the image has into a volume that it declares.
    FillVolume = 37, "fill volume at";
}

impl Step {
    /// The step with this number, if there is one.
    pub fn from_number(number: u8) -> Option<Step> {
        Step::ALL.get(usize::from(number)).copied()
    }
}

/// A step that failed: which, on what, and what the kernel answered.
///
/// Displays as `<step> <path>: <errno text>`, a text without anything that changes from one attempt to the next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct SetupFailure {
    /// The step.
    pub step: Step,
    /// The object of the step: mostly a path, as the plan names it.
    pub path: Option<String>,
    /// The kernel's error number.
    pub errno: i32,
}

impl fmt::Display for SetupFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.step.name())?;
        if let Some(path) = &self.path {
            write!(f, " {path}")?;
        }
        write!(f, ": {}", nix::errno::Errno::from_raw(self.errno).desc())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_is_found_by_its_number() {
        for (index, step) in Step::ALL.iter().enumerate() {
            assert_eq!(*step as usize, index);
            assert_eq!(Step::from_number(*step as u8), Some(*step));
        }
        assert_eq!(Step::from_number(u8::try_from(Step::ALL.len()).unwrap()), None);
    }

    #[test]
    fn a_failure_reads_as_step_path_and_errno() {
        let failure = SetupFailure {
            step: Step::Exec,
            path: Some("/bin/nope".into()),
            errno: libc::ENOENT,
        };
        assert_eq!(failure.to_string(), "exec /bin/nope: No such file or directory");
    }
}
