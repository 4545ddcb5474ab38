//! Clients of streaming sessions: the real ones, built from the Go module `clients/`, and a raw one that can misbehave.

use std::io;
use std::net::{SocketAddr, TcpStream as StdTcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use k8s_cri::v1 as cri;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Status;

use crate::client::Client;
use crate::eventually::stretched;
use crate::go;
use crate::harness::Server;
use crate::host::Host;

/// The streams of a session: terminal, stdin, stdout, stderr.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shape {
    /// A terminal.
    pub tty: bool,
    /// The client feeds it.
    pub stdin: bool,
    /// The client reads its stdout.
    pub stdout: bool,
    /// The client reads its stderr.
    pub stderr: bool,
}

impl Shape {
    /// Output and errors.
    pub const OUTPUT: Self = Self {
        tty: false,
        stdin: false,
        stdout: true,
        stderr: true,
    };
    /// All three.
    pub const ALL: Self = Self {
        stdin: true,
        ..Self::OUTPUT
    };
    /// A terminal, to be typed to.
    pub const TERMINAL: Self = Self {
        tty: true,
        stdin: true,
        stdout: true,
        stderr: false,
    };
}

impl Client {
    /// Exec; the session's URL.
    ///
    /// # Errors
    /// What the runtime answers, as for every call below.
    pub async fn exec_url(&self, id: &str, command: &[&str], shape: Shape) -> Result<String, Status> {
        let request = cri::ExecRequest {
            container_id: id.to_owned(),
            cmd: command.iter().map(|part| (*part).to_owned()).collect(),
            tty: shape.tty,
            stdin: shape.stdin,
            stdout: shape.stdout,
            stderr: shape.stderr,
        };
        Ok(self.runtime.clone().exec(request).await?.into_inner().url)
    }

    /// Attach; the session's URL.
    ///
    /// # Errors
    /// As [`Self::exec_url`].
    pub async fn attach_url(&self, id: &str, shape: Shape) -> Result<String, Status> {
        let request = cri::AttachRequest {
            container_id: id.to_owned(),
            tty: shape.tty,
            stdin: shape.stdin,
            stdout: shape.stdout,
            stderr: shape.stderr,
        };
        Ok(self.runtime.clone().attach(request).await?.into_inner().url)
    }

    /// PortForward; the session's URL.
    ///
    /// # Errors
    /// As [`Self::exec_url`].
    pub async fn port_forward_url(&self, pod: &str, ports: &[i32]) -> Result<String, Status> {
        let request = cri::PortForwardRequest {
            pod_sandbox_id: pod.to_owned(),
            port: ports.to_vec(),
        };
        Ok(self.runtime.clone().port_forward(request).await?.into_inner().url)
    }
}

/// The program of `clients/`; or why there is none.
///
/// # Errors
/// As [`go::program`].
pub fn go_client() -> Result<PathBuf, String> {
    go::program("streaming-client", "clients", ".")
}

/// Runs the Go client on the server's host, to its end.
///
/// # Panics
/// When it cannot be run.
pub async fn run_go(server: &Server, client: &Path, arguments: &[&str], input: Vec<u8>) -> Output {
    let mut command = Command::new(client);
    command.args(arguments);
    server.output(command, input).await
}

/// A connection of bytes, for what no decent client does.
pub struct Raw {
    /// The socket; what was read with the answer's head is in `read`.
    pub socket: TcpStream,
    read: Vec<u8>,
}

/// `http://host:port/path` in its parts.
///
/// # Panics
/// When it is none.
pub fn parts(url: &str) -> (SocketAddr, String) {
    let rest = url.split_once("://").expect("a URL").1;
    let (address, path) = rest.split_once('/').expect("a path");
    (
        address.parse().expect("an address with a port"),
        format!("/{path}"),
    )
}

