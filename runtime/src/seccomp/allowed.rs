//! The calls that the default profile allows, by what they are for. Each line of thought is one list.
//!
//! Names of calls that only some machines have are in the lists of all: a filter takes what exists.

use oci_spec::runtime::Capability;

/// What every container may call.
pub(super) const ALWAYS: &[&[&str]] = &[
    OPENING, DIRECTORIES, ATTRIBUTES, EXTENDED_ATTRIBUTES, READING_AND_WRITING, FILE_SYSTEMS, WATCHING, MEMORY,
    PROCESSES, IDENTITY, SCHEDULING, LIMITS, SIGNALS, THREADS, TIME, WAITING_FOR_FILES, ASYNCHRONOUS_IO, SOCKETS,
    SYSTEM_V_IPC, MESSAGE_QUEUES, CONFINING_ITSELF, OBSERVING_OTHERS, SYSTEM,
];

const OPENING: &[&str] = &[
    "open", "openat", "openat2", "creat", "close", "close_range", "dup", "dup2", "dup3", "fcntl", "fcntl64", "flock",
    "memfd_create", "memfd_secret", "name_to_handle_at", "pipe", "pipe2", "truncate", "truncate64", "ftruncate",
    "ftruncate64", "fallocate", "umask",
];

const DIRECTORIES: &[&str] = &[
    "chdir", "fchdir", "getcwd", "getdents", "getdents64", "mkdir", "mkdirat", "mknod", "mknodat", "rmdir", "link",
    "linkat", "symlink", "symlinkat", "readlink", "readlinkat", "unlink", "unlinkat", "rename", "renameat", "renameat2",
];

const ATTRIBUTES: &[&str] = &[
    "access", "faccessat", "faccessat2", "stat", "stat64", "lstat", "lstat64", "fstat", "fstat64", "fstatat64",
    "newfstatat", "statx", "chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "chown32", "fchown", "fchown32",
    "fchownat", "lchown", "lchown32", "utime", "utimes", "futimesat", "utimensat", "utimensat_time64", "file_getattr",
    "file_setattr",
];

const EXTENDED_ATTRIBUTES: &[&str] = &[
    "getxattr", "lgetxattr", "fgetxattr", "getxattrat", "setxattr", "lsetxattr", "fsetxattr", "setxattrat",
    "listxattr", "llistxattr", "flistxattr", "listxattrat", "removexattr", "lremovexattr", "fremovexattr",
    "removexattrat",
];

const READING_AND_WRITING: &[&str] = &[
    "read", "readv", "pread64", "preadv", "preadv2", "write", "writev", "pwrite64", "pwritev", "pwritev2", "lseek",
    "_llseek", "readahead", "fadvise64", "fadvise64_64", "sendfile", "sendfile64", "copy_file_range", "splice", "tee",
    "vmsplice", "ioctl", "cachestat",
];

const FILE_SYSTEMS: &[&str] = &[
    "statfs", "statfs64", "fstatfs", "fstatfs64", "statmount", "listmount", "sync", "syncfs", "fsync", "fdatasync",
    "sync_file_range",
];

const WATCHING: &[&str] = &[
    "inotify_init", "inotify_init1", "inotify_add_watch", "inotify_rm_watch", "fanotify_mark",
];

const MEMORY: &[&str] = &[
    "brk", "mmap", "mmap2", "munmap", "mremap", "mprotect", "madvise", "mincore", "msync", "mlock", "mlock2",
    "mlockall", "munlock", "munlockall", "mseal", "membarrier", "remap_file_pages", "map_shadow_stack", "pkey_alloc",
    "pkey_free", "pkey_mprotect",
];

const PROCESSES: &[&str] = &[
    "fork", "vfork", "execve", "execveat", "exit", "exit_group", "wait4", "waitid", "waitpid", "getpid", "getppid",
    "gettid", "getpgid", "getpgrp", "setpgid", "getsid", "setsid", "prctl", "pidfd_open", "pidfd_send_signal",
    "process_mrelease", "restart_syscall",
];

/// The kernel checks capabilities for these.
const IDENTITY: &[&str] = &[
    "getuid", "getuid32", "geteuid", "geteuid32", "getresuid", "getresuid32", "setuid", "setuid32", "setreuid",
    "setreuid32", "setresuid", "setresuid32", "setfsuid", "setfsuid32", "getgid", "getgid32", "getegid", "getegid32",
    "getresgid", "getresgid32", "setgid", "setgid32", "setregid", "setregid32", "setresgid", "setresgid32", "setfsgid",
    "setfsgid32", "getgroups", "getgroups32", "setgroups", "setgroups32", "capget", "capset",
];

const SCHEDULING: &[&str] = &[
    "sched_yield", "sched_getaffinity", "sched_setaffinity", "sched_getattr", "sched_setattr", "sched_getparam",
    "sched_setparam", "sched_getscheduler", "sched_setscheduler", "sched_get_priority_max", "sched_get_priority_min",
    "sched_rr_get_interval", "sched_rr_get_interval_time64", "getpriority", "setpriority", "ioprio_get", "ioprio_set",
    "getcpu",
];

const LIMITS: &[&str] = &[
    "getrlimit", "ugetrlimit", "setrlimit", "prlimit64", "getrusage",
];

