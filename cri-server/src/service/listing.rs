//! Listings as streams: a node may have more than one message may carry.

use futures::stream::{self, BoxStream, StreamExt};
use prost::Message;
use tonic::Status;

/// Bytes of items in one message; one item may be larger.
const CHUNK: usize = 1 << 20;

/// All items in their order, as few messages as their sizes allow, each made by `wrap`. No items are no message.
pub(super) fn stream<T, R>(items: Vec<T>, wrap: fn(Vec<T>) -> R) -> BoxStream<'static, Result<R, Status>>
where
    T: Message,
    R: Send + 'static,
{
    let mut messages = Vec::new();
    let (mut chunk, mut size) = (Vec::new(), 0);
    for item in items {
        let length = item.encoded_len();
        if size + length > CHUNK && !chunk.is_empty() {
            messages.push(Ok(wrap(std::mem::take(&mut chunk))));
            size = 0;
        }
        size += length;
        chunk.push(item);
    }
    if !chunk.is_empty() {
        messages.push(Ok(wrap(chunk)));
    }
    stream::iter(messages).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cri_api::v1;
    use futures::FutureExt;

    fn messages(sizes: &[usize]) -> Vec<Vec<usize>> {
        let items = sizes.iter().map(|size| v1::Container {
            id: "x".repeat(*size),
            ..Default::default()
        });
        let wrap = |containers| v1::StreamContainersResponse { containers };
        let all = stream(items.collect(), wrap).collect::<Vec<_>>();
        let lengths =
            |response: v1::StreamContainersResponse| response.containers.iter().map(|c| c.id.len()).collect();
        all.now_or_never()
            .unwrap()
            .into_iter()
            .map(|message| lengths(message.unwrap()))
            .collect()
    }

    #[test]
    fn messages_are_bounded_and_nothing_is_left_out() {
        assert!(messages(&[]).is_empty());
        assert_eq!(messages(&[1, 2]), [[1, 2]]);
        let half = CHUNK / 2 - 10;
        assert_eq!(messages(&[half, half, half]), [vec![half, half], vec![half]]);
        assert_eq!(messages(&[1, 2 * CHUNK, 3]), [[1], [2 * CHUNK], [3]]);
    }
}
