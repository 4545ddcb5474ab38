//! Files of made-up hosts, as kernels write them, and cgroups of the host that runs the tests.

use std::fs;
use std::sync::Arc;

use super::super::Hierarchies;
use super::super::tests::Passing;
use super::*;

fn host(table: impl Fn(&str) -> String, files: &[(&str, &str)]) -> (tempfile::TempDir, Cgroup) {
    let temp = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = temp.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let hierarchies = Hierarchies::from_mount_table(table(&temp.path().display().to_string()).as_bytes());
    let cgroup = Cgroup::new(&hierarchies, "pod", "id").unwrap();
    (temp, cgroup)
}

#[test]
fn v2_counters_are_brought_to_one_unit() {
    let (_temp, cgroup) = host(
        |root| format!("1 1 0:1 / {root} rw - cgroup2 cgroup2 rw\n"),
        &[
            (
                "pod/id/cpu.stat",
                "usage_usec 7\nuser_usec 4\nsystem_usec 3\nnr_periods 9\nnr_throttled 2\nthrottled_usec 5\n",
            ),
            ("pod/id/memory.current", "1000\n"),
            ("pod/id/memory.max", "5000\n"),
            ("pod/id/memory.swap.current", "30\n"),
            ("pod/id/memory.swap.max", "max\n"),
            (
                "pod/id/memory.stat",
                "anon 600\nfile 400\nkernel 20\nfile_mapped 50\ninactive_file 300\npgfault 8\npgmajfault 1\n",
            ),
            (
                "pod/id/memory.events",
                "low 0\nmax 4\noom 1\noom_kill 1\noom_group_kill 0\n",
            ),
            (
                "pod/id/io.stat",
                "254:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n",
            ),
            ("pod/id/pids.current", "3\n"),
            ("pod/id/pids.max", "max\n"),
            ("pod/id/hugetlb.2MB.current", "4194304\n"),
            ("pod/id/hugetlb.2MB.rsvd.current", "0\n"),
            (
                "pod/id/memory.pressure",
                "some avg10=1.50 avg60=0.00 avg300=0.25 total=12\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n",
            ),
        ],
    );
    let usage = cgroup.usage();
    let cpu = usage.cpu.unwrap();
    assert_eq!((cpu.total_ns, cpu.user_ns, cpu.system_ns), (7000, 4000, 3000));
    assert_eq!(
        (cpu.periods, cpu.throttled_periods, cpu.throttled_ns),
        (9, 2, 5000)
    );
    let memory = usage.memory.unwrap();
    assert_eq!(
        (memory.working_set(), memory.available(), memory.anon),
        (700, Some(4300), 600)
    );
    assert_eq!((memory.oom_kills, memory.limit_hits, memory.kernel), (1, 4, 20));
    assert_eq!(
        memory.swap,
        Some(SwapUsage {
            usage: 30,
            limit: None
        })
    );
    let device = usage.io.unwrap().devices[0];
    assert_eq!((device.major, device.read_bytes, device.writes), (254, 10, 2));
    assert_eq!(
        usage.pids,
        Some(PidsUsage {
            tasks: 3,
            limit: None
        })
    );
    assert_eq!((usage.hugetlb.len(), usage.hugetlb[0].usage), (1, 4_194_304));
    let pressure = usage.pressure.memory.unwrap();
    assert_eq!((pressure.some.total_ns, pressure.full.total_ns), (12_000, 3_000));
    assert!((pressure.some.avg10 - 1.5).abs() < 1e-9 && (pressure.some.avg300 - 0.25).abs() < 1e-9);
    assert_eq!(usage.pressure.cpu, None);
}

