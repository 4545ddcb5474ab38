//! What pods' networks will be made of: conflists and their plugins, or the embedded bridge.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Finding, Host};
use crate::config::Network;

const AREA: &str = "network";

/// What is read of a conflist, or of a single plugin's configuration (CNI 1.1, section 1).
#[derive(Deserialize)]
struct Conflist {
    name: Option<String>,
    #[serde(default)]
    plugins: Vec<Plugin>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Plugin {
    #[serde(rename = "type")]
    kind: String,
    ipam: Option<Ipam>,
}

#[derive(Deserialize)]
struct Ipam {
    #[serde(rename = "type")]
    kind: Option<String>,
}

pub(super) fn findings(host: &Host, network: &Network) -> Vec<Finding> {
    let mut findings = provider(host, network);
    let embedded = network.embedded.enabled && conflists(host, network).is_empty();
    findings.extend([forwarding(host, embedded), bridge_netfilter(host)]);
    findings
}

/// In the order in which they are chosen.
fn conflists(host: &Host, network: &Network) -> Vec<String> {
    let names = host.list(&network.conf_dir).into_iter();
    let usable = |name: &String| {
        [".conflist", ".conf", ".json"]
            .iter()
            .any(|end| name.ends_with(end))
            && !name.starts_with('.')
    };
    names.filter(usable).collect()
}

fn provider(host: &Host, network: &Network) -> Vec<Finding> {
    let directory = &network.conf_dir;
    let conflists = conflists(host, network);
    let Some(first) = conflists.first() else {
        return vec![without_conflist(network)];
    };
    let file = directory.join(first);
    let text = host.read(&file).unwrap_or_default();
    match serde_json::from_str::<Conflist>(&text) {
        Ok(conflist) => plugins(host, network, &file, &conflist),
        Err(error) => vec![Finding::lacks(
            AREA,
            "conflist",
            format!("{}: {error}", file.display()),
            "the node is NotReady: no pod gets a network",
            "repair or remove the file",
        )],
    }
}

fn without_conflist(network: &Network) -> Finding {
    let directory = network.conf_dir.display();
    let embedded = &network.embedded;
    if embedded.enabled {
        let detail = format!(
            "embedded bridge {} {}; no CNI conflist in {directory}",
            embedded.bridge, embedded.subnet
        );
        return Finding::has(AREA, "provider", detail);
    }
    Finding::lacks(
        AREA,
        "provider",
        format!("no CNI conflist in {directory}, and the embedded network is off"),
        "the node is NotReady until a network add-on writes one",
        "install a network add-on, or set network.embedded.enabled = true",
    )
}

fn plugins(host: &Host, network: &Network, file: &Path, conflist: &Conflist) -> Vec<Finding> {
    let name = conflist.name.as_deref().unwrap_or("unnamed");
    let mut kinds: Vec<&str> = conflist.kind.as_deref().into_iter().collect();
    for plugin in &conflist.plugins {
        kinds.push(&plugin.kind);
        kinds.extend(plugin.ipam.as_ref().and_then(|ipam| ipam.kind.as_deref()));
    }
    let mut findings = vec![Finding::has(
        AREA,
        "provider",
        format!("{name} from {}", file.display()),
    )];
    for kind in kinds {
        findings.push(match find(host, &network.bin_dirs, kind) {
            Some(path) => Finding::has(AREA, format!("plugin {kind}"), path.display().to_string()),
            None => Finding::lacks(
                AREA,
                format!("plugin {kind}"),
                format!("not in {}", listed(&network.bin_dirs)),
                "pods stay in ContainerCreating: their network cannot be made",
                "install the plugin there, or name its directory in network.bin_dirs",
            ),
        });
    }
    findings
}

fn find(host: &Host, directories: &[PathBuf], kind: &str) -> Option<PathBuf> {
    let candidates = directories.iter().map(|directory| directory.join(kind));
    candidates.into_iter().find(|path| {
        let metadata = fs::metadata(host.path(path));
        metadata.is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    })
}

fn listed(directories: &[PathBuf]) -> String {
    directories
        .iter()
        .map(|directory| directory.display().to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

fn forwarding(host: &Host, embedded: bool) -> Finding {
    const WHAT: &str = "IPv4 forwarding";
    match host.read("/proc/sys/net/ipv4/ip_forward").as_deref() {
        Ok("1") => Finding::has(AREA, WHAT, "on"),
        _ if embedded => Finding::has(AREA, WHAT, "off; the embedded network turns it on"),
        _ => {
            let effect = "pods reach only this node, unless their network turns it on";
            Finding::lacks(AREA, WHAT, "off", effect, "sysctl net.ipv4.ip_forward=1")
        }
    }
}

/// Only there once br_netfilter is loaded: bridged packets then pass the rules of kube-proxy.
fn bridge_netfilter(host: &Host) -> Finding {
    const WHAT: &str = "bridge netfilter";
    if host.exists("/proc/sys/net/bridge") {
        return Finding::has(AREA, WHAT, "loaded");
    }
    let effect = "a pod may not reach a Service whose endpoint is on the same bridge";
    Finding::lacks(
        AREA,
        WHAT,
        "not loaded",
        effect,
        "modprobe br_netfilter, if kube-proxy and a bridge network are used",
    )
}
