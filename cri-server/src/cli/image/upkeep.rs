//! `crisp image tag`, `prune` and `commit`.

use std::process::ExitCode;

use clap::Args;
use cri_api::admin::{CommitContainerRequest, PruneImagesRequest, TagImageRequest};
use serde::Serialize;

use super::super::client::Daemon;
use super::super::output::{self, Format, short, size};
use super::super::{Result, Shown};

#[derive(Debug, Args)]
pub(in crate::cli) struct Prune {
    /// All images that no container uses, not only those without a tag
    #[arg(short, long)]
    all: bool,
    /// Tell what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    shown: Shown,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Commit {
    /// The container's id, or the beginning of one
    container: String,
    /// What the image is to be called
    name: String,
    /// Who made it
    #[arg(long, default_value = "")]
    author: String,
    /// Why
    #[arg(short, long, default_value = "")]
    message: String,
}

#[derive(Serialize)]
struct Pruned {
    id: String,
    names: Vec<String>,
    size: u64,
}

pub(super) async fn tag(daemon: &Daemon, image: String, name: String) -> Result<ExitCode> {
    let answer = daemon.admin().tag_image(TagImageRequest { image, name }).await;
    let tagged = daemon.answer("TagImage", answer)?;
    output::print(&format!("{} {}\n", tagged.name, tagged.image_id))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn prune(daemon: &Daemon, arguments: Prune) -> Result<ExitCode> {
    let request = PruneImagesRequest {
        all: arguments.all,
        dry_run: arguments.dry_run,
    };
    let answer = daemon.answer("PruneImages", daemon.admin().prune_images(request).await)?;
    let pruned: Vec<Pruned> = answer
        .images
        .into_iter()
        .map(|image| Pruned {
            id: image.image_id,
            names: image.names,
            size: image.size,
        })
        .collect();
    match arguments.shown.output {
        Format::Json => output::print_json(&pruned)?,
        Format::Text => {
            let line = |image: &Pruned| {
                let name = image.names.first().map_or("<none>", String::as_str);
                format!("{} {} {name}\n", short(&image.id), size(image.size))
            };
            output::print(&pruned.iter().map(line).collect::<String>())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn commit(daemon: &Daemon, arguments: Commit) -> Result<ExitCode> {
    let request = CommitContainerRequest {
        container: arguments.container,
        name: arguments.name,
        author: arguments.author,
        comment: arguments.message,
    };
    let answer = daemon.admin().commit_container(request).await;
    let made = daemon.answer("CommitContainer", answer)?;
    output::print(&format!("{} {}\n", made.image_id, made.names.join(" ")))?;
    Ok(ExitCode::SUCCESS)
}
