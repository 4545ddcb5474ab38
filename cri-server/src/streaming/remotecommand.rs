//! remotecommand: the five streams of a command, whatever carries them.
//!
//! | Stream | SPDY `streamType` | WebSocket channel | Direction |
//! |---|---|---|---|
//! | stdin | `stdin` | 0 | from the client |
//! | stdout | `stdout` | 1 | to the client |
//! | stderr | `stderr` | 2 | to the client, not with a terminal |
//! | error | `error` | 3 | to the client: how it ended |
//! | resize | `resize` | 4 | from the client, with a terminal: `{"Width":80,"Height":24}` |

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::channel::{Activity, Disconnected, Receiver, Sender};
use super::link::Link;
use super::protocol::Version;
use super::spdy;
use super::spdy::connection::Opened;
use super::status::Ending;
use super::websocket;
use super::websocket::connection::Codec;

/// How long a client may take to open the streams that it has asked for.
const OPENING: Duration = Duration::from_secs(30);

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

/// Which streams a command has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// It has a terminal: stdout is the terminal's output, and there is no stderr.
    pub tty: bool,
    /// The client feeds it.
    pub stdin: bool,
    /// The client reads its stdout.
    pub stdout: bool,
    /// The client reads its stderr.
    pub stderr: bool,
}

/// The streams of a session, all open.
pub struct Streams {
    /// From the client.
    pub stdin: Option<Receiver>,
    /// To the client.
    pub stdout: Option<Sender>,
    /// To the client.
    pub stderr: Option<Sender>,
    /// From the client: sizes of its terminal.
    pub resize: Option<Receiver>,
    /// How it ends.
    pub end: End,
}

/// The part of a session that is left when its streams have ended.
pub struct End {
    error: Sender,
    version: Version,
    link: Link,
    idle: Duration,
}

/// A session whose streams were not opened.
#[derive(Debug, thiserror::Error)]
pub enum NotOpened {
    /// The client has gone.
    #[error(transparent)]
    Disconnected(#[from] Disconnected),
    /// The client did not open all of them in time.
    #[error("the client did not open its streams in time")]
    Late,
    /// A stream that no command has, or for the second time.
    #[error("unexpected stream of type {0:?}")]
    Unexpected(String),
}

/// The streams that have been opened so far.
#[derive(Default)]
struct Opening {
    stdin: Option<Receiver>,
    stdout: Option<Sender>,
    stderr: Option<Sender>,
    error: Option<Sender>,
    resize: Option<Receiver>,
}

impl Opening {
    fn take(&mut self, opened: Opened) -> Result<(), NotOpened> {
        let kind = opened.headers.get("streamtype").unwrap_or_default();
        let taken = match kind {
            "stdin" => self.stdin.replace(opened.receiver).is_none(),
            "resize" => self.resize.replace(opened.receiver).is_none(),
            "stdout" => self.stdout.replace(opened.sender).is_none(),
            "stderr" => self.stderr.replace(opened.sender).is_none(),
            "error" => self.error.replace(opened.sender).is_none(),
            _ => false,
        };
        match taken {
            true => Ok(()),
            false => Err(NotOpened::Unexpected(kind.chars().take(32).collect())),
        }
    }

    fn is_complete(&self, shape: Shape, version: Version) -> bool {
        self.error.is_some()
            && self.stdin.is_some() == shape.stdin
            && self.stdout.is_some() == shape.stdout
            && self.stderr.is_some() == shape.stderr
            && self.resize.is_some() == (shape.tty && version >= Version::V3)
    }
}

impl Streams {
    /// Waits until a client has opened its streams.
    ///
    /// # Errors
    /// [`NotOpened`]
    pub async fn over_spdy<I>(
        io: I,
        version: Version,
        shape: Shape,
        idle: Duration,
    ) -> Result<Self, NotOpened>
    where
        I: AsyncRead + AsyncWrite + Send + 'static,
    {
        let mut connection = spdy::connection::Connection::serve(io, Activity::default());
        let mut opening = Opening::default();
        let complete = async {
            while !opening.is_complete(shape, version) {
                opening.take(connection.opened.recv().await.ok_or(Disconnected)?)?;
            }
            Ok(())
        };
        tokio::time::timeout(OPENING, complete)
            .await
            .unwrap_or(Err(NotOpened::Late))?;
        Ok(Self {
            stdin: opening.stdin,
            stdout: opening.stdout,
            stderr: opening.stderr,
            resize: opening.resize,
            end: End {
                error: opening.error.ok_or(Disconnected)?,
                version,
                link: connection.link,
                idle,
            },
        })
    }

    /// Channels need no opening; an empty message tells the client that they are there.
    ///
    /// # Errors
    /// [`NotOpened::Disconnected`]
    pub async fn over_websocket<I>(
        io: I,
        (version, codec): (Version, Codec),
        shape: Shape,
        idle: Duration,
    ) -> Result<Self, NotOpened>
    where
        I: AsyncRead + AsyncWrite + Send + 'static,
    {
        let wanted = [(STDIN, shape.stdin), (RESIZE, shape.tty)];
        let inputs: Vec<u8> = wanted
            .iter()
            .filter(|(_, wanted)| *wanted)
            .map(|(c, _)| *c)
            .collect();
        let mut connection =
            websocket::connection::Connection::serve(io, codec, &inputs, Activity::default());
        let mut stdout = shape.stdout.then(|| connection.sender(STDOUT));
        let mut stderr = shape.stderr.then(|| connection.sender(STDERR));
        let mut error = connection.sender(ERROR);
        let lowest = stdout.as_mut().or(stderr.as_mut()).unwrap_or(&mut error);
        lowest.send(bytes::Bytes::new()).await?;
        Ok(Self {
            stdin: connection.receiver(STDIN),
            resize: connection.receiver(RESIZE),
            stdout,
            stderr,
            end: End {
                error,
                version,
                link: connection.link,
                idle,
            },
        })
    }
}

impl End {
    /// Resolves when the client is gone, or nothing has moved for too long.
    pub async fn closed(&self) {
        self.link.closed(self.idle).await;
    }

    /// Tells how it ended, behind all that was sent, and closes.
    pub async fn tell(mut self, ending: &Ending) {
        let told = self.error.send(ending.render(self.version).into()).await;
        if told.is_ok() && self.error.finish().await.is_ok() {
            self.link.finish(self.idle).await;
        }
    }
}
