//! A conversation with systemd: one connection, a call or two, the end of a job.
//!
//! ```text
//!   connect ─► "\0AUTH EXTERNAL <uid>" ─► OK ─► BEGIN ─► (through the bus: Hello, AddMatch) ─► call ─► return
//!                                                                                               └─► JobRemoved
//! ```
//! The documented way is the system bus. Where none runs, systemd's own socket answers root in the same words, without
//! a broker: there every signal arrives unasked. A connection lives for one operation, so no signal of somebody else's
//! job ever piles up in it, and no operation waits for another's.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::wire::{Head, Kind, Message, PREFIX, Reader, Writer};

/// systemd under load, or on an emulated machine, is slow; kubelet's own limits are minutes.
const PATIENCE: Duration = Duration::from_secs(30);
/// An answer of the authentication is one short line.
const LINE_MAX: usize = 512;

const SYSTEMD: &str = "org.freedesktop.systemd1";
pub(super) const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const BUS: &str = "org.freedesktop.DBus";
const BUS_PATH: &str = "/org/freedesktop/DBus";

/// Why systemd did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// No way to it.
    #[error("connect to {path:?}: {source}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The connection broke.
    #[error("talk on the bus: {0}")]
    Io(std::io::Error),
    /// It does not take us for who we are.
    #[error("the bus refuses the authentication")]
    Authentication,
    /// Not what the D-Bus specification allows; the field that is wrong.
    #[error("not understood: {0} of a message")]
    Malformed(&'static str),
    /// It said no.
    #[error("{name}: {message}")]
    Refused {
        /// The error's name.
        name: String,
        /// Its text.
        message: String,
    },
    /// The job ended otherwise than by being done.
    #[error("the job ended as {0:?}")]
    Job(String),
    /// Nothing came in time.
    #[error("no answer for {} s", PATIENCE.as_secs())]
    Timeout,
}

impl BusError {
    /// Whether systemd has a unit of that name already.
    pub(super) fn is_unit_exists(&self) -> bool {
        matches!(self, BusError::Refused { name, .. } if name == "org.freedesktop.systemd1.UnitExists")
    }

    /// Whether systemd has no unit of that name.
    pub(super) fn is_no_such_unit(&self) -> bool {
        matches!(self, BusError::Refused { name, .. } if name == "org.freedesktop.systemd1.NoSuchUnit")
    }
}

/// Where systemd can be spoken to.
#[derive(Debug, Clone)]
pub(super) struct Places {
    /// The system bus.
    pub(super) bus: PathBuf,
    /// systemd itself.
    pub(super) private: PathBuf,
}

/// A connection on which calls are answered in turn.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    deadline: Instant,
    serial: u32,
    through_bus: bool,
    /// Signals that came while an answer was waited for.
    signals: Vec<Message>,
}

impl Connection {
    pub(super) fn open(places: &Places) -> Result<Connection, BusError> {
        let (stream, through_bus) = match UnixStream::connect(&places.bus) {
            Ok(stream) => (stream, true),
            Err(_) => {
                let stream = UnixStream::connect(&places.private).map_err(|source| BusError::Connect {
                    path: places.private.clone(),
                    source,
                })?;
                (stream, false)
            }
        };
        let mut connection = Connection {
            stream,
            deadline: Instant::now() + PATIENCE,
            serial: 0,
            through_bus,
            signals: Vec::new(),
        };
        connection.authenticate()?;
        if through_bus {
            connection.call(BUS, BUS_PATH, BUS, "Hello", ("", Vec::new()))?;
        }
        Ok(connection)
    }

