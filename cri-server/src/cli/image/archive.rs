//! `crisp image import` and `export`.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use cri_api::admin::{
    ExportImageRequest, ImportImageRequest, ImportImageResponse, ImportOptions, import_image_request::Part,
};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::super::client::Daemon;
use super::super::output::{self, Format};
use super::super::{CliError, Result, Shown};

/// Of an archive in one message.
const CHUNK: usize = 1024 * 1024;
/// Chunks under way: enough to keep both sides busy, and no more memory than that.
const QUEUE: usize = 4;

#[derive(Debug, Args)]
pub(in crate::cli) struct Import {
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

#[derive(Serialize)]
struct Imported {
    id: String,
    names: Vec<String>,
}

pub(super) async fn import_file(daemon: &Daemon, arguments: Import) -> Result<ExitCode> {
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
pub(in crate::cli) async fn import(
    daemon: &Daemon,
    options: ImportOptions,
    archive: impl AsyncRead + Unpin + Send + 'static,
    name: String,
) -> Result<Vec<ImportImageResponse>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let reading = crate::task::spawn(send_archive(options, archive, sender));
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

pub(super) async fn export_file(daemon: &Daemon, file: &Path, images: Vec<String>) -> Result<ExitCode> {
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
}