impl Raw {
    /// Connects from the server's host.
    ///
    /// # Errors
    /// That of connect(2).
    pub async fn connect(host: &Host, address: SocketAddr) -> io::Result<Self> {
        let socket = host.enter(move || StdTcpStream::connect(address)).await?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket: TcpStream::from_std(socket)?,
            read: Vec::new(),
        })
    }

    /// Sends a request's head; the answer's status and head.
    ///
    /// # Errors
    /// That of the socket.
    pub async fn request(&mut self, path: &str, headers: &[(&str, &str)]) -> io::Result<(u16, String)> {
        let mut head = format!("GET {path} HTTP/1.1\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.socket.write_all(head.as_bytes()).await?;
        loop {
            if let Some(end) = self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                let rest = self.read.split_off(end + 4);
                let head = std::mem::replace(&mut self.read, rest);
                let head = String::from_utf8_lossy(&head).into_owned();
                let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
                return Ok((status.unwrap_or(0), head));
            }
            if self.socket.read_buf(&mut self.read).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Opens a WebSocket session by its URL.
    ///
    /// # Panics
    /// When the server does not agree.
    pub async fn websocket(host: &Host, url: &str, protocol: &str) -> Self {
        let (address, path) = parts(url);
        let mut raw = Self::connect(host, address).await.expect("the server listens");
        let (status, head) = raw
            .request(&path, &websocket_headers(&address.to_string(), protocol))
            .await
            .expect("an answer");
        assert_eq!(status, 101, "{head}");
        raw
    }

    /// Sends a message to a channel.
    ///
    /// # Errors
    /// That of the socket.
    pub async fn send(&mut self, channel: u8, bytes: &[u8]) -> io::Result<()> {
        let length = bytes.len() + 1;
        let mut frame = vec![0x82];
        match u16::try_from(length) {
            Ok(length @ ..126) => frame.push(0x80 | length as u8),
            Ok(length) => {
                frame.push(0xfe);
                frame.extend(length.to_be_bytes());
            }
            Err(_) => {
                frame.push(0xff);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        // A mask of zeros changes nothing.
        frame.extend([0; 4]);
        frame.push(channel);
        frame.extend(bytes);
        self.socket.write_all(&frame).await
    }

    /// The next message with anything in it: its channel, its bytes. `None` when the server has said goodbye.
    ///
    /// # Panics
    /// When the connection breaks off without a goodbye, or nothing comes for a minute.
    pub async fn message(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            let (opcode, payload) = tokio::time::timeout(stretched(Duration::from_secs(60)), self.frame())
                .await
                .expect("a message within a minute")
                .expect("a goodbye before the end");
            match (opcode, payload.split_first()) {
                (8, _) => return None,
                (2, Some((channel, bytes))) if !bytes.is_empty() => return Some((*channel, bytes.to_vec())),
                _ => {}
            }
        }
    }

    /// All that comes until the goodbye, by channel: stdout, stderr, error.
    ///
    /// # Panics
    /// As [`Self::message`].
    pub async fn all(mut self) -> [Vec<u8>; 3] {
        let mut all = [const { Vec::new() }; 3];
        while let Some((channel, bytes)) = self.message().await {
            let index = usize::from(channel).checked_sub(1).expect("not stdin");
            all[index].extend(bytes);
        }
        all
    }

    async fn frame(&mut self) -> io::Result<(u8, Vec<u8>)> {
        self.fill(2).await?;
        let (opcode, short) = (self.read[0] & 0x0f, self.read[1] & 0x7f);
        let extended = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        self.fill(2 + extended).await?;
        let number = |bytes: &[u8]| bytes.iter().fold(0, |all, byte| all << 8 | usize::from(*byte));
        let length = match extended {
            0 => usize::from(short),
            _ => number(&self.read[2..2 + extended]),
        };
        self.fill(2 + extended + length).await?;
        let rest = self.read.split_off(2 + extended + length);
        let frame = std::mem::replace(&mut self.read, rest);
        Ok((opcode, frame[2 + extended..].to_vec()))
    }

    async fn fill(&mut self, wanted: usize) -> io::Result<()> {
        while self.read.len() < wanted {
            if self.socket.read_buf(&mut self.read).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}

/// What a WebSocket client says.
pub fn websocket_headers<'a>(host: &'a str, protocol: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("Host", host),
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Protocol", protocol),
    ]
}
