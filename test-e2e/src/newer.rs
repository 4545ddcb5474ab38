//! Fields of the wire that are newer than the client library, appended to its messages by hand: of two encodings of one
//! message, concatenated, protobuf reads the merger.

use bytes::{Buf, BufMut};
use hyper_util::rt::TokioIo;
use k8s_cri::v1::{
    ContainerStatusRequest, CreateContainerRequest, CreateContainerResponse, LinuxContainerResources, Mount,
};
use prost::Message;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Request, Status};

/// `Mount.image_sub_path`, since Kubernetes 1.33.
const IMAGE_SUB_PATH: u32 = 10;
/// `Mount.mount_options`, since Kubernetes 1.37.
const MOUNT_OPTIONS: u32 = 11;
/// `ContainerConfig.mounts` and `CreateContainerRequest.config`.
const MOUNTS: u32 = 7;
const CONFIG: u32 = 2;
/// `ContainerStatusResponse.status`, `ContainerStatus.mounts`, `Mount.image`, `ImageSpec.image_ref`.
const IMAGE_REF: [u32; 4] = [1, 14, 9, 20];
/// `ContainerConfig.stop_signal`, since Kubernetes 1.33.
const STOP_SIGNAL: u32 = 18;

/// What of a container's configuration the client library does not know.
#[derive(Clone, Debug)]
pub enum Newer {
    /// A further mount.
    Mount(Box<NewerMount>),
    /// The signal that asks it to end: a number of the CRI's `Signal`, which are not the kernel's.
    StopSignal(u64),
}

impl Newer {
    fn encode(&self) -> Vec<u8> {
        let mut config = Vec::new();
        match self {
            Self::Mount(mount) => field(&mut config, MOUNTS, &mount.encode()),
            Self::StopSignal(number) => {
                let varint = prost::encoding::WireType::Varint;
                prost::encoding::encode_key(STOP_SIGNAL, varint, &mut config);
                prost::encoding::encode_varint(*number, &mut config);
            }
        }
        config
    }
}

/// A mount with the fields that the client library does not know.
#[derive(Clone, Debug, Default)]
pub struct NewerMount {
    /// What it knows.
    pub mount: Mount,
    /// A path in the image.
    pub image_sub_path: String,
    /// Words of mount(8).
    pub mount_options: Vec<String>,
}

impl NewerMount {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.mount.encode_to_vec();
        if !self.image_sub_path.is_empty() {
            field(&mut bytes, IMAGE_SUB_PATH, self.image_sub_path.as_bytes());
        }
        for option in &self.mount_options {
            field(&mut bytes, MOUNT_OPTIONS, option.as_bytes());
        }
        bytes
    }
}

/// A length-delimited field.
fn field(message: &mut Vec<u8>, number: u32, value: &[u8]) {
    prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, message);
    prost::encoding::encode_varint(value.len() as u64, message);
    message.extend_from_slice(value);
}

/// CreateContainer with more in its configuration; the container's id.
///
/// # Errors
/// What the runtime answers.
///
/// # Panics
/// When nothing listens at the socket.
pub async fn create(
    socket: &std::path::Path,
    request: &CreateContainerRequest,
    more: &[Newer],
) -> Result<String, Status> {
    let mut bytes = request.encode_to_vec();
    for newer in more {
        field(&mut bytes, CONFIG, &newer.encode());
    }
    let answer = call(socket, "CreateContainer", bytes).await?;
    Ok(CreateContainerResponse::decode(answer.as_slice())
        .expect("an answer of its type")
        .container_id)
}

/// The ids of the images that a container's mounts show: `ContainerStatus.mounts.image.image_ref`, since Kubernetes 1.36.
///
/// # Errors
/// What the runtime answers.
///
/// # Panics
/// When nothing listens at the socket, or answers with something else.
pub async fn shown_images(socket: &std::path::Path, container: &str) -> Result<Vec<String>, Status> {
    let request = ContainerStatusRequest {
        container_id: container.to_owned(),
        verbose: false,
    };
    let answer = call(socket, "ContainerStatus", request.encode_to_vec()).await?;
    let found = IMAGE_REF.iter().fold(vec![answer], |messages, number| {
        messages
            .iter()
            .flat_map(|message| fields(message, *number))
            .collect()
    });
    Ok(found
        .into_iter()
        .map(|text| String::from_utf8(text).expect("text"))
        .collect())
}

/// The contents of all fields of that number, which are of variable length.
fn fields(mut message: &[u8], number: u32) -> Vec<Vec<u8>> {
    use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
    let mut found = Vec::new();
    while message.has_remaining() {
        let (key, kind) = decode_key(&mut message).expect("a field");
        if (key, kind) == (number, WireType::LengthDelimited) {
            let length = decode_varint(&mut message).expect("a length") as usize;
            found.push(message.copy_to_bytes(length).to_vec());
        } else {
            skip_field(kind, key, &mut message, DecodeContext::default()).expect("a field");
        }
    }
    found
}

/// UpdatePodSandboxResources, since Kubernetes 1.33.
///
/// # Errors
/// What the runtime answers.
///
/// # Panics
/// When nothing listens at the socket.
pub async fn update_pod(
    socket: &std::path::Path,
    pod: &str,
    overhead: Option<LinuxContainerResources>,
    resources: Option<LinuxContainerResources>,
) -> Result<(), Status> {
    let mut bytes = Vec::new();
    field(&mut bytes, 1, pod.as_bytes());
    for (number, limits) in [(2, overhead), (3, resources)] {
        if let Some(limits) = limits {
            field(&mut bytes, number, &limits.encode_to_vec());
        }
    }
    call(socket, "UpdatePodSandboxResources", bytes).await.map(drop)
}

/// Any call of the runtime service, its messages encoded.
async fn call(socket: &std::path::Path, name: &str, request: Vec<u8>) -> Result<Vec<u8>, Status> {
    let socket = socket.to_owned();
    let channel = tonic::transport::Endpoint::from_static("http://crisp")
        .connect_with_connector(tower::service_fn(move |_: http::Uri| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
        }))
        .await
        .expect("the runtime listens");
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.expect("the runtime listens");
    let path = format!("/runtime.v1.RuntimeService/{name}");
    let path = http::uri::PathAndQuery::try_from(path).expect("a path");
    Ok(client.unary(Request::new(request), path, Raw).await?.into_inner())
}

/// Messages that are encoded already.
#[derive(Clone, Copy, Debug)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Raw
    }

    fn decoder(&mut self) -> Self {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, input: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut bytes = vec![0; input.remaining()];
        input.copy_to_slice(&mut bytes);
        Ok(Some(bytes))
    }
}
