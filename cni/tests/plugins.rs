//! Chains of plugins: real ones where they are installed, and ones that misbehave on request.

mod harness;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cni::{ActiveNetwork, Error, Network, PortMapping, Protocol, Readiness};
use harness::{Place, Pod, address, converse, has_link, on_a_host, tool};
use serde_json::{Value, json};

/// An answer that any plugin may give.
const RESULT: &str = r#"echo '{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"x"}],
"ips":[{"address":"10.7.0.5/24","gateway":"10.7.0.1","interface":0}],"dns":{"nameservers":["10.7.0.53"]}}'"#;

/// Plugins written by the test: shell scripts that note how they were called.
struct Scripts<'a> {
    place: &'a Place,
}

impl Scripts<'_> {
    /// A plugin that runs `add` for ADD and `other` for everything else.
    fn write(&self, name: &str, add: &str, other: &str) {
        let notes = self.place.path("notes");
        std::fs::create_dir_all(&notes).expect("a folder");
        let text = format!(
            "#!/bin/sh\ncwd=$PWD; cd {notes}; echo $cwd > cwd\nname={name}\ncat > $CNI_COMMAND.$name.json\n\
             echo \"$CNI_COMMAND $name $CNI_NETNS\" >> calls\n\
             tr '\\0' '\\n' < /proc/$$/environ | sort > environ\n\
             if [ $CNI_COMMAND = ADD ]; then\n{add}\nelse\n{other}\nfi\n",
            notes = notes.display()
        );
        let path = self.place.path("bin").join(name);
        // Copied by another process: what is open for writing cannot be executed, and what this one has open another test's
        // child may have for a moment.
        let draft = path.with_extension("draft");
        std::fs::write(&draft, text).expect("a script");
        let mut install = std::process::Command::new("install");
        let installed = install.args(["-m", "755"]).args([&draft, &path]).status();
        assert!(installed.expect("runs").success());
        std::fs::remove_file(draft).expect("removed");
    }

    /// The commands so far: `ADD one`, without the namespace.
    fn calls(&self) -> Vec<String> {
        let text = self.note("calls");
        text.lines()
            .map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" "))
            .collect()
    }

    fn note(&self, name: &str) -> String {
        std::fs::read_to_string(self.place.path("notes").join(name)).unwrap_or_default()
    }

    fn input(&self, command: &str, plugin: &str) -> Value {
        serde_json::from_str(&self.note(&format!("{command}.{plugin}.json"))).expect("JSON")
    }

    fn conflist(&self, version: &str, plugins: &[Value]) {
        let list = json!({"cniVersion": version, "name": "net", "plugins": plugins});
        self.place.conflist("10-net.conflist", &list.to_string());
    }
}

#[test]
fn a_chain_is_walked_as_the_spec_says() {
    on_a_host(|| async {
        let place = Place::new();
        let scripts = Scripts { place: &place };
        scripts.write("one", RESULT, ":");
        // A plugin that only changes something answers with what it was given.
        scripts.write(
            "two",
            r#"sed 's/.*"prevResult":\({.*}\),"runtimeConfig.*/\1/' ADD.two.json"#,
            ":",
        );
        scripts.conflist(
            "1.1.0",
            &[
                json!({"type": "one", "x": 1}),
                json!({"type": "two", "capabilities": {"portMappings": true}}),
            ],
        );
        let network = place.network(&[]).await;
        assert_eq!(network.status().await.readiness, Readiness::Ready);
        let pod = Pod::new(1);
        let mut request = pod.request();
        request.settings.port_mappings = vec![PortMapping {
            host_port: 8080,
            container_port: 80,
            protocol: Protocol::Tcp,
            host_ip: None,
        }];
        let attachment = network.attach(request).await.expect("attaches");
        assert_eq!(attachment.network, "net");
        assert_eq!(address(&attachment).to_string(), "10.7.0.5");
        assert_eq!(attachment.dns.nameservers, ["10.7.0.53"]);

        let first = scripts.input("ADD", "one");
        assert_eq!(
            (&first["name"], &first["x"], first.get("prevResult")),
            (&json!("net"), &json!(1), None)
        );
        assert_eq!(first.get("runtimeConfig"), None, "it declared no capability");
        let second = scripts.input("ADD", "two");
        assert_eq!(second["prevResult"]["ips"][0]["address"], "10.7.0.5/24");
        assert_eq!(second["runtimeConfig"]["portMappings"][0]["hostPort"], 8080);

        network.check(&pod.id).await.expect("checks");
        network.detach(&pod.id, None).await.expect("detaches");
        assert_eq!(scripts.input("DEL", "two")["prevResult"], attachment.result);
        assert_eq!(
            scripts.input("DEL", "two")["runtimeConfig"]["portMappings"][0]["hostPort"],
            8080
        );
        let order = [
            "STATUS one",
            "STATUS two",
            "ADD one",
            "ADD two",
            "CHECK one",
            "CHECK two",
            "DEL two",
            "DEL one",
        ];
        assert_eq!(scripts.calls(), order);
    });
}

