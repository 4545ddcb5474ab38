//! PortForward: checks the request, and gives the URL of its session.

use cri_api::v1;

use crate::app::App;
use crate::streaming::port_forward::{Request, ports};
use crate::{Result, streaming};

/// Answers with a URL that is good for one session within a minute.
///
/// # Errors
/// [`Error::State`](crate::Error::State) when the pod is not ready, [`Error::Invalid`](crate::Error::Invalid) for a port
/// that is none.
pub fn port_forward(app: &App, request: &v1::PortForwardRequest) -> Result<v1::PortForwardResponse> {
    let pod = app.registry.pod(&request.pod_sandbox_id)?;
    pod.ready()?;
    let ports = ports(&request.port)?;
    let url = app
        .streaming
        .announce(streaming::Request::PortForward(Request { pod, ports }))?;
    Ok(v1::PortForwardResponse { url })
}
