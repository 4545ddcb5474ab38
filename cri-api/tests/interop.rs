//! Our messages against those of `k8s-cri`, a client library that others wrote from the upstream definition of
//! Kubernetes 1.32: every message that both have, every field filled, through both encoders and both decoders.
//!
//! What is newer than 1.32 cannot be compared this way; the table `NEWER` pins its numbers and types instead.
//!
//! ```text
//!  random DynamicMessage ──bytes──► k8s-cri type ──JSON──► same names, same values?
//!   (from our descriptor)               │
//!          ▲                          bytes
//!          │                            ▼
//!        equal? ◄──────bytes────── our generated type
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};

use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage as _,
    Value,
};
use serde_json::Value as Json;

/// Sends encoded bytes through the two generated types of one message.
struct Peers {
    /// Decodes with k8s-cri: its view as JSON, and its own encoding.
    theirs: fn(&[u8]) -> (Json, Vec<u8>),
    /// Decodes with ours and encodes again.
    ours: fn(&[u8]) -> Vec<u8>,
}

macro_rules! peers {
    ($($message:ident),* $(,)?) => {
        BTreeMap::from([$((stringify!($message), Peers {
            theirs: |bytes| {
                let message = k8s_cri::v1::$message::decode(bytes).expect("k8s-cri decodes");
                (serde_json::to_value(&message).expect("a JSON value"), message.encode_to_vec())
            },
            ours: |bytes| cri_api::v1::$message::decode(bytes).expect("ours decodes").encode_to_vec(),
        })),*])
    };
}

/// Every message of Kubernetes 1.32, by its Rust name (`PodIp` is `PodIP` in the contract).
fn shared_messages() -> BTreeMap<&'static str, Peers> {
    peers![
        AttachRequest,
        AttachResponse,
        AuthConfig,
        CdiDevice,
        Capability,
        CheckpointContainerRequest,
        CheckpointContainerResponse,
        Container,
        ContainerAttributes,
        ContainerConfig,
        ContainerEventResponse,
        ContainerFilter,
        ContainerMetadata,
        ContainerMetrics,
        ContainerResources,
        ContainerStateValue,
        ContainerStats,
        ContainerStatsFilter,
        ContainerStatsRequest,
        ContainerStatsResponse,
        ContainerStatus,
        ContainerStatusRequest,
        ContainerStatusResponse,
        ContainerUser,
        CpuUsage,
        CreateContainerRequest,
        CreateContainerResponse,
        DnsConfig,
        Device,
        ExecRequest,
        ExecResponse,
        ExecSyncRequest,
        ExecSyncResponse,
        FilesystemIdentifier,
        FilesystemUsage,
        GetEventsRequest,
        HugepageLimit,
        IdMapping,
        Image,
        ImageFilter,
        ImageFsInfoRequest,
        ImageFsInfoResponse,
        ImageSpec,
        ImageStatusRequest,
        ImageStatusResponse,
        Int64Value,
        KeyValue,
        LinuxContainerConfig,
        LinuxContainerResources,
        LinuxContainerSecurityContext,
        LinuxContainerUser,
        LinuxPodSandboxConfig,
        LinuxPodSandboxStats,
        LinuxPodSandboxStatus,
        LinuxRuntimeConfiguration,
        LinuxSandboxSecurityContext,
        ListContainerStatsRequest,
        ListContainerStatsResponse,
        ListContainersRequest,
        ListContainersResponse,
        ListImagesRequest,
        ListImagesResponse,
        ListMetricDescriptorsRequest,
        ListMetricDescriptorsResponse,
        ListPodSandboxMetricsRequest,
        ListPodSandboxMetricsResponse,
        ListPodSandboxRequest,
        ListPodSandboxResponse,
        ListPodSandboxStatsRequest,
        ListPodSandboxStatsResponse,
        MemoryUsage,
        Metric,
        MetricDescriptor,
        Mount,
        Namespace,
        NamespaceOption,
        NetworkConfig,
        NetworkInterfaceUsage,
        NetworkUsage,
        PodIp,
        PodSandbox,
        PodSandboxAttributes,
        PodSandboxConfig,
        PodSandboxFilter,
        PodSandboxMetadata,
        PodSandboxMetrics,
        PodSandboxNetworkStatus,
        PodSandboxStateValue,
        PodSandboxStats,
        PodSandboxStatsFilter,
        PodSandboxStatsRequest,
        PodSandboxStatsResponse,
        PodSandboxStatus,
        PodSandboxStatusRequest,
        PodSandboxStatusResponse,
        PortForwardRequest,
        PortForwardResponse,
        PortMapping,
        ProcessUsage,
        PullImageRequest,
        PullImageResponse,
        RemoveContainerRequest,
        RemoveContainerResponse,
        RemoveImageRequest,
        RemoveImageResponse,
        RemovePodSandboxRequest,
        RemovePodSandboxResponse,
        ReopenContainerLogRequest,
        ReopenContainerLogResponse,
        RunPodSandboxRequest,
        RunPodSandboxResponse,
        RuntimeCondition,
        RuntimeConfig,
        RuntimeConfigRequest,
        RuntimeConfigResponse,
        RuntimeFeatures,
        RuntimeHandler,
        RuntimeHandlerFeatures,
        RuntimeStatus,
        SeLinuxOption,
        SecurityProfile,
        StartContainerRequest,
        StartContainerResponse,
        StatusRequest,
        StatusResponse,
        StopContainerRequest,
        StopContainerResponse,
        StopPodSandboxRequest,
        StopPodSandboxResponse,
        SwapUsage,
        UInt64Value,
        UpdateContainerResourcesRequest,
        UpdateContainerResourcesResponse,
        UpdateRuntimeConfigRequest,
        UpdateRuntimeConfigResponse,
        UserNamespace,
        VersionRequest,
        VersionResponse,
        WindowsContainerConfig,
        WindowsContainerResources,
        WindowsContainerSecurityContext,
        WindowsContainerStats,
        WindowsCpuGroupAffinity,
        WindowsCpuUsage,
        WindowsFilesystemUsage,
        WindowsMemoryUsage,
        WindowsNamespaceOption,
        WindowsNetworkInterfaceUsage,
        WindowsNetworkUsage,
        WindowsPodSandboxConfig,
        WindowsPodSandboxStats,
        WindowsProcessUsage,
        WindowsSandboxSecurityContext,
    ]
}

