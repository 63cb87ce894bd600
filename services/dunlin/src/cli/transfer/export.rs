//! `dunlin export`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use dunlin_runtime::clock::unix_millis;
use dunlin_storage::Transfer;
use tempfile::NamedTempFile;
use tokio::sync::mpsc;

use super::super::failure::Failure;
use super::super::serve::Signals;
use super::lines::Writer;
use super::{Counts, HubArgs, PIECES, progress, tell, unusable};
use crate::config::Environment;
use crate::hub::Stores;

#[derive(Args)]
pub(in super::super) struct ExportArgs {
    #[command(flatten)]
    hub: HubArgs,
    /// File to make, for its owner alone; - writes to stdout.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
}

pub(in super::super) async fn export(
    arguments: ExportArgs,
    environment: &Environment,
) -> Result<(), Failure> {
    let ExportArgs { hub, output } = arguments;
    let config = hub.load(environment)?;
    let transfer = Stores::for_export(&config).await.map_err(unusable)?;
    if output == Path::new("-") {
        let counts = write(transfer, std::io::stdout().lock(), "stdout").await?.1;
        eprintln!(
            "{}",
            if hub.json { serde_json::json!(counts).to_string() } else { counts.to_string() }
        );
        return Ok(());
    }
    let mut signals = Signals::listen().context("cannot wait for signals")?;
    let counts = tokio::select! {
        // Half a file goes with the future that writes it.
        () = signals.next() => return Err(anyhow!("interrupted: nothing was exported").into()),
        counts = to_file(transfer, &output) => counts?,
    };
    let next = format!(
        "It is in {file}; the keys in it are encrypted by the hub's master key, as they were in the \
         store.\nNext:\n  dunlin import --config CONFIG --input {file}",
        file = output.display()
    );
    tell(&counts, hub.json, &next)
}

/// The file is there whole or not at all.
async fn to_file(transfer: Arc<dyn Transfer>, output: &Path) -> Result<Counts> {
    let shown = output.display();
    if output.try_exists()? {
        return Err(anyhow!("{shown} is there already: name another, or remove it"));
    }
    let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    // Made with mode 0600.
    let file = NamedTempFile::new_in(folder).with_context(|| format!("cannot make {shown}"))?;
    let (file, counts) = write(transfer, file, &shown.to_string()).await?;
    let kept = || -> Result<()> {
        file.as_file().sync_all()?;
        file.persist_noclobber(output)?;
        Ok(File::open(folder)?.sync_all()?)
    };
    kept().with_context(|| format!("cannot write {shown}"))?;
    Ok(counts)
}

async fn write<W: Write>(transfer: Arc<dyn Transfer>, to: W, name: &str) -> Result<(W, Counts)> {
    let failed = || format!("cannot write {name}");
    let (rows, mut pieces) = mpsc::channel(PIECES);
    let reading = tokio::spawn(async move { transfer.rows_read(unix_millis(), rows).await });
    let bar = progress();
    let mut writer = Writer::new(BufWriter::new(to)).with_context(failed)?;
    while let Some(piece) = pieces.recv().await {
        for row in &piece {
            writer.row(row).with_context(failed)?;
        }
        bar.inc(piece.len() as u64);
    }
    bar.finish_and_clear();
    // Without its last line, a file is none: so it is where reading has failed.
    reading.await?.context("cannot read the hub's devices")?;
    let (buffer, counts) = writer.end().with_context(failed)?;
    let to = buffer.into_inner().map_err(|error| error.into_error()).with_context(failed)?;
    Ok((to, counts))
}