    /// The peer's credentials come with the socket; the words only name them ("Authentication Protocol", `EXTERNAL`).
    fn authenticate(&mut self) -> Result<(), BusError> {
        let uid = rustix::process::geteuid().as_raw().to_string();
        let hex: String = uid.bytes().map(|digit| format!("{digit:02x}")).collect();
        self.send(format!("\0AUTH EXTERNAL {hex}\r\n").as_bytes())?;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.fill(&mut byte)?;
            line.extend(byte);
            if line.len() > LINE_MAX {
                return Err(BusError::Authentication);
            }
        }
        if !line.starts_with(b"OK ") {
            return Err(BusError::Authentication);
        }
        self.send(b"BEGIN\r\n")
    }

    /// Calls a method of systemd's manager; the body of its answer.
    pub(super) fn manager(&mut self, member: &str, body: (&str, Vec<u8>)) -> Result<Vec<u8>, BusError> {
        self.call(SYSTEMD, MANAGER_PATH, MANAGER, member, body)
    }

    /// A property of systemd's manager that is text.
    pub(super) fn manager_property(&mut self, name: &str) -> Result<String, BusError> {
        let mut body = Writer::default();
        body.text(MANAGER);
        body.text(name);
        let answer = self.call(
            SYSTEMD,
            MANAGER_PATH,
            "org.freedesktop.DBus.Properties",
            "Get",
            ("ss", body.finish()),
        )?;
        Ok(Reader::new(&answer).text_variant()?.to_owned())
    }

    /// Has the bus pass on how jobs on a unit end.
    pub(super) fn follow_jobs_of(&mut self, unit: &str) -> Result<(), BusError> {
        if !self.through_bus {
            return Ok(());
        }
        let mut body = Writer::default();
        body.text(&format!(
            "type='signal',sender='{SYSTEMD}',interface='{MANAGER}',member='JobRemoved',arg2='{unit}'"
        ));
        self.call(BUS, BUS_PATH, BUS, "AddMatch", ("s", body.finish()))
            .map(drop)
    }

    /// Waits for the end of the job that an answer names.
    pub(super) fn job_done(&mut self, answer: &[u8]) -> Result<(), BusError> {
        let job = Reader::new(answer).text()?.to_owned();
        loop {
            for signal in std::mem::take(&mut self.signals) {
                if let Some(result) = end_of(&job, &signal)? {
                    return match result {
                        "done" => Ok(()),
                        other => Err(BusError::Job(other.to_owned())),
                    };
                }
            }
            let message = self.receive()?;
            self.keep_signal(message);
        }
    }

    fn call(
        &mut self,
        destination: &str,
        path: &str,
        interface: &str,
        member: &str,
        (signature, body): (&str, Vec<u8>),
    ) -> Result<Vec<u8>, BusError> {
        self.serial += 1;
        let [destination, path, interface, member, signature] =
            [destination, path, interface, member, signature].map(str::to_owned);
        let head = Head {
            destination,
            path,
            interface,
            member,
            signature,
            ..Head::default()
        };
        let message = Message {
            kind: Kind::Call,
            serial: self.serial,
            head,
            body,
        };
        self.send(&message.encode())?;
        loop {
            let Some(message) = self.receive()? else {
                continue;
            };
            match message.kind {
                Kind::Return if message.head.reply_to == Some(self.serial) => return Ok(message.body),
                Kind::Error if message.head.reply_to == Some(self.serial) => return Err(refusal(&message)),
                _ => self.keep_signal(Some(message)),
            }
        }
    }

    /// Only the ends of jobs: systemd's own socket tells of everything that happens to any unit.
    fn keep_signal(&mut self, message: Option<Message>) {
        let job_removed =
            |message: &Message| message.kind == Kind::Signal && message.head.member == "JobRemoved";
        self.signals.extend(message.filter(job_removed));
    }

    fn receive(&mut self) -> Result<Option<Message>, BusError> {
        let mut prefix = [0; PREFIX];
        self.fill(&mut prefix)?;
        let mut bytes = prefix.to_vec();
        bytes.resize(Message::size(&prefix)?, 0);
        self.fill(&mut bytes[PREFIX..])?;
        Message::decode(&bytes)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), BusError> {
        self.stream
            .set_write_timeout(Some(self.remaining()?))
            .and_then(|()| self.stream.write_all(bytes))
            .map_err(late_or_broken)
    }

    fn fill(&mut self, mut bytes: &mut [u8]) -> Result<(), BusError> {
        while !bytes.is_empty() {
            // Anew each time: whoever sends a byte now and then must not hold us for ever.
            let remaining = self.remaining()?;
            let read = self
                .stream
                .set_read_timeout(Some(remaining))
                .and_then(|()| self.stream.read(bytes));
            match read {
                Ok(0) => return Err(BusError::Io(ErrorKind::UnexpectedEof.into())),
                Ok(count) => bytes = &mut bytes[count..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(late_or_broken(error)),
            }
        }
        Ok(())
    }

    fn remaining(&self) -> Result<Duration, BusError> {
        let remaining = self.deadline.saturating_duration_since(Instant::now());
        // A time-out of zero would be none.
        (!remaining.is_zero())
            .then_some(remaining)
            .ok_or(BusError::Timeout)
    }
}

fn late_or_broken(error: std::io::Error) -> BusError {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => BusError::Timeout,
        _ => BusError::Io(error),
    }
}

fn refusal(message: &Message) -> BusError {
    let text = if message.head.signature.starts_with('s') {
        Reader::new(&message.body).text().unwrap_or_default()
    } else {
        ""
    };
    BusError::Refused {
        name: message.head.error.clone(),
        message: text.to_owned(),
    }
}

/// `JobRemoved(u id, o job, s unit, s result)`: the result, if it is about this job.
fn end_of<'a>(job: &str, signal: &'a Message) -> Result<Option<&'a str>, BusError> {
    if signal.head.interface != MANAGER || signal.head.signature != "uoss" {
        return Ok(None);
    }
    let mut body = Reader::new(&signal.body);
    body.number()?;
    if body.text()? != job {
        return Ok(None);
    }
    let _unit = body.text()?;
    body.text().map(Some)
}
