//! A pull with news of how far it is, for people who wait.

use std::sync::Arc;
use std::time::Duration;

use cri_api::admin::{LayerProgress, PullImageEvent, PullProgress, pull_image_event::Event};
use futures::stream::{BoxStream, StreamExt};
use image::{Credentials, LayerStage, PullRequest, PullStage, Reference};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::Error;
use crate::app::App;

/// How often people are told.
const NEWS: Duration = Duration::from_millis(100);

/// Pulls, and sends news until the last message: the image's id, or why there is none.
pub fn pull(
    app: &Arc<App>,
    reference: Reference,
    credentials: Credentials,
) -> BoxStream<'static, Result<PullImageEvent, Status>> {
    let (sender, receiver) = mpsc::channel(4);
    let app = app.clone();
    crate::task::spawn(async move {
        let name = reference.canonical().to_string();
        let progress = app.operations.enter("PullImage", &name);
        progress.waiting("pull", "the registry");
        app.reread_registries().await;
        let mut pulling = std::pin::pin!(app.images.pull(PullRequest {
            reference,
            credentials,
        }));
        let outcome = loop {
            match tokio::time::timeout(NEWS, &mut pulling).await {
                Ok(outcome) => break outcome,
                // Nobody listens: the pull goes on without this task.
                Err(_) if sender.is_closed() => return,
                // A client that is slow to read misses some news.
                Err(_) => drop(sender.try_send(Ok(news(&app, &name)))),
            }
        };
        let last = match outcome {
            Ok(image) => Ok(PullImageEvent {
                event: Some(Event::ImageId(image.id.to_string())),
            }),
            Err(error) => Err(Status::from(Error::from(error))),
        };
        // The client may have left meanwhile.
        let _ = sender.send(last).await;
    });
    ReceiverStream::new(receiver).boxed()
}

fn news(app: &App, name: &str) -> PullImageEvent {
    let pulls = app.images.pulls();
    let progress = pulls
        .into_iter()
        .find(|pull| pull.reference == name)
        .map(|pull| PullProgress {
            stage: stage(pull.stage).into(),
            layers: pull.layers.iter().map(layer).collect(),
        });
    PullImageEvent {
        event: Some(Event::Progress(progress.unwrap_or_default())),
    }
}

fn layer(layer: &image::LayerProgress) -> LayerProgress {
    LayerProgress {
        digest: layer.digest.to_string(),
        received: layer.received,
        total: layer.total,
        stage: match layer.stage {
            LayerStage::Waiting => "waiting",
            LayerStage::Fetching => "fetching",
            LayerStage::Unpacked => "unpacked",
            LayerStage::Done => "done",
        }
        .into(),
    }
}

fn stage(stage: PullStage) -> &'static str {
    match stage {
        PullStage::Resolving => "resolving",
        PullStage::Verifying => "verifying",
        PullStage::Layers => "layers",
        PullStage::Committing => "committing",
    }
}
