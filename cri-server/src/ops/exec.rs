//! Exec: checks the request, and gives the URL of its session.

use cri_api::v1;

use crate::app::App;
use crate::streaming::exec::Request;
use crate::streaming::remotecommand::Shape;
use crate::{Error, Result, spec, streaming};

/// Answers with a URL that is good for one session within a minute.
///
/// # Errors
/// [`Error::State`] when the container does not run, [`Error::Invalid`] for a command or a set of streams that cannot be.
pub fn exec(app: &App, request: v1::ExecRequest) -> Result<v1::ExecResponse> {
    let (pod, container) = app.registry.container(&request.container_id)?;
    container.running()?;
    pod.ready()?;
    let shape = shape(request.tty, request.stdin, request.stdout, request.stderr)?;
    // Refused here, where the client still reads errors with their codes.
    spec::exec(&container.record, &request.cmd, shape.tty)?;
    let url = app.streaming.announce(streaming::Request::Exec(Request {
        pod,
        container,
        command: request.cmd,
        shape,
    }))?;
    Ok(v1::ExecResponse { url })
}

/// The streams that a request names, if a session can have them.
///
/// # Errors
/// [`Error::Invalid`]
pub(super) fn shape(tty: bool, stdin: bool, stdout: bool, stderr: bool) -> Result<Shape> {
    if tty && stderr {
        return Err(Error::invalid(
            "stderr",
            "must not be asked for together with tty: a terminal has one output",
        ));
    }
    if !(stdin || stdout || stderr) {
        return Err(Error::invalid(
            "stdin",
            "one of stdin, stdout and stderr must be asked for",
        ));
    }
    Ok(Shape {
        tty,
        stdin,
        stdout,
        stderr,
    })
}
