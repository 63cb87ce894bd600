//! `dunlin export` and `dunlin import`: all that a stopped hub keeps of its devices, from the stores
//! of one configuration to those of another.

use std::path::PathBuf;

use clap::Args;
use dunlin_storage::postgres::PostgresError;
use indicatif::{ProgressBar, ProgressStyle};
use toml::Table;

use super::failure::Failure;
use super::output::{json, line};
use crate::config::{self, Config, Environment};

mod counts;
mod export;
mod import;
mod lines;

pub(super) use export::{ExportArgs, export};
pub(super) use import::{ImportArgs, import};

use counts::Counts;

/// Pieces on their way between a store and a file.
const PIECES: usize = 2;

/// Which hub: its stores, not its ports.
#[derive(Args)]
struct HubArgs {
    /// Data folder of the hub [default: ./dunlin-data]
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Its configuration file: `stores.devices` says where devices are.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print what was moved as JSON.
    #[arg(long)]
    json: bool,
}

impl HubArgs {
    fn load(&self, environment: &Environment) -> Result<Config, Failure> {
        let mut flags = Table::new();
        if let Some(data) = &self.data {
            let data = Table::from_iter([("data".to_owned(), data.display().to_string().into())]);
            flags.insert("hub".to_owned(), data.into());
        }
        Ok(config::load(self.config.as_deref(), environment, flags)?.config)
    }
}

/// Why the stores cannot be used.
fn unusable(error: anyhow::Error) -> Failure {
    match error.downcast_ref() {
        Some(PostgresError::Unusable { .. }) => Failure::NoHub(format!("{error:#}")),
        _ => Failure::Other(error),
    }
}

/// On stderr, if that is a terminal.
fn progress() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    match ProgressStyle::with_template("{spinner} {human_pos} rows, {elapsed}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn tell(counts: &Counts, as_json: bool, what_next: &str) -> Result<(), Failure> {
    if as_json {
        return json(&serde_json::json!(counts));
    }
    line(&format!("{counts}\n{what_next}"))
}