/// What came after 1.32: (message, field, number, type), by CRI changes of 1.33 to 1.37-beta.
#[rustfmt::skip]
const NEWER: &[(&str, &str, u32, &str)] = &[
    ("ContainerConfig", "stop_signal", 18, "Signal"),
    ("ContainerStatus", "stop_signal", 19, "Signal"),
    ("Mount", "image_sub_path", 10, "string"),
    ("Mount", "mount_options", 11, "repeated string"),
    ("ImageSpec", "image_ref", 20, "string"),
    ("RuntimeFeatures", "user_namespaces_host_network", 2, "bool"),
    ("RuntimeFeatures", "mount_options", 3, "bool"),
    ("ContainerStats", "io", 6, "IoUsage"),
    ("LinuxPodSandboxStats", "io", 6, "IoUsage"),
    ("CpuUsage", "psi", 4, "PsiStats"),
    ("MemoryUsage", "psi", 8, "PsiStats"),
    ("IoUsage", "timestamp", 1, "int64"),
    ("IoUsage", "psi", 2, "PsiStats"),
    ("PsiStats", "Full", 1, "PsiData"),
    ("PsiStats", "Some", 2, "PsiData"),
    ("PsiData", "Total", 1, "uint64"),
    ("PsiData", "Avg10", 2, "double"),
    ("PsiData", "Avg60", 3, "double"),
    ("PsiData", "Avg300", 4, "double"),
    ("UpdatePodSandboxResourcesRequest", "pod_sandbox_id", 1, "string"),
    ("UpdatePodSandboxResourcesRequest", "overhead", 2, "LinuxContainerResources"),
    ("UpdatePodSandboxResourcesRequest", "resources", 3, "LinuxContainerResources"),
    ("StreamPodSandboxesRequest", "filter", 1, "PodSandboxFilter"),
    ("StreamPodSandboxesResponse", "pod_sandboxes", 1, "repeated PodSandbox"),
    ("StreamContainersRequest", "filter", 1, "ContainerFilter"),
    ("StreamContainersResponse", "containers", 1, "repeated Container"),
    ("StreamContainerStatsRequest", "filter", 1, "ContainerStatsFilter"),
    ("StreamContainerStatsResponse", "container_stats", 1, "repeated ContainerStats"),
    ("StreamPodSandboxStatsRequest", "filter", 1, "PodSandboxStatsFilter"),
    ("StreamPodSandboxStatsResponse", "pod_sandbox_stats", 1, "repeated PodSandboxStats"),
    ("StreamPodSandboxMetricsResponse", "pod_sandbox_metrics", 1, "repeated PodSandboxMetrics"),
    ("StreamImagesRequest", "filter", 1, "ImageFilter"),
    ("StreamImagesResponse", "images", 1, "repeated Image"),
    ("CheckpointPodRequest", "pod_sandbox_id", 1, "string"),
    ("CheckpointPodRequest", "output_path", 2, "string"),
    ("CheckpointPodRequest", "container_ids", 3, "repeated string"),
    ("CheckpointPodRequest", "options", 4, "map"),
    ("RestorePodRequest", "checkpoint_path", 1, "string"),
    ("RestorePodRequest", "config", 2, "PodSandboxConfig"),
    ("RestorePodRequest", "runtime_handler", 3, "string"),
    ("RestorePodRequest", "options", 4, "map"),
    ("RestorePodRequest", "container_configs", 5, "repeated ContainerConfig"),
    ("RestorePodResponse", "pod_sandbox_id", 1, "string"),
    ("RestorePodResponse", "restored_containers", 2, "repeated RestoredContainer"),
    ("RestoredContainer", "name", 1, "string"),
    ("RestoredContainer", "container_id", 2, "string"),
];

