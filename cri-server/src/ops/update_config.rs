//! UpdateRuntimeConfig.

use std::sync::Arc;

use cri_api::v1;

use crate::app::App;
use crate::{Error, Result};

/// Takes over the subnets that the cluster gave this node. Pods that stand keep their addresses.
///
/// # Errors
/// [`Error::Invalid`] for what is no subnet, [`Error::Network`] when the embedded network cannot have it.
pub async fn update(app: &Arc<App>, config: Option<v1::RuntimeConfig>) -> Result<()> {
    let cidr = config
        .and_then(|config| config.network_config)
        .unwrap_or_default()
        .pod_cidr;
    // Kubelet calls with nothing as long as the node has no subnet yet.
    if cidr.is_empty() {
        return Ok(());
    }
    let subnets = cidr.split(',').map(|part| {
        let subnet = part.trim().parse::<ipnet::IpNet>();
        subnet.map_err(|_| {
            Error::invalid(
                "runtime_config.network_config.pod_cidr",
                format!("{part:?} is no subnet such as 10.1.0.0/24"),
            )
        })
    });
    let subnets = subnets.collect::<Result<Vec<_>>>()?;
    tracing::info!(pod_cidr = cidr, "pods get addresses of the node's subnet");
    Ok(app.network.set_pod_cidr(subnets).await?)
}