#[test]
fn a_plugin_gets_a_clean_environment() {
    on_a_host(|| async {
        let place = Place::new();
        let scripts = Scripts { place: &place };
        let look = format!(
            "ls /proc/self/fd > fds; cut -d' ' -f5 /proc/$$/stat > group; echo $$ >> group\n{RESULT}"
        );
        scripts.write("one", &look, ":");
        scripts.conflist("1.0.0", &[json!({"type": "one"})]);
        let network = place.network(&[]).await;
        let pod = Pod::new(1);
        let _ = pod.attach(&network).await;
        let environment = scripts.note("environ");
        let names: Vec<&str> = environment
            .lines()
            .filter_map(|line| line.split('=').next())
            .collect();
        let expected = [
            "CNI_ARGS",
            "CNI_COMMAND",
            "CNI_CONTAINERID",
            "CNI_IFNAME",
            "CNI_NETNS",
            "CNI_PATH",
            "PATH",
        ];
        assert_eq!(names, expected);
        let arguments = format!(
            "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID=0001",
            pod.id
        );
        assert!(environment.lines().any(|line| line == arguments), "{environment}");
        // `ls` has its three and the directory that it lists; what the test itself was started with passes through.
        let ours = harness::inherited_descriptors();
        let foreign: Vec<u32> = scripts
            .note("fds")
            .split_whitespace()
            .map(|fd| fd.parse().expect("a number"))
            .filter(|fd| *fd > 3 && !ours.contains(fd))
            .collect();
        assert_eq!(foreign, [0; 0]);
        let group = scripts.note("group");
        let [group, process] = group.split_whitespace().collect::<Vec<_>>()[..] else {
            panic!("two numbers: {group}")
        };
        assert_eq!(group, process, "it leads a process group of its own");
        assert_eq!(scripts.note("cwd").trim(), "/");
    });
}

#[test]
fn misbehaving_plugins_are_told_apart_and_undone_once() {
    on_a_host(|| async {
        let cases = [
            (
                "exit 0",
                "CNI plugin bad ADD gave no valid result: it exited with code 0 and wrote nothing",
            ),
            (
                "echo hello world",
                "CNI plugin bad ADD gave no valid result: no JSON: hello world",
            ),
            (
                r#"echo '{"cniVersion":"9.0.0"}'"#,
                "CNI plugin bad ADD gave no valid result: cniVersion 9.0.0 is not spoken",
            ),
            (
                r#"echo '{"code":7,"msg":"no range","details":"net full"}'; exit 1"#,
                "CNI plugin bad ADD failed with code 7: no range (net full)",
            ),
            (
                "echo complaint >&2; exit 3",
                "CNI plugin bad ADD exited with code 3: complaint",
            ),
            (
                "kill -9 $$",
                "CNI plugin bad ADD was killed by signal 9: (nothing)",
            ),
            (
                "yes | head -c 3000000",
                "CNI plugin bad ADD gave no valid result: it wrote more than 1 MiB and was killed",
            ),
        ];
        for (behaviour, message) in cases {
            let place = Place::new();
            let scripts = Scripts { place: &place };
            scripts.write("good", RESULT, ":");
            scripts.write("bad", behaviour, ":");
            scripts.conflist("1.0.0", &[json!({"type": "good"}), json!({"type": "bad"})]);
            let network = place.network(&[]).await;
            let pod = Pod::new(1);
            let failed = network.attach(pod.request()).await.expect_err("must fail");
            assert_eq!(failed.to_string(), message, "{behaviour}");
            assert_eq!(
                scripts.calls(),
                ["ADD good", "ADD bad", "DEL bad", "DEL good"],
                "{behaviour}"
            );
            assert_eq!(place.records(), [""; 0], "{behaviour}");
            assert_eq!(pins(), [""; 0], "{behaviour}");
        }
    });
}