/// Newer messages without a field.
const NEWER_EMPTY: &[&str] = &[
    "CheckpointPodResponse",
    "StreamPodSandboxMetricsRequest",
    "UpdatePodSandboxResourcesResponse",
];

fn descriptors() -> DescriptorPool {
    let proto = concat!(env!("CARGO_MANIFEST_DIR"), "/proto");
    let compiled = protox::compile(["runtime.proto", "admin.proto"], [proto]).expect("our contracts");
    DescriptorPool::from_file_descriptor_set(compiled).expect("our descriptors")
}

fn messages() -> Vec<MessageDescriptor> {
    let pool = descriptors();
    let file = pool.get_file_by_name("runtime.proto").expect("runtime.proto");
    file.messages().collect()
}

/// prost writes acronyms its own way, so names are compared without their case.
fn find<'a>(shared: &'a BTreeMap<&'static str, Peers>, message: &str) -> Option<&'a Peers> {
    shared
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(message))
        .map(|(_, peers)| peers)
}

fn is_newer(field: &FieldDescriptor) -> bool {
    let message = field.parent_message();
    NEWER
        .iter()
        .any(|(m, f, ..)| *m == message.name() && *f == field.name())
}

/// A message is compared with k8s-cri's or listed as newer: none can be forgotten, none can vanish.
#[test]
fn every_message_is_accounted_for() {
    let shared = shared_messages();
    let newer: BTreeSet<&str> = NEWER
        .iter()
        .map(|(message, ..)| *message)
        .filter(|message| find(&shared, message).is_none())
        .chain(NEWER_EMPTY.iter().copied())
        .collect();
    let expected: BTreeSet<String> = shared
        .keys()
        .chain(&newer)
        .map(|name| name.to_lowercase())
        .collect();
    let ours: BTreeSet<String> = messages()
        .iter()
        .map(|message| message.name().to_lowercase())
        .collect();
    assert_eq!(ours, expected);

    for message in messages() {
        if newer.contains(message.name()) {
            let unlisted: Vec<_> = message.fields().filter(|field| !is_newer(field)).collect();
            assert!(unlisted.is_empty(), "not in NEWER: {unlisted:?}");
        }
    }
}

