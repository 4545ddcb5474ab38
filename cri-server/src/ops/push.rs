//! A push with news of how far it is.

use std::sync::Arc;
use std::time::Duration;

use cri_api::admin::{PushImageEvent, PushProgress, push_image_event::Event};
use futures::stream::{BoxStream, StreamExt};
use image::PushRequest;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::Error;
use crate::app::App;

/// How often people are told.
const NEWS: Duration = Duration::from_millis(100);

/// Pushes, and sends news until the last message: the manifest's digest, or why there is none. A client
/// that goes away ends the push: what was uploaded stays for the next.
pub fn push(app: &Arc<App>, request: PushRequest) -> BoxStream<'static, Result<PushImageEvent, Status>> {
    let (sender, receiver) = mpsc::channel(4);
    let app = app.clone();
    crate::task::spawn(async move {
        let operation = app.operations.enter("PushImage", request.destination.to_string());
        operation.waiting("push", "the registry");
        app.reread_registries().await;
        let progress = Arc::new(image::PushProgress::default());
        let mut pushing = Box::pin(app.images.push(request, progress.clone()));
        let outcome = loop {
            match tokio::time::timeout(NEWS, &mut pushing).await {
                Ok(outcome) => break outcome,
                Err(_) if sender.is_closed() => return,
                Err(_) => {
                    let (layers, done, sent) = progress.look();
                    let event = Event::Progress(PushProgress { layers, done, sent });
                    // A client that is slow to read misses some news.
                    drop(sender.try_send(Ok(PushImageEvent { event: Some(event) })));
                }
            }
        };
        let last = match outcome {
            Ok(digest) => Ok(PushImageEvent {
                event: Some(Event::Digest(digest.to_string())),
            }),
            Err(error) => Err(Status::from(Error::from(error))),
        };
        // The client may have left meanwhile.
        let _ = sender.send(last).await;
    });
    ReceiverStream::new(receiver).boxed()
}