#[test]
fn v1_counts_the_same_things_elsewhere() {
    let (_temp, cgroup) = host(
        |root| {
            ["cpu", "cpuacct", "memory", "blkio"]
                .iter()
                .map(|name| format!("1 1 0:1 / {root}/{name} rw - cgroup cgroup rw,{name}\n"))
                .collect()
        },
        &[
            ("cpuacct/pod/id/cpuacct.usage", "7000\n"),
            ("cpuacct/pod/id/cpuacct.usage_user", "4000\n"),
            ("cpuacct/pod/id/cpuacct.usage_sys", "3000\n"),
            (
                "cpu/pod/id/cpu.stat",
                "nr_periods 9\nnr_throttled 2\nthrottled_time 5000\n",
            ),
            ("memory/pod/id/memory.usage_in_bytes", "1000\n"),
            ("memory/pod/id/memory.limit_in_bytes", "5000\n"),
            (
                "memory/pod/id/memory.soft_limit_in_bytes",
                "9223372036854771712\n",
            ),
            ("memory/pod/id/memory.memsw.usage_in_bytes", "1030\n"),
            ("memory/pod/id/memory.memsw.limit_in_bytes", "6000\n"),
            (
                "memory/pod/id/memory.stat",
                "inactive_file 1\ntotal_inactive_file 300\ntotal_rss 600\ntotal_swap 30\n",
            ),
            (
                "memory/pod/id/memory.oom_control",
                "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
            ),
            (
                "blkio/pod/id/blkio.throttle.io_service_bytes_recursive",
                "254:0 Read 10\n254:0 Write 20\n254:0 Total 30\nTotal 30\n",
            ),
            (
                "blkio/pod/id/blkio.throttle.io_serviced_recursive",
                "254:0 Read 1\n254:0 Write 2\nTotal 3\n",
            ),
        ],
    );
    let usage = cgroup.usage();
    let cpu = usage.cpu.unwrap();
    assert_eq!((cpu.total_ns, cpu.user_ns, cpu.system_ns), (7000, 4000, 3000));
    assert_eq!(
        (cpu.periods, cpu.throttled_periods, cpu.throttled_ns),
        (9, 2, 5000)
    );
    let memory = usage.memory.unwrap();
    assert_eq!(
        (memory.working_set(), memory.available(), memory.anon),
        (700, Some(4300), 600)
    );
    assert_eq!((memory.oom_kills, memory.reservation), (1, None));
    assert_eq!(
        memory.swap,
        Some(SwapUsage {
            usage: 30,
            limit: Some(1000)
        })
    );
    let device = usage.io.unwrap().devices[0];
    assert_eq!(
        (
            device.major,
            device.read_bytes,
            device.written_bytes,
            device.writes
        ),
        (254, 10, 20, 2)
    );
    assert_eq!((usage.pids, usage.pressure), (None, Pressures::default()));
}

#[test]
fn a_cgroup_that_does_not_exist_has_used_nothing() {
    let hierarchies: Arc<Hierarchies> = Hierarchies::detect().unwrap();
    let cgroup = Cgroup::new(&hierarchies, "no-such-parent", "id").unwrap();
    assert!(!cgroup.exists());
    assert_eq!(cgroup.usage(), Usage::default());
    assert_eq!(cgroup.processes(), ProcessUsage::default());
}

#[test]
fn work_shows_in_the_counters() {
    let cgroup = Passing::new("", &format!("crisp-usage-{}", std::process::id()));
    cgroup.create(None).unwrap();
    // A shell that moves itself there, burns a little CPU, touches memory and tells us; then waits for its stdin.
    let moves: String = cgroup
        .directories()
        .map(|directory| format!("echo $$ > {}/cgroup.procs; ", directory.display()))
        .collect();
    let script = format!("{moves} i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo ready; read line");
    let mut child = std::process::Command::new("/bin/sh")
        .args(["-c", &script])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
    let (usage, processes) = (cgroup.usage(), cgroup.processes());
    drop(child.stdin.take());
    child.wait().unwrap();
    cgroup.remove().unwrap();
    let cpu = usage.cpu.unwrap();
    assert!(cpu.total_ns > 1_000_000, "{cpu:?}");
    // The details behind it are summed up by the kernel only now and then.
    let memory = usage.memory.unwrap();
    assert!(memory.usage > 0 && memory.working_set() > 0, "{memory:?}");
    assert_eq!(usage.pids.map(|pids| pids.tasks), Some(1));
    assert_eq!((processes.processes, processes.threads), (1, 1));
    assert!(processes.descriptors >= 3, "{processes:?}");
}