#[test]
fn a_hanging_plugin_is_killed_with_all_that_it_started() {
    on_a_host(|| async {
        let place = Place::new();
        let scripts = Scripts { place: &place };
        scripts.write("bad", "sleep 1000 & echo $! > child; sleep 1000", ":");
        scripts.conflist("1.0.0", &[json!({"type": "bad"})]);
        let mut config = place.config(&[]);
        config.chain_timeout = Duration::from_secs(5);
        let network = Network::open(config).await.expect("opens");
        let begun = Instant::now();
        let failed = network
            .attach(Pod::new(1).request())
            .await
            .expect_err("must fail");
        assert!(matches!(failed, Error::PluginDeadline { .. }), "{failed}");
        assert!(
            begun.elapsed() < Duration::from_secs(120),
            "nobody waits for what it started"
        );
        let child: i32 = scripts.note("child").trim().parse().expect("a process id");
        // It was killed in the same instant; it dies when it gets a processor, and is reaped by whoever adopts orphans here.
        let deadline = Instant::now() + Duration::from_secs(60);
        while is_alive(child) {
            assert!(Instant::now() < deadline, "what it started still runs");
            std::thread::yield_now();
        }
        assert_eq!(scripts.calls(), ["ADD bad", "DEL bad"]);
        assert_eq!(place.records(), [""; 0]);
    });
}

fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, state)| !state.starts_with(['Z', 'X']))
}

#[test]
fn what_a_plugin_leaves_running_does_not_keep_us() {
    on_a_host(|| async {
        let place = Place::new();
        let scripts = Scripts { place: &place };
        // The child holds stdout open.
        scripts.write("one", &format!("sleep 20 & echo $! > child\n{RESULT}"), ":");
        scripts.conflist("1.0.0", &[json!({"type": "one"})]);
        let network = place.network(&[]).await;
        let begun = Instant::now();
        let pod = Pod::new(1);
        let attachment = pod.attach(&network).await;
        assert_eq!(address(&attachment).to_string(), "10.7.0.5");
        assert!(begun.elapsed() < Duration::from_secs(18));
        let child: i32 = scripts.note("child").trim().parse().expect("a process id");
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(child),
            nix::sys::signal::Signal::SIGKILL,
        )
        .expect("lives");
        network.detach(&pod.id, None).await.expect("detaches");
    });
}

#[test]
fn a_failed_detach_is_kept_and_tried_again() {
    on_a_host(|| async {
        let place = Place::new();
        let scripts = Scripts { place: &place };
        scripts.write("one", RESULT, ":");
        scripts.write("two", RESULT, r#"echo '{"code":11,"msg":"later"}'; exit 1"#);
        scripts.conflist("1.0.0", &[json!({"type": "one"}), json!({"type": "two"})]);
        let network = place.network(&[]).await;
        let pod = Pod::new(1);
        let _ = pod.attach(&network).await;
        let failed = network.detach(&pod.id, None).await.expect_err("must fail");
        assert_eq!(
            failed.to_string(),
            "detach: CNI plugin two DEL failed with code 11: later"
        );
        assert_eq!(
            scripts.calls(),
            ["ADD one", "ADD two", "DEL two", "DEL one"],
            "the other plugin was asked too"
        );
        assert_eq!(place.records().len(), 1);
        assert_eq!(pins().len(), 1, "the namespace is kept for the next try");

        // The daemon is restarted, the configuration is gone, the plugin works again.
        drop(network);
        std::fs::remove_file(place.path("net.d/10-net.conflist")).expect("removed");
        scripts.write("two", RESULT, ":");
        let network = place.network(&[]).await;
        network.detach(&pod.id, None).await.expect("detaches");
        assert_eq!((place.records().len(), pins().len()), (0, 0));
    });
}

#[test]
fn a_namespace_that_is_gone_or_replaced_is_no_obstacle() {
    on_a_host(|| async {
        let place = Place::new();
        let scripts = Scripts { place: &place };
        scripts.write("one", RESULT, ":");
        scripts.conflist("1.0.0", &[json!({"type": "one"})]);
        let network = place.network(&[]).await;
        let (gone, replaced, other) = (Pod::new(1), Pod::new(2), Pod::new(3));
        for pod in [&gone, &replaced] {
            let _ = pod.attach(&network).await;
        }
        let pin = |pod: &Pod| PathBuf::from(format!("/run/netns/crisp-{}", &pod.id.as_str()[..12]));
        nix::mount::umount(&pin(&gone)).expect("a pin");
        nix::mount::umount(&pin(&replaced)).expect("a pin");
        let source = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&other.netns));
        let none = None::<&str>;
        nix::mount::mount(
            Some(source.as_str()),
            &pin(&replaced),
            none,
            nix::mount::MsFlags::MS_BIND,
            none,
        )
        .expect("another namespace");
        for pod in [&gone, &replaced] {
            network.detach(&pod.id, None).await.expect("detaches");
        }
        let deletes: Vec<String> = scripts
            .note("calls")
            .lines()
            .filter(|line| line.starts_with("DEL"))
            .map(Into::into)
            .collect();
        assert_eq!(deletes, ["DEL one ", "DEL one "], "DEL is given no namespace");
        assert_eq!(pins(), [""; 0]);

        // A better path is used if it leads to the same namespace.
        let pod = Pod::new(4);
        let _ = pod.attach(&network).await;
        nix::mount::umount(&pin(&pod)).expect("a pin");
        let known = format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            std::os::fd::AsRawFd::as_raw_fd(&pod.netns)
        );
        network
            .detach(&pod.id, Some(Path::new(&known)))
            .await
            .expect("detaches");
        assert_eq!(
            scripts.note("calls").lines().last(),
            Some(format!("DEL one {known}").as_str())
        );
    });
}

