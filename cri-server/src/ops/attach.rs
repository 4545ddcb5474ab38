//! Attach: checks the request, and gives the URL of its session.

use cri_api::v1;

use super::exec::shape;
use crate::app::App;
use crate::streaming::attach::Request;
use crate::{Result, streaming};

/// Answers with a URL that is good for one session within a minute.
///
/// # Errors
/// [`Error::State`](crate::Error::State) when the container does not run, [`Error::Invalid`](crate::Error::Invalid) for a
/// set of streams that cannot be.
pub fn attach(app: &App, request: &v1::AttachRequest) -> Result<v1::AttachResponse> {
    let (pod, container) = app.registry.container(&request.container_id)?;
    container.running()?;
    pod.ready()?;
    let shape = shape(request.tty, request.stdin, request.stdout, request.stderr)?;
    let url = app.streaming.announce(streaming::Request::Attach(Request {
        pod,
        container,
        shape,
    }))?;
    Ok(v1::AttachResponse { url })
}