const SIGNALS: &[&str] = &[
    "kill", "tkill", "tgkill", "pause", "sigaltstack", "sigprocmask", "sigreturn", "rt_sigaction", "rt_sigpending",
    "rt_sigprocmask", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait",
    "rt_sigtimedwait_time64", "signalfd", "signalfd4", "sigaction", "signal", "sigpending", "sigsuspend",
];

const THREADS: &[&str] = &[
    "futex", "futex_time64", "futex_wait", "futex_waitv", "futex_wake", "futex_requeue", "set_tid_address",
    "set_robust_list", "get_robust_list", "set_thread_area", "get_thread_area", "rseq", "rseq_slice_yield",
];

/// Setting clocks takes CAP_SYS_TIME, which adjtimex and clock_adjtime check when they are not only asked.
const TIME: &[&str] = &[
    "time", "times", "gettimeofday", "adjtimex", "clock_adjtime", "clock_adjtime64", "clock_getres",
    "clock_getres_time64", "clock_gettime", "clock_gettime64", "clock_nanosleep", "clock_nanosleep_time64",
    "nanosleep", "alarm", "getitimer", "setitimer", "timer_create", "timer_delete", "timer_getoverrun",
    "timer_gettime", "timer_gettime64", "timer_settime", "timer_settime64", "timerfd_create", "timerfd_gettime",
    "timerfd_gettime64", "timerfd_settime", "timerfd_settime64",
];

const WAITING_FOR_FILES: &[&str] = &[
    "poll", "ppoll", "ppoll_time64", "select", "_newselect", "pselect6", "pselect6_time64", "epoll_create",
    "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "epoll_pwait2", "eventfd", "eventfd2",
];

/// The old interface, which databases use. io_uring is left out.
const ASYNCHRONOUS_IO: &[&str] = &[
    "io_setup", "io_destroy", "io_submit", "io_cancel", "io_getevents", "io_pgetevents", "io_pgetevents_time64",
];

/// `socket` has rules of its own.
const SOCKETS: &[&str] = &[
    "socketpair", "bind", "listen", "accept", "accept4", "connect", "shutdown", "getsockname", "getpeername",
    "getsockopt", "setsockopt", "send", "sendto", "sendmsg", "sendmmsg", "recv", "recvfrom", "recvmsg", "recvmmsg",
    "recvmmsg_time64",
];

const SYSTEM_V_IPC: &[&str] = &[
    "ipc", "shmget", "shmat", "shmdt", "shmctl", "semget", "semop", "semtimedop", "semtimedop_time64", "semctl",
    "msgget", "msgsnd", "msgrcv", "msgctl",
];

const MESSAGE_QUEUES: &[&str] = &[
    "mq_open", "mq_unlink", "mq_timedsend", "mq_timedsend_time64", "mq_timedreceive", "mq_timedreceive_time64",
    "mq_notify", "mq_getsetattr",
];

const CONFINING_ITSELF: &[&str] = &[
    "seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self",
];

/// Within the container, and for its own user unless CAP_SYS_PTRACE: since 4.8 a tracer cannot lead a process past its
/// filter.
const OBSERVING_OTHERS: &[&str] = &["ptrace", "process_vm_readv", "process_vm_writev"];

const SYSTEM: &[&str] = &["uname", "sysinfo", "getrandom"];

/// x86-64 and i386. The last two are what the kernel's own probes of user programs call.
pub(super) const ON_X86: &[&str] = &["arch_prctl", "modify_ldt", "uretprobe", "uprobe"];

/// 32-bit arm, which has arguments of 64 bits in other registers, and calls of its own for caches and thread storage.
pub(super) const ON_ARM: &[&str] = &[
    "arm_fadvise64_64", "arm_sync_file_range", "sync_file_range2", "breakpoint", "cacheflush", "set_tls",
];

/// What a capability is for.
pub(super) const WITH_CAPABILITY: &[(Capability, &[&str])] = &[
    (Capability::DacReadSearch, &["open_by_handle_at"]),
    (Capability::SysAdmin, ADMINISTRATION),
    (Capability::SysBoot, &["reboot"]),
    (Capability::SysChroot, &["chroot"]),
    (Capability::SysModule, &["init_module", "finit_module", "delete_module"]),
    (Capability::SysNice, &["mbind", "get_mempolicy", "set_mempolicy", "set_mempolicy_home_node"]),
    (Capability::SysPacct, &["acct"]),
    (Capability::SysPtrace, &["kcmp", "pidfd_getfd", "process_madvise"]),
    (Capability::SysRawio, &["iopl", "ioperm"]),
    (Capability::SysTime, &["settimeofday", "stime", "clock_settime", "clock_settime64"]),
    (Capability::SysTtyConfig, &["vhangup"]),
    (Capability::Syslog, &["syslog"]),
    (Capability::Bpf, &["bpf"]),
    (Capability::Perfmon, &["perf_event_open"]),
];

/// CAP_SYS_ADMIN: mounts, namespaces, and what it stood for before it was divided.
const ADMINISTRATION: &[&str] = &[
    "mount", "umount", "umount2", "mount_setattr", "move_mount", "open_tree", "open_tree_attr", "fsopen", "fsconfig",
    "fsmount", "fspick", "clone", "clone3", "unshare", "setns", "listns", "sethostname", "setdomainname", "bpf",
    "perf_event_open", "fanotify_init", "lsm_get_self_attr", "lsm_set_self_attr", "lsm_list_modules", "quotactl",
    "quotactl_fd", "syslog",
];
