//! What the daemon tells its surroundings: log lines on stderr, and its state to the service manager.

use std::io::{self, IsTerminal};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Log, LogFormat};

/// Starts logging to stderr. A second call changes nothing.
pub fn init(log: &Log) {
    // Without a terminal there are no colours, and the journal has a clock of its own.
    let subscriber = subscriber(log, io::stderr, io::stderr().is_terminal());
    let _ = subscriber.try_init();
}

fn subscriber<W>(log: &Log, writer: W, colours: bool) -> Box<dyn tracing::Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // The configuration has been checked, so the filter is one.
    let filter = filter(&log.level).unwrap_or_default();
    let builder = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_writer(writer)
        .with_ansi(colours);
    match log.format {
        LogFormat::Json => Box::new(
            builder
                .json()
                .flatten_event(true)
                .with_current_span(true)
                .finish()
                .with(filter),
        ),
        LogFormat::Text if std::env::var_os("JOURNAL_STREAM").is_some() => {
            Box::new(builder.without_time().with_target(false).finish().with(filter))
        }
        LogFormat::Text => Box::new(builder.with_target(false).finish().with(filter)),
    }
}

/// What `log.level` says: a level, or several `MODULE=LEVEL` with commas between them, or both.
///
/// # Errors
/// The part that is neither.
pub(crate) fn filter(text: &str) -> Result<Targets, String> {
    let mut filter = Targets::new();
    for part in text.split(',').map(str::trim) {
        let (module, level) = part
            .split_once('=')
            .map_or((None, part), |(module, level)| (Some(module), level));
        let level = Some(level)
            .filter(|level| !level.is_empty())
            .and_then(|level| level.parse::<LevelFilter>().ok())
            .ok_or_else(|| format!("{part:?} does not say a level"))?;
        filter = match module {
            None => filter.with_default(level),
            Some(module) if is_module(module) => filter.with_target(module, level),
            Some(module) => return Err(format!("{module:?} is no module's name")),
        };
    }
    Ok(filter)
}

fn is_module(name: &str) -> bool {
    !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_:".contains(c))
}

/// Tells the service manager that calls are answered from now on: sd_notify(3), `READY=1`.
pub fn notify_ready() {
    notify("READY=1");
}

/// Tells the service manager that the daemon is on its way out: sd_notify(3), `STOPPING=1`.
pub fn notify_stopping() {
    notify("STOPPING=1");
}

fn notify(state: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    if let Err(error) = send(socket.as_bytes(), state) {
        tracing::warn!(socket = %socket.display(), %error, "the service manager cannot be told {state}");
    }
}

/// One datagram; an address that starts with `@` is in the abstract namespace (unix(7)).
fn send(address: &[u8], state: &str) -> io::Result<()> {
    let address = match address.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(Path::new(std::ffi::OsStr::from_bytes(address)))?,
    };
    let socket = UnixDatagram::unbound()?;
    // A service manager that does not read must not hold the daemon up.
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state.as_bytes(), &address).map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn the_service_manager_hears_on_a_path_and_on_an_abstract_name() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("notify");
        let name = format!("crisp-test-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&name).expect("an address");
        for (receiver, address) in [
            (
                UnixDatagram::bind(&path).expect("a socket"),
                path.as_os_str().as_bytes().to_vec(),
            ),
            (
                UnixDatagram::bind_addr(&abstract_address).expect("a socket"),
                format!("@{name}").into_bytes(),
            ),
        ] {
            send(&address, "READY=1").expect("sent");
            let mut buffer = [0; 16];
            let length = receiver.recv(&mut buffer).expect("received");
            assert_eq!(&buffer[..length], b"READY=1");
        }
        assert!(send(b"/nonexistent/notify", "READY=1").is_err());
    }

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_filter_is_levels_and_modules_with_levels() {
        use tracing::Level;
        let parsed = filter("warn, cri_server::ops=debug,h2=off").expect("a filter");
        assert!(parsed.would_enable("cri_server::ops::create", &Level::DEBUG));
        assert!(parsed.would_enable("image", &Level::WARN) && !parsed.would_enable("image", &Level::INFO));
        assert!(!parsed.would_enable("h2::proto", &Level::ERROR));
        for wrong in ["", "loud", "info,[", "info,", "a b=info", "=info", "image=loud"] {
            assert!(filter(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn json_lines_carry_their_fields_and_the_filter_holds() {
        let captured = Captured::default();
        let log = Log {
            level: "info".into(),
            format: LogFormat::Json,
        };
        let writer = captured.clone();
        let subscriber = subscriber(&log, move || writer.clone(), false);
        tracing::subscriber::with_default(subscriber, || {
            tracing::debug!("not this");
            tracing::info!(pod = "ns/web", "started");
        });
        let text = String::from_utf8(captured.0.lock().expect("no panic").clone()).expect("UTF-8");
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        assert_eq!(lines.len(), 1, "{text}");
        assert_eq!(
            (&lines[0]["pod"], &lines[0]["message"]),
            (&"ns/web".into(), &"started".into())
        );
    }
}