#[test]
fn a_conflist_serves_as_soon_as_it_appears_and_a_broken_one_moves_no_pod_elsewhere() {
    on_a_host(|| async {
        let place = Place::new();
        let scripts = Scripts { place: &place };
        scripts.write("one", RESULT, ":");
        let network = place.network(&["10.209.0.0/16"]).await;
        let (early, late) = (Pod::new(1), Pod::new(2));
        assert_eq!(early.attach(&network).await.network, "crisp");
        assert!(matches!(
            network.status().await.active,
            Some(ActiveNetwork::Embedded { .. })
        ));

        place.conflist("10-net.conflist", "{ \"name\": ");
        let Readiness::NotReady { reason } = network.status().await.readiness else {
            panic!("a file that is there says that plugins are meant: the embedded network must not step in");
        };
        assert!(reason.contains("10-net.conflist: line 1 column"), "{reason}");
        network
            .attach(late.request())
            .await
            .expect_err("nor may it take a pod");

        scripts.conflist("1.0.0", &[json!({"type": "one"})]);
        assert_eq!(late.attach(&network).await.network, "net");
        let status = network.status().await;
        assert_eq!(status.active.expect("a network").name(), "net");
        assert_eq!((status.warnings.len(), status.attachments), (0, 2));

        place.conflist("10-net.conflist", "[]");
        let status = network.status().await;
        assert_eq!(status.readiness, Readiness::Ready);
        assert_eq!(status.active.expect("a network").name(), "net");
        assert_eq!(status.warnings.len(), 2, "{:?}", status.warnings);
        assert_eq!(Pod::new(3).attach(&network).await.network, "net");

        network
            .detach(&early.id, None)
            .await
            .expect("each pod leaves the network it was attached to");
        network.detach(&late.id, None).await.expect("detaches");
    });
}

#[test]
fn without_a_network_pods_are_refused_with_the_reason() {
    on_a_host(|| async {
        let place = Place::new();
        let scripts = Scripts { place: &place };
        let network = place.network(&[]).await;
        let reason = |status: cni::NetworkStatus| match status.readiness {
            Readiness::NotReady { reason } => reason,
            Readiness::Ready => panic!("must not be ready"),
        };
        let directory = place.path("net.d").display().to_string();
        let expected =
            format!("no pod network: no valid network configuration in {directory}; install a CNI network");
        assert_eq!(reason(network.status().await), expected);
        let refused = network.attach(Pod::new(1).request()).await.expect_err("refused");
        assert_eq!(refused.to_string(), expected);

        scripts.conflist("1.0.0", &[json!({"type": "absent"})]);
        let missing = format!(
            "CNI plugin absent is not in {}, /usr/lib/cni",
            place.path("bin").display()
        );
        assert_eq!(reason(network.status().await), missing);

        scripts.write(
            "one",
            RESULT,
            r#"echo '{"code":50,"msg":"agent is starting"}'; exit 1"#,
        );
        scripts.conflist("1.1.0", &[json!({"type": "one"})]);
        assert_eq!(
            reason(network.status().await),
            "CNI plugin one STATUS failed with code 50: agent is starting"
        );
        scripts.write("one", RESULT, ":");
        assert_eq!(
            network.status().await.readiness,
            Readiness::Ready,
            "a failure is asked again at once"
        );
    });
}

