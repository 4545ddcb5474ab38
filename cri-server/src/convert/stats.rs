//! What containers and pods use, in CRI's words.

use cri_api::v1;
use runtime::cgroup::usage::{CpuUsage, MemoryUsage, Pressure, Stall, Usage};

use crate::container::Container;
use crate::pod::Pod;
use crate::stats::{ContainerSample, Interface, LayerSize, PodSample};
use crate::time::Nanos;

/// The link by which a pod reaches its network.
const DEFAULT_LINK: &str = "eth0";

fn some(value: u64) -> Option<v1::UInt64Value> {
    Some(v1::UInt64Value { value })
}

/// One container. `layers` is the directory that writable layers are in.
pub fn container(container: &Container, sample: &ContainerSample, layers: &str) -> v1::ContainerStats {
    let config = &container.record.config;
    let usage = &sample.usage;
    v1::ContainerStats {
        attributes: Some(v1::ContainerAttributes {
            id: container.record.id.to_string(),
            metadata: Some(super::container::metadata(&config.name)),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        }),
        cpu: usage
            .cpu
            .map(|counted| cpu(sample.at, counted, sample.nano_cores, usage)),
        memory: usage
            .memory
            .as_ref()
            .map(|counted| memory(sample.at, counted, usage)),
        writable_layer: sample.layer.map(|size| layer(size, layers)),
        swap: usage.memory.as_ref().and_then(|counted| swap(sample.at, counted)),
        io: io(sample.at, usage),
    }
}

/// One pod with its running containers.
pub fn pod(pod: &Pod, sample: &PodSample, layers: &str) -> v1::PodSandboxStats {
    let config = &pod.record.config;
    let usage = &sample.usage;
    v1::PodSandboxStats {
        attributes: Some(v1::PodSandboxAttributes {
            id: pod.id().to_string(),
            metadata: Some(super::pod::metadata(&config.name)),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        }),
        linux: Some(v1::LinuxPodSandboxStats {
            cpu: usage
                .cpu
                .map(|counted| cpu(sample.at, counted, sample.nano_cores, usage)),
            memory: usage
                .memory
                .as_ref()
                .map(|counted| memory(sample.at, counted, usage)),
            network: sample.network.as_deref().map(|links| network(sample.at, links)),
            process: Some(v1::ProcessUsage {
                timestamp: sample.at,
                process_count: some(sample.processes),
            }),
            containers: sample
                .containers
                .iter()
                .map(|(member, sample)| container(member, sample, layers))
                .collect(),
            io: io(sample.at, usage),
        }),
        windows: None,
    }
}

fn cpu(timestamp: Nanos, cpu: CpuUsage, nano_cores: Option<u64>, usage: &Usage) -> v1::CpuUsage {
    v1::CpuUsage {
        timestamp,
        usage_core_nano_seconds: some(cpu.total_ns),
        usage_nano_cores: nano_cores.and_then(some),
        psi: usage.pressure.cpu.map(psi),
    }
}

fn memory(timestamp: Nanos, memory: &MemoryUsage, usage: &Usage) -> v1::MemoryUsage {
    v1::MemoryUsage {
        timestamp,
        working_set_bytes: some(memory.working_set()),
        available_bytes: memory.available().and_then(some),
        usage_bytes: some(memory.usage),
        rss_bytes: some(memory.anon),
        page_faults: some(memory.page_faults),
        major_page_faults: some(memory.major_page_faults),
        psi: usage.pressure.memory.map(psi),
    }
}

fn swap(timestamp: Nanos, memory: &MemoryUsage) -> Option<v1::SwapUsage> {
    let swap = memory.swap?;
    Some(v1::SwapUsage {
        timestamp,
        swap_available_bytes: swap
            .limit
            .and_then(|limit| some(limit.saturating_sub(swap.usage))),
        swap_usage_bytes: some(swap.usage),
    })
}

fn io(timestamp: Nanos, usage: &Usage) -> Option<v1::IoUsage> {
    usage.pressure.io.map(|pressure| v1::IoUsage {
        timestamp,
        psi: Some(psi(pressure)),
    })
}

fn psi(pressure: Pressure) -> v1::PsiStats {
    let line = |stall: Stall| v1::PsiData {
        total: stall.total_ns,
        avg10: stall.avg10,
        avg60: stall.avg60,
        avg300: stall.avg300,
    };
    v1::PsiStats {
        full: Some(line(pressure.full)),
        some: Some(line(pressure.some)),
    }
}

fn layer(size: LayerSize, layers: &str) -> v1::FilesystemUsage {
    v1::FilesystemUsage {
        timestamp: size.at,
        fs_id: Some(v1::FilesystemIdentifier {
            mountpoint: layers.to_owned(),
        }),
        used_bytes: some(size.bytes),
        inodes_used: some(size.inodes),
    }
}

fn network(timestamp: Nanos, links: &[Interface]) -> v1::NetworkUsage {
    let interfaces: Vec<_> = links.iter().map(interface).collect();
    let default = interfaces.iter().find(|link| link.name == DEFAULT_LINK);
    v1::NetworkUsage {
        timestamp,
        default_interface: default.or(interfaces.first()).cloned(),
        interfaces,
    }
}

fn interface(link: &Interface) -> v1::NetworkInterfaceUsage {
    v1::NetworkInterfaceUsage {
        name: link.name.clone(),
        rx_bytes: some(link.received.bytes),
        rx_errors: some(link.received.errors),
        tx_bytes: some(link.sent.bytes),
        tx_errors: some(link.sent.errors),
    }
}

/// Whether a container is among those asked for.
pub fn matches_container(filter: Option<&v1::ContainerStatsFilter>, container: &Container) -> bool {
    filter.is_none_or(|filter| {
        container.record.id.as_str().starts_with(&filter.id)
            && container.record.pod.as_str().starts_with(&filter.pod_sandbox_id)
            && super::pod::has_labels(&filter.label_selector, &container.record.config.labels)
    })
}

/// Whether a pod is among those asked for.
pub fn matches_pod(filter: Option<&v1::PodSandboxStatsFilter>, pod: &Pod) -> bool {
    filter.is_none_or(|filter| {
        pod.id().as_str().starts_with(&filter.id)
            && super::pod::has_labels(&filter.label_selector, &pod.record.config.labels)
    })
}