#[test]
fn newer_fields_have_their_numbers_and_types() {
    let messages: HashMap<String, MessageDescriptor> = messages()
        .into_iter()
        .map(|message| (message.name().to_owned(), message))
        .collect();
    for (message, name, number, kind) in NEWER {
        let field = messages[*message].get_field_by_name(name);
        let field = field.unwrap_or_else(|| panic!("{message} lacks {name}"));
        assert_eq!(
            (field.number(), type_name(&field).as_str()),
            (*number, *kind),
            "{message}.{name}"
        );
    }
    assert_eq!(
        messages["KeyValue"].get_field(2).map(|field| field.kind()),
        Some(Kind::Bytes)
    );
}

#[test]
fn messages_survive_the_way_through_k8s_cri_and_back() {
    let shared = shared_messages();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for message in messages() {
        let Some(peers) = find(&shared, message.name()) else {
            continue;
        };
        for round in 0..8 {
            let sent = random.message(&message);
            let (json, theirs) = (peers.theirs)(&sent.encode_to_vec());
            assert_eq!(
                json,
                as_their_json(&sent),
                "{}, round {round}: k8s-cri reads",
                message.name()
            );

            let ours = (peers.ours)(&theirs);
            let back =
                DynamicMessage::decode(message.clone(), ours.as_slice()).expect("our descriptor decodes");
            assert_eq!(back, sent, "{}, round {round}: we read back", message.name());
        }
    }
}

/// The generated Rust type, and not only the descriptor, keeps what is newer.
#[test]
fn our_types_keep_newer_fields() {
    use cri_api::v1;
    let mount = v1::Mount {
        image_sub_path: "etc".into(),
        mount_options: vec!["noexec".into()],
        ..v1::Mount::default()
    };
    assert_eq!(v1::Mount::decode(mount.encode_to_vec().as_slice()), Ok(mount));
    let variable = v1::KeyValue {
        key: "BINARY".into(),
        value: vec![0xff, 0x00, 0xfe],
    };
    assert_eq!(
        v1::KeyValue::decode(variable.encode_to_vec().as_slice()),
        Ok(variable)
    );
}

/// The numbers of an enumeration are compared by name.
#[test]
fn enumerations_agree() {
    macro_rules! agree {
        ($($name:ident),*) => {$({
            let pool = descriptors();
            let ours = pool.get_enum_by_name(concat!("runtime.v1.", stringify!($name))).expect(stringify!($name));
            let mut known = 0;
            for number in 0..100 {
                let theirs = k8s_cri::v1::$name::try_from(number).ok().map(|value| value.as_str_name().to_owned());
                let value = ours.get_value(number).map(|value| value.name().to_owned());
                known += usize::from(value.is_some());
                assert_eq!(value, theirs, "{} {number}", stringify!($name));
            }
            assert!(known >= 2);
        })*};
    }
    agree!(
        CgroupDriver,
        ContainerEventType,
        ContainerState,
        MetricType,
        MountPropagation,
        NamespaceMode,
        PodSandboxState,
        Protocol,
        SupplementalGroupsPolicy
    );
    for number in 0..3 {
        let theirs = k8s_cri::v1::security_profile::ProfileType::try_from(number).expect("k8s-cri's value");
        let ours = cri_api::v1::security_profile::ProfileType::try_from(number).expect("our value");
        assert_eq!(ours.as_str_name(), theirs.as_str_name());
    }
}

