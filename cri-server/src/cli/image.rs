//! `crisp image`: archives go through the admin service, the rest through CRI.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use cri_api::admin::{
    ExportImageRequest, ImportImageRequest, ImportImageResponse, ImportOptions, import_image_request::Part,
};
use cri_api::v1::{ImageSpec, ImageStatusRequest, ListImagesRequest, RemoveImageRequest};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::client::Daemon;
use super::output::{self, Format, short, size, table};
use super::{CliError, Result, Shown};

/// Of an archive in one message.
const CHUNK: usize = 1024 * 1024;
/// Chunks under way: enough to keep both sides busy, and no more memory than that.
const QUEUE: usize = 4;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Put the images of an archive into the store
    ///
    /// Takes OCI layouts and docker-archives as tar, also compressed with gzip or zstd.
    Import(Import),
    /// Write images as one OCI layout tar
    Export {
        /// The file to write, or - for standard output
        file: PathBuf,
        /// Names, digests or ids
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// List the images in the store
    List(Shown),
    /// Remove images; one given by id loses all its names
    Remove {
        /// Names, digests or ids
        #[arg(required = true)]
        images: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(super) struct Import {
    /// The archive, or - for standard input
    file: PathBuf,
    /// Call the image so, instead of by the archive's own names; may be given several times
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,
    /// Keep it from kubelet's garbage collection
    #[arg(long)]
    pin: bool,
    #[command(flatten)]
    shown: Shown,
}

pub(super) async fn run(socket: &Path, command: Command) -> Result<ExitCode> {
    let daemon = Daemon::connect(socket).await?;
    match command {
        Command::Import(arguments) => import_file(&daemon, arguments).await,
        Command::Export { file, images } => export_file(&daemon, &file, images).await,
        Command::List(shown) => list(&daemon, shown.output).await,
        Command::Remove { images } => remove(&daemon, &images).await,
    }
}

#[derive(Serialize)]
struct Imported {
    id: String,
    names: Vec<String>,
}

async fn import_file(daemon: &Daemon, arguments: Import) -> Result<ExitCode> {
    let options = ImportOptions {
        names: arguments.names,
        pin: arguments.pin,
    };
    let name = if is_dash(&arguments.file) {
        "standard input".into()
    } else {
        arguments.file.display().to_string()
    };
    let imported = if is_dash(&arguments.file) {
        import(daemon, options, standard(std::io::stdin(), &name)?, name).await?
    } else {
        let file = tokio::fs::File::open(&arguments.file).await;
        let file = file.map_err(|source| CliError::File {
            name: name.clone(),
            source,
        })?;
        import(daemon, options, file, name).await?
    };
    let imported: Vec<Imported> = imported
        .into_iter()
        .map(|image| Imported {
            id: image.image_id,
            names: image.names,
        })
        .collect();
    match arguments.shown.output {
        Format::Json => output::print_json(&imported)?,
        Format::Text => {
            let lines = imported
                .iter()
                .map(|image| format!("{} {}\n", image.id, image.names.join(" ")));
            output::print(&lines.collect::<String>())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Sends an archive and returns what the daemon made of it.
pub(super) async fn import(
    daemon: &Daemon,
    options: ImportOptions,
    archive: impl AsyncRead + Unpin + Send + 'static,
    name: String,
) -> Result<Vec<ImportImageResponse>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let reading = tokio::spawn(send_archive(options, archive, sender));
    let receive = async {
        let answer = daemon.admin().import_image(ReceiverStream::new(receiver)).await;
        let mut answers = daemon.answer("ImportImage", answer)?;
        let mut imported = Vec::new();
        while let Some(image) = answers
            .message()
            .await
            .map_err(|status| daemon.failed("ImportImage", &status))?
        {
            imported.push(image);
        }
        Ok(imported)
    };
    let received = receive.await;
    // An archive that could not be read to its end is the cause of whatever the daemon then said about it.
    match reading.await {
        Ok(Err(source)) => Err(CliError::File { name, source }),
        _ => received,
    }
}

async fn send_archive(
    options: ImportOptions,
    mut archive: impl AsyncRead + Unpin,
    sender: mpsc::Sender<ImportImageRequest>,
) -> std::io::Result<()> {
    let mut part = Part::Options(options);
    // A daemon that has heard enough closes its side, and says why in its answer.
    while sender.send(ImportImageRequest { part: Some(part) }).await.is_ok() {
        let mut chunk = Vec::with_capacity(CHUNK);
        (&mut archive).take(CHUNK as u64).read_to_end(&mut chunk).await?;
        if chunk.is_empty() {
            break;
        }
        part = Part::Chunk(chunk);
    }
    Ok(())
}

async fn export_file(daemon: &Daemon, file: &Path, images: Vec<String>) -> Result<ExitCode> {
    if is_dash(file) {
        let name = "standard output";
        export(daemon, images, standard(std::io::stdout(), name)?, name).await?;
        return Ok(ExitCode::SUCCESS);
    }
    // Under another name until it is whole: nobody mistakes half an archive for one.
    let mut unfinished = file.as_os_str().to_owned();
    unfinished.push(".part");
    let unfinished = PathBuf::from(unfinished);
    let name = file.display().to_string();
    let failed = |source| CliError::File {
        name: name.clone(),
        source,
    };
    let target = tokio::fs::File::create(&unfinished).await.map_err(failed)?;
    match export(daemon, images, target, &name).await {
        Ok(()) => tokio::fs::rename(&unfinished, file).await.map_err(failed)?,
        Err(error) => {
            let _ = tokio::fs::remove_file(&unfinished).await;
            return Err(error);
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn export(
    daemon: &Daemon,
    images: Vec<String>,
    mut target: impl AsyncWrite + Unpin,
    name: &str,
) -> Result<()> {
    let failed = |source| CliError::File {
        name: name.to_owned(),
        source,
    };
    let answer = daemon.admin().export_image(ExportImageRequest { images }).await;
    let mut chunks = daemon.answer("ExportImage", answer)?;
    while let Some(part) = chunks
        .message()
        .await
        .map_err(|status| daemon.failed("ExportImage", &status))?
    {
        target.write_all(&part.chunk).await.map_err(failed)?;
    }
    target.flush().await.map_err(failed)
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

/// A standard stream, without the buffer and the lock of the library's own.
fn standard(stream: impl AsFd, name: &str) -> Result<tokio::fs::File> {
    let owned = stream.as_fd().try_clone_to_owned();
    let owned = owned.map_err(|source| CliError::File {
        name: name.to_owned(),
        source,
    })?;
    Ok(tokio::fs::File::from_std(owned.into()))
}

fn is_dash(file: &Path) -> bool {
    file.as_os_str() == "-"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_archive_goes_as_options_and_then_whole_chunks() {
        let archive: Vec<u8> = (0..CHUNK + 5).map(|i| i as u8).collect();
        let (sender, mut receiver) = mpsc::channel(8);
        let options = ImportOptions {
            names: vec!["n".into()],
            pin: true,
        };
        send_archive(options.clone(), std::io::Cursor::new(archive.clone()), sender)
            .await
            .expect("sent");
        assert_eq!(
            receiver.recv().await.and_then(|message| message.part),
            Some(Part::Options(options))
        );
        let mut sizes = Vec::new();
        let mut received = Vec::new();
        while let Some(ImportImageRequest {
            part: Some(Part::Chunk(chunk)),
        }) = receiver.recv().await
        {
            sizes.push(chunk.len());
            received.extend(chunk);
        }
        assert_eq!(sizes, [CHUNK, 5]);
        assert_eq!(received, archive);
    }

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
