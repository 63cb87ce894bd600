//! `dunlin method …`

use clap::{Args, Subcommand};

use super::failure::Failure;
use super::identity::{DeviceArgs, MaybeModuleArgs};
use super::{input, output};
use crate::client::MethodCall;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Call a method of a connected device and print its answer: status and payload, as JSON.
    #[command(after_help = "\
Example: reboot in ten seconds; wait a minute for the device to connect, should it not be there
  dunlin method invoke -d my-device -n reboot --method-payload '{\"in\": 10}' --connect-timeout 60")]
    Invoke(InvokeArgs),
}

#[derive(Args)]
pub(super) struct InvokeArgs {
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    module: MaybeModuleArgs,
    /// Name of the method.
    #[arg(long, short = 'n', visible_alias = "mn", value_name = "NAME")]
    method_name: String,
    /// What it is given: JSON, or a file that holds it. Without it: null.
    #[arg(long, visible_alias = "mp", value_name = "JSON")]
    method_payload: Option<String>,
    /// Seconds to wait for its answer.
    #[arg(long, visible_alias = "to", value_name = "SECONDS", default_value_t = 30)]
    timeout: u32,
    /// Seconds to wait for the device to connect, should it not be there.
    #[arg(long, visible_alias = "ct", value_name = "SECONDS", default_value_t = 0)]
    connect_timeout: u32,
    /// Taken for the sake of scripts: it is JSON in any case.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(command: Command) -> Result<(), Failure> {
    let Command::Invoke(arguments) = command;
    let InvokeArgs {
        device, module, method_name, method_payload, timeout, connect_timeout, ..
    } = arguments;
    let id = device.id_of(&module)?;
    let payload = method_payload.map(|text| input::json("--method-payload", &text)).transpose()?;
    let call = MethodCall {
        method_name: &method_name,
        response_timeout_in_seconds: timeout,
        connect_timeout_in_seconds: connect_timeout,
        payload: payload.as_deref(),
    };
    output::json(&device.login.client()?.method_invoke(id.as_str(), &call).await?)
}
