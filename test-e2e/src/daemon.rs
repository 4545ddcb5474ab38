//! Starting the daemon and knowing when it is ready: by systemd's own notification.

use std::ffi::OsString;
use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tokio::net::UnixDatagram;

use crate::built;
use crate::client::Client;
use crate::eventually::{stretched, within};
use crate::host::Host;
use crate::layout::Layout;
use crate::process::Process;

/// Spawns the daemon on the host and waits for its READY=1, then connects.
pub(crate) async fn spawn(
    host: &Host,
    layout: &Layout,
    environment: &[(String, String)],
    wrapper: &[String],
) -> Result<(Process, Client), String> {
    let notify = layout.path("notify");
    let _ = fs::remove_file(&notify);
    let readiness =
        UnixDatagram::bind(&notify).map_err(|error| format!("binding {}: {error}", notify.display()))?;
    let mut words: Vec<OsString> = wrapper.iter().map(Into::into).collect();
    words.extend([
        built::crisp().into(),
        "--config".into(),
        layout.path("config.toml").into(),
    ]);
    let mut command = Command::new(&words[0]);
    let log = File::options()
        .create(true)
        .append(true)
        .open(layout.path("log"))
        .map_err(|error| error.to_string())?;
    let errors = log.try_clone().map_err(|error| error.to_string())?;
    command
        .args(&words[1..])
        .envs(environment.iter().map(|(key, value)| (key, value)))
        .env("NOTIFY_SOCKET", &notify)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors);
    let child = host
        .enter(move || command.spawn())
        .await
        .map_err(|error| error.to_string())?;
    let mut process = Process::watch(child);
    let mut message = [0; 1024];
    let ready = async {
        loop {
            let length = readiness
                .recv(&mut message)
                .await
                .map_err(|error| error.to_string())?;
            if message[..length]
                .split(|byte| *byte == b'\n')
                .any(|line| line == b"READY=1")
            {
                return Ok::<(), String>(());
            }
        }
    };
    tokio::select! {
        ready = ready => ready?,
        status = process.exited() => return Err(format!("it exited with {status} before it was ready")),
        () = tokio::time::sleep(stretched(Duration::from_secs(30))) => {
            process.signal(Signal::KILL);
            return Err("no READY=1 on NOTIFY_SOCKET for 30 s".to_owned());
        }
    }
    let client = within(
        Duration::from_secs(5),
        "a connection to the socket of a ready daemon",
        || async { Client::connect(&layout.path("crisp.sock")).await.ok() },
    )
    .await;
    Ok((process, client))
}
