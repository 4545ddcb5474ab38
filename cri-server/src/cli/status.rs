//! `crisp status`: the daemon's report for the engineer on call.

use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use cri_api::admin::StatusRequest;

use super::client::Daemon;
use super::output::{self, Format, age, short, table};
use super::{CliError, Result};
use crate::report::{Container, ContainerState, Network, Operation, Pod, Report};

pub(super) async fn run(socket: &Path, format: Format) -> Result<ExitCode> {
    let daemon = Daemon::connect(socket).await?;
    let answer = daemon.answer("Status", daemon.admin().status(StatusRequest {}).await)?;
    let report: Report = serde_json::from_slice(&answer.json).map_err(CliError::Report)?;
    match format {
        Format::Text => output::print(&text(&report))?,
        Format::Json => output::print_json(&report)?,
    }
    Ok(if report.network.ready {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    let daemon = &report.daemon;
    let up = age(Duration::from_secs(daemon.uptime_seconds));
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "crisp {}, process {}, up {up}, on {}",
        daemon.version,
        daemon.pid,
        daemon.socket.display()
    );
    let _ = writeln!(
        text,
        "data {}, cgroups {}, snapshots {}, layers {}, {}",
        daemon.data_dir.display(),
        daemon.cgroup,
        daemon.snapshots,
        daemon.layers,
        counted(daemon.images, "image")
    );
    text.push_str(&network(&report.network));
    text.push_str(&pods(&report.pods));
    text.push_str(&operations(&report.operations));
    for warning in &report.warnings {
        let _ = writeln!(
            text,
            "\nwarning: {}\n  effect: {}\n  remedy: {}",
            warning.lack, warning.effect, warning.remedy
        );
    }
    text
}

fn network(network: &Network) -> String {
    let attachments = counted(network.attachments, "attachment");
    match (network.ready, network.provider.as_str()) {
        (true, provider) => format!("network ready: {provider}, {attachments}\n"),
        (false, "") => format!("network NOT READY: {}\n", network.message),
        (false, provider) => format!(
            "network NOT READY: {} ({provider}, {attachments})\n",
            network.message
        ),
    }
}

fn pods(pods: &[Pod]) -> String {
    if pods.is_empty() {
        return "\nno pods\n".into();
    }
    let rows: Vec<Vec<String>> = pods.iter().flat_map(pod_rows).collect();
    format!(
        "\n{}",
        table(
            &["POD / container", "ID", "STATE", "AGE", "ADDRESS / image", "PID"],
            &rows
        )
    )
}

fn pod_rows(pod: &Pod) -> Vec<Vec<String>> {
    let name = match pod.attempt {
        0 => format!("{}/{}", pod.namespace, pod.name),
        attempt => format!("{}/{} (attempt {attempt})", pod.namespace, pod.name),
    };
    let own = vec![
        name,
        short(&pod.id).into(),
        if pod.ready { "Ready" } else { "NotReady" }.into(),
        age(Duration::from_secs(pod.age_seconds)),
        pod.addresses.join(" "),
        pod.supervisor_pid.map(|pid| pid.to_string()).unwrap_or_default(),
    ];
    std::iter::once(own)
        .chain(pod.containers.iter().map(container_row))
        .collect()
}

fn container_row(container: &Container) -> Vec<String> {
    let name = match container.attempt {
        0 => format!("  {}", container.name),
        attempt => format!("  {} (attempt {attempt})", container.name),
    };
    let (state, pid) = match &container.state {
        ContainerState::Created => ("Created".into(), String::new()),
        ContainerState::Running { pid } => ("Running".into(), pid.to_string()),
        ContainerState::Exited { code, reason } => (format!("Exited {code} {reason}"), String::new()),
        ContainerState::Unknown => ("Unknown".into(), String::new()),
    };
    let since = age(Duration::from_secs(container.age_seconds));
    vec![
        name,
        short(&container.id).into(),
        state,
        since,
        container.image.clone(),
        pid,
    ]
}

fn operations(operations: &[Operation]) -> String {
    if operations.is_empty() {
        return "\nnothing in flight\n".into();
    }
    let rows: Vec<Vec<String>> = operations
        .iter()
        .map(|operation| {
            vec![
                operation.verb.clone(),
                operation.object.clone(),
                age(Duration::from_millis(operation.age_ms)),
                operation.stage.clone(),
                age(Duration::from_millis(operation.stage_age_ms)),
                operation.waits_for.clone().unwrap_or_default(),
            ]
        })
        .collect();
    format!(
        "\n{}",
        table(
            &["IN FLIGHT", "OBJECT", "AGE", "STAGE", "SINCE", "WAITS FOR"],
            &rows
        )
    )
}

fn counted(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{self, Daemon as Own, Warning};

    fn report() -> Report {
        Report {
            version: report::VERSION,
            daemon: Own {
                version: "0.1.0".into(),
                pid: 4711,
                uptime_seconds: 90,
                socket: "/run/crisp/crisp.sock".into(),
                state_dir: "/run/crisp".into(),
                data_dir: "/var/lib/crisp".into(),
                cgroup: "cgroupfs on v2".into(),
                snapshots: "overlay".into(),
                layers: "erofs (as configured)".into(),
                images: 1,
            },
            pods: vec![Pod {
                id: "a".repeat(64),
                namespace: "shop".into(),
                name: "web".into(),
                uid: "u".into(),
                attempt: 1,
                ready: true,
                age_seconds: 7300,
                addresses: vec!["10.85.0.2".into(), "fd00:85::2".into()],
                handler: String::new(),
                supervisor_pid: Some(812),
                containers: vec![
                    Container {
                        id: "b".repeat(64),
                        name: "app".into(),
                        attempt: 0,
                        image: "nginx:1.29".into(),
                        state: ContainerState::Running { pid: 813 },
                        age_seconds: 60,
                    },
                    Container {
                        id: "c".repeat(64),
                        name: "init".into(),
                        attempt: 2,
                        image: "busybox".into(),
                        state: ContainerState::Exited {
                            code: 137,
                            reason: "OOMKilled".into(),
                        },
                        age_seconds: 61,
                    },
                ],
            }],
            network: Network {
                ready: true,
                provider: "embedded crisp0".into(),
                message: String::new(),
                attachments: 1,
            },
            operations: vec![Operation {
                verb: "RunPodSandbox".into(),
                object: "shop/db".into(),
                stage: "network".into(),
                waits_for: Some("plugin calico".into()),
                age_ms: 31_000,
                stage_age_ms: 30_500,
            }],
            warnings: vec![Warning {
                lack: "CAP_SYS_RESOURCE".into(),
                effect: "e".into(),
                remedy: "r".into(),
            }],
        }
    }

    #[test]
    fn everything_is_shown() {
        let text = text(&report());
        for line in [
            "crisp 0.1.0, process 4711, up 90s, on /run/crisp/crisp.sock",
            "network ready: embedded crisp0, 1 attachment",
            "shop/web (attempt 1)  aaaaaaaaaaaa  Ready                 2h   10.85.0.2 fd00:85::2  812",
            "  app                 bbbbbbbbbbbb  Running               60s  nginx:1.29            813",
            "  init (attempt 2)    cccccccccccc  Exited 137 OOMKilled  61s  busybox",
            "RunPodSandbox  shop/db  31s  network  30s    plugin calico",
            "warning: CAP_SYS_RESOURCE\n  effect: e\n  remedy: r",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
    }

    #[test]
    fn the_document_reads_back_and_unknown_fields_are_ignored() {
        let mut json = serde_json::to_value(report()).expect("JSON");
        assert_eq!(
            json["pods"][0]["containers"][0]["state"],
            serde_json::json!({"is": "running", "pid": 813})
        );
        json["later"] = "unknown".into();
        assert_eq!(
            serde_json::from_value::<Report>(json).expect("a report"),
            report()
        );
    }
}
