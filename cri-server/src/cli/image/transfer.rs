//! `crisp image pull` and `push`: through the daemon, logged in as whoever types it.

use std::process::ExitCode;

use clap::Args;
use cri_api::admin::{
    PullImageRequest, PushImageRequest, pull_image_event::Event as PullEvent,
    push_image_event::Event as PushEvent,
};
use image::Reference;

use super::super::client::Daemon;
use super::super::output;
use super::super::{CliError, Result};
use super::login::login;
use super::progress::Shower;

#[derive(Debug, Args)]
pub(in crate::cli) struct Pull {
    /// What to pull: [registry/]repository[:tag][@digest]
    image: String,
    /// Print only the image's id
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Push {
    /// A name or id in the store
    image: String,
    /// What it is to be called in the registry, when not by its name here
    destination: Option<String>,
    /// Print only the manifest's digest
    #[arg(short, long)]
    quiet: bool,
}

pub(super) async fn pull(daemon: &Daemon, arguments: Pull) -> Result<ExitCode> {
    let reference = parse(&arguments.image)?;
    let request = PullImageRequest {
        image: arguments.image,
        login: login(&reference).await?,
    };
    let answer = daemon.admin().pull_image(request).await;
    let mut events = daemon.answer("PullImage", answer)?;
    let mut shower = Shower::new(arguments.quiet);
    let mut id = String::new();
    loop {
        let event = events.message().await;
        match event.map_err(|status| daemon.failed("PullImage", &status)) {
            Ok(Some(event)) => match event.event {
                Some(PullEvent::Progress(progress)) => shower.pulling(&progress),
                Some(PullEvent::ImageId(image)) => id = image,
                None => {}
            },
            Ok(None) => break,
            Err(error) => {
                shower.end();
                return Err(error);
            }
        }
    }
    shower.end();
    let shown = if arguments.quiet {
        format!("{id}\n")
    } else {
        format!("{reference} {id}\n")
    };
    output::print(&shown)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn push(daemon: &Daemon, arguments: Push) -> Result<ExitCode> {
    let destination = arguments.destination.unwrap_or_else(|| arguments.image.clone());
    let reference = parse(&destination)?;
    let request = PushImageRequest {
        image: arguments.image,
        login: login(&reference).await?,
        destination,
    };
    let answer = daemon.admin().push_image(request).await;
    let mut events = daemon.answer("PushImage", answer)?;
    let mut shower = Shower::new(arguments.quiet);
    let mut digest = String::new();
    loop {
        let event = events.message().await;
        match event.map_err(|status| daemon.failed("PushImage", &status)) {
            Ok(Some(event)) => match event.event {
                Some(PushEvent::Progress(progress)) => shower.pushing(&progress),
                Some(PushEvent::Digest(pushed)) => digest = pushed,
                None => {}
            },
            Ok(None) => break,
            Err(error) => {
                shower.end();
                return Err(error);
            }
        }
    }
    shower.end();
    let shown = if arguments.quiet {
        format!("{digest}\n")
    } else {
        format!("{reference} {digest}\n")
    };
    output::print(&shown)?;
    Ok(ExitCode::SUCCESS)
}

/// Names are checked here, too: whose credentials are sent depends on them.
fn parse(name: &str) -> Result<Reference> {
    name.parse()
        .map_err(|error: image::reference::ReferenceError| CliError::Name(error.to_string()))
}
