//! `crisp image`: listing and removal go through CRI, the rest through the admin service.

mod archive;
mod login;
mod progress;
mod transfer;
mod upkeep;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use cri_api::v1::{ImageSpec, ImageStatusRequest, ListImagesRequest, RemoveImageRequest};
use serde::Serialize;

use super::client::Daemon;
use super::output::{self, Format, short, size, table};
use super::{Result, Shown};

pub(super) use archive::import;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Put the images of an archive into the store
    ///
    /// Takes OCI layouts and docker-archives as tar, also compressed with gzip or zstd.
    Import(archive::Import),
    /// Write images as one OCI layout tar
    Export {
        /// The file to write, or - for standard output
        file: PathBuf,
        /// Names, digests or ids
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Pull an image, logged in as `docker login` has it
    Pull(transfer::Pull),
    /// Push an image, logged in as `docker login` has it
    Push(transfer::Push),
    /// List the images in the store
    List(Shown),
    /// Give an image a further name
    Tag {
        /// A name, digest or id
        image: String,
        /// The further name
        name: String,
    },
    /// Make an image of what a container changed
    ///
    /// The container may run; files that change meanwhile are taken as they are found.
    Commit(upkeep::Commit),
    /// Remove images that no container uses and that have no tag
    Prune(upkeep::Prune),
    /// Remove images; one given by id loses all its names
    Remove {
        /// Names, digests or ids
        #[arg(required = true)]
        images: Vec<String>,
    },
}

pub(super) async fn run(socket: &Path, command: Command) -> Result<ExitCode> {
    let daemon = Daemon::connect(socket).await?;
    match command {
        Command::Import(arguments) => archive::import_file(&daemon, arguments).await,
        Command::Export { file, images } => archive::export_file(&daemon, &file, images).await,
        Command::Pull(arguments) => transfer::pull(&daemon, arguments).await,
        Command::Push(arguments) => transfer::push(&daemon, arguments).await,
        Command::Tag { image, name } => upkeep::tag(&daemon, image, name).await,
        Command::Commit(arguments) => upkeep::commit(&daemon, arguments).await,
        Command::Prune(arguments) => upkeep::prune(&daemon, arguments).await,
        Command::List(shown) => list(&daemon, shown.output).await,
        Command::Remove { images } => remove(&daemon, &images).await,
    }
}

#[derive(Serialize)]
struct Listed {
    id: String,
    tags: Vec<String>,
    digests: Vec<String>,
    size: u64,
    pinned: bool,
}

async fn list(daemon: &Daemon, format: Format) -> Result<ExitCode> {
    let answer = daemon.answer(
        "ListImages",
        daemon.images().list_images(ListImagesRequest::default()).await,
    )?;
    let mut images: Vec<Listed> = answer
        .images
        .into_iter()
        .map(|image| Listed {
            id: image.id,
            tags: image.repo_tags,
            digests: image.repo_digests,
            size: image.size,
            pinned: image.pinned,
        })
        .collect();
    images.sort_by(|a, b| (&a.tags, &a.id).cmp(&(&b.tags, &b.id)));
    match format {
        Format::Json => output::print_json(&images)?,
        Format::Text => output::print(&image_table(&images))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn image_table(images: &[Listed]) -> String {
    let mut rows = Vec::new();
    for image in images {
        // An image without a tag is shown by the digest it was pulled by.
        let names = if image.tags.is_empty() {
            &image.digests
        } else {
            &image.tags
        };
        let unnamed = [String::from("<none>")];
        for name in if names.is_empty() { &unnamed[..] } else { names } {
            let pinned = if image.pinned { "pinned" } else { "" };
            rows.push(vec![
                name.clone(),
                short(&image.id).into(),
                size(image.size),
                pinned.into(),
            ]);
        }
    }
    table(&["IMAGE", "ID", "SIZE", ""], &rows)
}

async fn remove(daemon: &Daemon, images: &[String]) -> Result<ExitCode> {
    let mut missing = false;
    for name in images {
        let spec = || {
            Some(ImageSpec {
                image: name.clone(),
                ..ImageSpec::default()
            })
        };
        let asked = ImageStatusRequest {
            image: spec(),
            verbose: false,
        };
        let found = daemon.answer("ImageStatus", daemon.images().image_status(asked).await)?;
        if found.image.is_none() {
            // CRI calls that a success; a person who mistyped a name wants to know.
            eprintln!("crisp: no image {name:?} is here; `crisp image list` shows what is");
            missing = true;
            continue;
        }
        let request = RemoveImageRequest { image: spec() };
        daemon.answer("RemoveImage", daemon.images().remove_image(request).await)?;
        output::print(&format!("{name}\n"))?;
    }
    Ok(if missing {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_listed_by_every_tag_else_by_digest() {
        let image = |tags: &[&str], digests: &[&str]| Listed {
            id: format!("sha256:{}", "0".repeat(64)),
            tags: tags.iter().map(ToString::to_string).collect(),
            digests: digests.iter().map(ToString::to_string).collect(),
            size: 2048,
            pinned: true,
        };
        let text = image_table(&[
            image(&["a:1", "a:2"], &["a@sha256:0"]),
            image(&[], &["b@sha256:1"]),
            image(&[], &[]),
        ]);
        let names: Vec<&str> = text
            .lines()
            .skip(1)
            .map(|line| line.split("  ").next().unwrap_or_default())
            .collect();
        assert_eq!(names, ["a:1", "a:2", "b@sha256:1", "<none>"]);
        assert!(text.contains("000000000000  2.0 KiB  pinned"), "{text}");
    }
}
