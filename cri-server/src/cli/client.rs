//! The way to a running daemon: its socket, spoken to by the clients of `cri-api`.

use std::io;
use std::path::{Path, PathBuf};

use cri_api::MAX_MESSAGE_SIZE;
use cri_api::admin::admin_client::AdminClient;
use cri_api::v1::image_service_client::ImageServiceClient;
use cri_api::v1::runtime_service_client::RuntimeServiceClient;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Response, Status};

use super::{CliError, Result};

/// A daemon that has taken the connection.
#[derive(Debug, Clone)]
pub(super) struct Daemon {
    socket: PathBuf,
    channel: Channel,
}

impl Daemon {
    /// Connects once, so that an absent daemon is told from one that refuses a call.
    pub(super) async fn connect(socket: &Path) -> Result<Self> {
        let down = |source| CliError::Down {
            socket: socket.to_owned(),
            source,
        };
        let path = socket.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The address only fills the :authority header; the connector knows the socket.
        let endpoint = Endpoint::from_static("http://localhost");
        match endpoint.connect_with_connector(connector).await {
            Ok(channel) => Ok(Self {
                socket: socket.to_owned(),
                channel,
            }),
            Err(error) => Err(down(io_cause(error))),
        }
    }

    pub(super) fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_SIZE)
    }

    pub(super) fn pods(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_SIZE)
    }

    pub(super) fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_SIZE)
    }

    /// The answer to a call, or what to tell the user.
    pub(super) fn answer<T>(
        &self,
        call: &'static str,
        outcome: std::result::Result<Response<T>, Status>,
    ) -> Result<T> {
        outcome
            .map(Response::into_inner)
            .map_err(|status| self.failed(call, &status))
    }

    pub(super) fn failed(&self, call: &'static str, status: &Status) -> CliError {
        let message = status.message().to_owned();
        match status.code() {
            Code::Unavailable => CliError::NoAnswer {
                socket: self.socket.clone(),
                message,
            },
            Code::Unimplemented if message.is_empty() => CliError::Refused {
                call,
                message: "the daemon does not know this call: it is older".into(),
            },
            _ => CliError::Refused { call, message },
        }
    }
}

/// The system's own error below what the transport wraps around it.
fn io_cause(error: tonic::transport::Error) -> io::Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(current) = cause {
        if let Some(errno) = current
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error)
        {
            return io::Error::from_raw_os_error(errno);
        }
        cause = current.source();
    }
    io::Error::other(error)
}

#[cfg(test)]
mod tests {
    use std::process::ExitCode;

    use super::*;

    #[tokio::test]
    async fn an_absent_daemon_is_told_by_its_errno_and_exit_code() {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("crisp.sock");
        let missing = Daemon::connect(&socket).await.expect_err("nobody is there");
        assert!(
            missing.to_string().contains("No such file or directory"),
            "{missing}"
        );
        assert_eq!(missing.exit_code(), ExitCode::from(3));

        drop(std::os::unix::net::UnixListener::bind(&socket).expect("a socket"));
        let dead = Daemon::connect(&socket).await.expect_err("nobody listens");
        assert!(dead.to_string().contains("Connection refused"), "{dead}");
        assert!(
            dead.to_string()
                .ends_with("start it with `systemctl start crisp`, or run `crisp`"),
            "{dead}"
        );
    }
}