#[test]
fn debug_output_shows_no_secret() {
    use cri_api::v1;
    let auth = v1::AuthConfig {
        username: "robot".into(),
        password: "hunter2".into(),
        auth: "cm9ib3Q6aHVudGVyMg==".into(),
        server_address: "registry.example".into(),
        identity_token: "eyJ".into(),
        registry_token: "ghp".into(),
    };
    let request = v1::PullImageRequest {
        auth: Some(auth),
        ..v1::PullImageRequest::default()
    };
    let shown = format!("{request:?}");
    assert!(
        shown.contains("robot") && shown.contains("registry.example"),
        "{shown}"
    );
    for secret in ["hunter2", "cm9ib3Q6", "eyJ", "ghp"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    let variable = v1::KeyValue {
        key: "TOKEN".into(),
        value: b"hunter2".to_vec(),
    };
    let shown = format!("{variable:?} {:?}", b"hunter2".to_vec());
    assert!(shown.starts_with("TOKEN=<7 bytes>"), "{shown}");
}

fn type_name(field: &FieldDescriptor) -> String {
    let kind = match field.kind() {
        _ if field.is_map() => return "map".into(),
        Kind::Message(message) => message.name().to_owned(),
        Kind::Enum(value) => value.name().to_owned(),
        kind => format!("{kind:?}"),
    };
    if field.is_list() {
        format!("repeated {kind}")
    } else {
        kind
    }
}

/// xorshift64*: the same messages on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn text(&mut self) -> String {
        format!("{:x}", self.next() | 1)
    }

    /// Every field that k8s-cri knows, set to something other than its default.
    fn message(&mut self, message: &MessageDescriptor) -> DynamicMessage {
        let mut filled = DynamicMessage::new(message.clone());
        for field in message.fields().filter(|field| !is_newer(field)) {
            let value = if field.is_map() {
                Value::Map(
                    (0..2)
                        .map(|_| (MapKey::String(self.text()), Value::String(self.text())))
                        .collect(),
                )
            } else if field.is_list() {
                Value::List((0..2).map(|_| self.scalar(&field)).collect())
            } else {
                self.scalar(&field)
            };
            filled.set_field(&field, value);
        }
        filled
    }

    fn scalar(&mut self, field: &FieldDescriptor) -> Value {
        let number = self.next() | 1;
        match field.kind() {
            Kind::Bool => Value::Bool(true),
            Kind::Int32 => Value::I32(number as i32),
            Kind::Int64 => Value::I64(number as i64),
            Kind::Uint32 => Value::U32(number as u32),
            Kind::Uint64 => Value::U64(number),
            Kind::String => Value::String(self.text()),
            // k8s-cri still has a string in KeyValue, so what is sent to it stays UTF-8.
            Kind::Bytes => Value::Bytes(self.text().into_bytes().into()),
            Kind::Enum(values) => Value::EnumNumber(1 + (number % (values.values().len() as u64 - 1)) as i32),
            Kind::Message(message) => Value::Message(self.message(&message)),
            kind => panic!("no such type in the CRI of 1.32: {kind:?}"),
        }
    }
}

/// The message as k8s-cri's serde derive writes it: all fields, by their Rust names.
fn as_their_json(message: &DynamicMessage) -> Json {
    let fields = message.descriptor();
    let fields = fields.fields().filter(|field| !is_newer(field));
    fields
        .map(|field| {
            (
                rust_name(field.name()),
                value_as_json(&message.get_field(&field), &field),
            )
        })
        .collect()
}

fn value_as_json(value: &Value, field: &FieldDescriptor) -> Json {
    match value {
        Value::Bool(value) => Json::from(*value),
        Value::I32(value) | Value::EnumNumber(value) => Json::from(*value),
        Value::I64(value) => Json::from(*value),
        Value::U32(value) => Json::from(*value),
        Value::U64(value) => Json::from(*value),
        Value::String(value) => Json::from(value.as_str()),
        Value::Bytes(value) if field.parent_message().name() == "KeyValue" => {
            Json::from(String::from_utf8(value.to_vec()).expect("UTF-8"))
        }
        Value::Bytes(value) => Json::from(value.to_vec()),
        Value::List(values) => values.iter().map(|value| value_as_json(value, field)).collect(),
        Value::Map(entries) => entries
            .iter()
            .map(|(key, value)| {
                (
                    key.as_str().expect("a string key").to_owned(),
                    value_as_json(value, field),
                )
            })
            .collect(),
        Value::Message(message) => as_their_json(message),
        value => panic!("no such type in the CRI of 1.32: {value:?}"),
    }
}

/// `uidMappings` → `uid_mappings`, `CDI_devices` → `cdi_devices`.
fn rust_name(name: &str) -> String {
    let mut snake = String::new();
    let mut previous_is_lower = false;
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && previous_is_lower {
            snake.push('_');
        }
        previous_is_lower = letter.is_ascii_lowercase() || letter.is_ascii_digit();
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}