#[test]
fn gc_detaches_the_dead_and_names_the_living() {
    on_a_host(|| async {
        let place = Place::new();
        let scripts = Scripts { place: &place };
        scripts.write("one", RESULT, ":");
        scripts.conflist("1.1.0", &[json!({"type": "one"})]);
        let network = place.network(&[]).await;
        let (live, dead) = (Pod::new(1), Pod::new(2));
        for pod in [&live, &dead] {
            let _ = pod.attach(&network).await;
        }
        let detached = network
            .gc(std::slice::from_ref(&live.id))
            .await
            .expect("collects");
        assert_eq!(detached, std::slice::from_ref(&dead.id));
        let valid = &scripts.input("GC", "one")["cni.dev/valid-attachments"];
        assert_eq!(
            *valid,
            json!([{"containerID": live.id.as_str(), "ifname": "eth0"}])
        );
    });
}

/// What is pinned below `/run/netns` of the test's host.
fn pins() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/run/netns") else {
        return Vec::new();
    };
    entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect()
}

/// The usual chain of a node, with leases below the test's own directory.
fn real_chain(place: &Place) -> bool {
    for plugin in [
        "bridge",
        "host-local",
        "portmap",
        "firewall",
        "bandwidth",
        "tuning",
    ] {
        if !Path::new("/usr/lib/cni").join(plugin).exists() {
            println!("SKIPPED: /usr/lib/cni/{plugin} is not installed (containernetworking-plugins)");
            return false;
        }
    }
    let list = json!({"cniVersion": "1.0.0", "name": "real", "plugins": [
        {"type": "bridge", "bridge": "cni7", "isGateway": true, "ipMasq": true, "promiscMode": false,
         "ipam": {"type": "host-local", "dataDir": place.path("leases"), "routes": [{"dst": "0.0.0.0/0"}],
                  "ranges": [[{"subnet": "10.77.0.0/24"}]]}},
        {"type": "portmap", "capabilities": {"portMappings": true}},
        {"type": "tuning", "sysctl": {"net.core.somaxconn": "200"}}
    ]});
    place.conflist("10-real.conflist", &list.to_string());
    true
}

fn leases(place: &Place) -> usize {
    let Ok(entries) = std::fs::read_dir(place.path("leases/real")) else {
        return 0;
    };
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("10."))
        .count()
}

#[test]
fn real_plugins_connect_pods_and_give_all_back() {
    on_a_host(|| async {
        let place = Place::new();
        if !real_chain(&place) {
            return;
        }
        let network = place.network(&["10.209.0.0/16"]).await;
        assert_eq!(network.status().await.readiness, Readiness::Ready);
        let (one, two) = (Pod::new(1), Pod::new(2));
        let first = one.attach(&network).await;
        let mut request = two.request();
        request.settings.port_mappings = vec![PortMapping {
            host_port: 8080,
            container_port: 80,
            protocol: Protocol::Tcp,
            host_ip: None,
        }];
        let second = network.attach(request).await.expect("attaches");
        assert_eq!((first.ips.len(), first.network.as_str()), (1, "real"));
        assert_ne!(first.ips, second.ips);
        assert!(has_link(second.host_link.as_deref().expect("a host link")));
        assert_eq!(pins().len(), 2);
        let listener = two.listen();
        one.inside(|| converse(&listener, address(&second)));
        converse(&listener, address(&second));
        // Loopback was raised although no plugin of the chain does so.
        let local = one.listen();
        let (repeated, _) = one.inside(|| converse(&local, "127.0.0.1".parse().expect("an address")));
        assert_eq!(repeated, 0);
        assert_eq!(one.inside(|| harness::sysctl("net/core/somaxconn")), "200");
        if let Some(rules) = tool("iptables-save", &["-t", "nat"]) {
            assert!(
                rules.contains("--dport 8080"),
                "the port mapping arrived:\n{rules}"
            );
        }
        // Not the pod with a port: CHECK of some releases of portmap fails for want of an IPv6 rule.
        network.check(&one.id).await.expect("stands");
        assert_eq!(leases(&place), 2);

        network.detach(&two.id, None).await.expect("detaches");
        network.detach(&two.id, None).await.expect("and once more");
        assert_eq!((leases(&place), pins().len(), place.records().len()), (1, 1, 1));

        // Daemon killed, configuration gone, namespace gone: the lease still comes back.
        drop(network);
        std::fs::remove_file(place.path("net.d/10-real.conflist")).expect("removed");
        let network = place.network(&["10.209.0.0/16"]).await;
        let recorded = network.attachments().await.expect("lists");
        assert_eq!(recorded[0].attachment.as_ref(), Some(&first));
        nix::mount::umount(&PathBuf::from(format!("/run/netns/{}", pins()[0]))).expect("a pin");
        drop(one);
        network.detach(&first.pod_id, None).await.expect("detaches");
        assert_eq!((leases(&place), pins().len(), place.records().len()), (0, 0, 0));
    });
}
