//! `dunlin twin …`

use clap::Subcommand;

use super::failure::Failure;
use super::identity::{DeviceArgs, MaybeModuleArgs};
use super::{input, output};
use crate::client::TwinPatch;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Show a twin as JSON: tags, desired and reported properties.
    #[command(after_help = "Example:\n  dunlin twin show -d my-device")]
    Show {
        #[command(flatten)]
        device: DeviceArgs,
        #[command(flatten)]
        module: MaybeModuleArgs,
        /// Taken for the sake of scripts: it is JSON in any case.
        #[arg(long)]
        json: bool,
    },
    /// Change what is named of tags and desired properties, and nothing else. null removes.
    #[command(after_help = "\
Example: set one thing and remove another; only if nobody has changed the twin meanwhile
  dunlin twin update -d my-device --desired '{\"interval\": 10, \"colour\": null}'
  dunlin twin update -d my-device --tags '{\"site\": {\"floor\": 2}}' --etag AAAAAAAAAAI=")]
    Update {
        #[command(flatten)]
        device: DeviceArgs,
        #[command(flatten)]
        module: MaybeModuleArgs,
        /// Tags: a JSON object, or a file that holds one.
        #[arg(long, value_name = "JSON")]
        tags: Option<String>,
        /// Desired properties: a JSON object, or a file that holds one.
        #[arg(long, value_name = "JSON")]
        desired: Option<String>,
        /// Only if this is the current ETag.
        #[arg(long)]
        etag: Option<String>,
        /// Taken for the sake of scripts: it is JSON in any case.
        #[arg(long)]
        json: bool,
    },
    /// Put tags and desired properties in the place of those that are there. What the JSON does not
    /// name is then gone; reported properties stay.
    #[command(after_help = "\
Example: edit a twin in a file
  dunlin twin show -d my-device > twin.json
  dunlin twin replace -d my-device --json twin.json")]
    Replace {
        #[command(flatten)]
        device: DeviceArgs,
        #[command(flatten)]
        module: MaybeModuleArgs,
        /// The twin: JSON, or a file that holds it. What a twin shows beside tags and desired
        /// properties is passed over.
        #[arg(long, short = 'j', value_name = "JSON")]
        json: String,
        /// Only if this is the current ETag.
        #[arg(long)]
        etag: Option<String>,
    },
}

pub(super) async fn run(command: Command) -> Result<(), Failure> {
    let twin = match command {
        Command::Show { device, module, .. } => {
            let id = device.id_of(&module)?;
            device.login.client()?.twin_get(id.as_str()).await?
        }
        Command::Update { device, module, tags, desired, etag, .. } => {
            if tags.is_none() && desired.is_none() {
                let text = "nothing to update: give --tags or --desired";
                return Err(Failure::Usage(text.to_owned()));
            }
            let id = device.id_of(&module)?;
            let tags = tags.map(|text| input::json("--tags", &text)).transpose()?;
            let desired = desired.map(|text| input::json("--desired", &text)).transpose()?;
            let patch = TwinPatch::new(tags.as_deref(), desired.as_deref());
            device.login.client()?.twin_update(id.as_str(), &patch, etag.as_deref()).await?
        }
        Command::Replace { device, module, json, etag } => {
            let id = device.id_of(&module)?;
            let twin = input::json("--json", &json)?;
            device.login.client()?.twin_replace(id.as_str(), &twin, etag.as_deref()).await?
        }
    };
    output::json(&twin)
}
