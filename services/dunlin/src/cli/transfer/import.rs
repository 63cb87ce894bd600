//! `dunlin import`.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use clap::Args;
use dunlin_model::Identity;
use dunlin_registry::MasterKey;
use dunlin_storage::StoreError;
use dunlin_storage::transfer::{Filling, Piece, Row};
use tokio::sync::mpsc;

use super::super::failure::Failure;
use super::lines::Reader;
use super::{Counts, HubArgs, PIECES, progress, tell, unusable};
use crate::config::Environment;
use crate::hub::Stores;
use crate::master_key;

#[derive(Args)]
pub(in super::super) struct ImportArgs {
    #[command(flatten)]
    hub: HubArgs,
    /// File that `dunlin export` has made; - reads stdin.
    #[arg(long, short, value_name = "FILE")]
    input: PathBuf,
}

pub(in super::super) async fn import(
    arguments: ImportArgs,
    environment: &Environment,
) -> Result<(), Failure> {
    let ImportArgs { hub, input } = arguments;
    let config = hub.load(environment)?;
    let data = &config.hub.data;
    let key = master_key::find(data, environment)?.ok_or_else(|| {
        anyhow!(
            "there is no master key: set {} to that of the hub that was exported, or copy its \
             master.key to {}",
            master_key::VARIABLE,
            data.display()
        )
    })?;
    // Before anything is opened, let alone made: is there something to import?
    let named = || format!("cannot import {}", input.display());
    let from: Box<dyn BufRead + Send> = match input.as_path() {
        path if path == Path::new("-") => Box::new(BufReader::new(std::io::stdin())),
        path => Box::new(BufReader::new(File::open(path).with_context(named)?)),
    };
    let file = Reader::new(from).with_context(named)?;
    let transfer = Stores::for_import(&config).await.map_err(unusable)?;
    let (to, pieces) = mpsc::channel(PIECES);
    // A file is read on a thread of its own: stdin may be slow.
    let reading = tokio::task::spawn_blocking(move || read(file, &key, &to));
    let written = transfer.rows_write(pieces).await;
    // What is wrong with the file is why the store was told no more.
    let read = reading.await.map_err(anyhow::Error::from)?;
    let counts = match (read, written) {
        (Ok(counts), Ok(())) => counts,
        (_, Err(StoreError::AlreadyExists)) => {
            let why = "there are devices already, and nothing was imported: import into a new data \
                       folder or database, or delete the devices first";
            return Err(Failure::Refused(why.to_owned()));
        }
        (Err(error), _) => {
            return Err(error.context("nothing was imported").context(named()).into());
        }
        (Ok(_), Err(error)) => {
            let what = "nothing was imported, or all of it, if the connection was lost at the very \
                        end: run it again, and it says so";
            return Err(anyhow!(error).context(what).into());
        }
    };
    let mut next = "Next: start the hub on this configuration, under the names and with the \
                    certificate that devices know, and leave the one that was exported stopped"
        .to_owned();
    if environment.contains_key(master_key::VARIABLE) {
        next.push_str(&format!("\nIt wants this {} at every start", master_key::VARIABLE));
    }
    tell(&counts, hub.json, &next)
}

/// Hands on what the file holds; the end, only if all of it is good.
fn read<R: BufRead>(
    mut file: Reader<R>,
    key: &MasterKey,
    to: &mpsc::Sender<Piece>,
) -> Result<Counts> {
    let bar = progress();
    let mut filling = Filling::default();
    while let Some(row) = file.row()? {
        check_secrets(&row, key).with_context(|| format!("line {}", file.lines()))?;
        bar.inc(1);
        // The store says by itself why it takes no more.
        if let Some(piece) = filling.push(row)
            && to.blocking_send(Piece::Rows(piece)).is_err()
        {
            return Ok(file.counts());
        }
    }
    bar.finish_and_clear();
    for piece in [Piece::Rows(filling.take()), Piece::Last] {
        let _ = to.blocking_send(piece);
    }
    Ok(file.counts())
}

/// A hub with another master key than the one that sealed them could let nobody in.
fn check_secrets(row: &Row, key: &MasterKey) -> Result<()> {
    let (opens, what) = match row.table().name {
        "setting" => {
            let name = row.text("name");
            (key.check_setting(name, row.blob("value")), format!("the hub's {name}"))
        }
        "identity" => {
            let id = match row.text("module_id") {
                "" => Identity::device(row.text("device_id"))?,
                module => Identity::module(row.text("device_id"), module)?,
            };
            let (kind, sealed) = (row.text("auth_type"), row.blob("credentials"));
            (key.check_credentials(&id, kind, sealed), format!("the credentials of {id}"))
        }
        _ => return Ok(()),
    };
    opens.with_context(|| {
        format!(
            "{what} cannot be read with the master key of this configuration: it must be that of the \
             hub that was exported (its {}, or master.key in its data folder)",
            master_key::VARIABLE
        )
    })
}
