//! The command line. Its flags follow `az iot` where that has them.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Environment, REFERENCE};

mod announce;
mod c2d;
mod ca;
mod device;
mod events;
mod failure;
mod feedback;
mod health;
mod identity;
mod input;
mod login;
mod method;
mod module;
mod monitor;
mod output;
mod policy;
mod serve;
mod simulate;
mod twin;

use failure::Failure;
use login::LoginArgs;
use output::line;

/// An open device hub that speaks the Azure IoT Hub protocols.
#[derive(Parser)]
#[command(
    name = "dunlin",
    version,
    after_help = "\
Example: start a hub on this machine, and in another terminal create a device and watch its events
  dunlin up
  dunlin device create -d my-device
  dunlin events monitor -d my-device"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a hub on this machine: all roles in one process, embedded stores.
    #[command(after_help = "\
Example: a hub on an address of its own, with a name that devices know it by
  dunlin up --data ./my-hub --bind 127.0.0.2 --hostname my-hub.example.com")]
    Up(serve::UpArgs),
    /// Run a hub as a service: nothing is printed but the log.
    #[command(after_help = "\
Example: what a service manager starts; and the registry alone, on stores that are servers
  dunlin run --config hub.toml --log-json
  dunlin run --config hub.toml --roles registry")]
    Run(serve::RunArgs),
    /// Ask whether a hub is ready: 0 if so, 1 if not yet, 3 if there is none.
    #[command(after_help = "\
Example: what a container's health check calls
  dunlin health
  dunlin health --address 127.0.0.2:9600")]
    Health(health::HealthArgs),
    /// Show what can be configured.
    #[command(after_help = "\
Example: begin a configuration file
  dunlin config --print > hub.toml")]
    Config {
        /// Print every setting with its default.
        #[arg(long, required = true)]
        print: bool,
    },
    /// Manage device identities.
    #[command(after_help = "\
Example: a device and the connection string its SDK wants
  dunlin device create -d my-device
  dunlin device connection-string -d my-device")]
    Device {
        #[command(subcommand)]
        command: device::Command,
    },
    /// Manage the module identities of a device.
    #[command(after_help = "\
Example: a module and the connection string its SDK wants
  dunlin module create -d my-device -m my-module
  dunlin module connection-string -d my-device -m my-module")]
    Module {
        #[command(subcommand)]
        command: module::Command,
    },
    /// Show and change the twins of devices and modules.
    #[command(after_help = "\
Example: tell a device how often to send, and see what it reports
  dunlin twin update -d my-device --desired '{\"interval\": 10}'
  dunlin twin show -d my-device")]
    Twin {
        #[command(subcommand)]
        command: twin::Command,
    },
    /// Call methods of connected devices and modules.
    #[command(after_help = "\
Example: call a method and print what the device answers
  dunlin method invoke -d my-device -n reboot --method-payload '{\"in\": 10}'")]
    Method {
        #[command(subcommand)]
        command: method::Command,
    },
    /// Send messages to devices, and receive them as a device.
    #[command(
        name = "c2d",
        after_help = "\
Example: send a message and hear what becomes of it
  dunlin c2d send -d my-device --data 'hello' --ack full
  dunlin feedback monitor"
    )]
    C2d {
        #[command(subcommand)]
        command: c2d::Command,
    },
    /// Hear what became of messages to devices.
    #[command(after_help = "\
Example: print feedback as it comes
  dunlin feedback monitor")]
    Feedback {
        #[command(subcommand)]
        command: feedback::Command,
    },
    /// Manage shared access policies, by which back ends log in.
    #[command(after_help = "\
Example: a policy that may read the registry, and the connection string a back end wants
  dunlin policy create -n backend --permissions RegistryRead
  dunlin policy connection-string -n backend")]
    Policy {
        #[command(subcommand)]
        command: policy::Command,
    },
    /// Manage the CA certificates that vouch for devices.
    #[command(after_help = "\
Example: let every device in that has a certificate of this CA with its id for a common name
  dunlin ca add -n factory --path ca.pem
  dunlin ca verify -n factory
  dunlin device create -d my-device --auth-method x509_ca")]
    Ca {
        #[command(subcommand)]
        command: ca::Command,
    },
    /// Read what devices send.
    #[command(after_help = "\
Example: watch one device
  dunlin events monitor -d my-device")]
    Events {
        #[command(subcommand)]
        command: events::Command,
    },
}

/// Runs the command of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let environment: Environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::from(anyhow::Error::from(error)).report(),
    };
    let done = runtime.block_on(async {
        match cli.command {
            Command::Up(arguments) => serve::up(arguments, &environment).await,
            Command::Run(arguments) => serve::run(arguments, &environment).await,
            Command::Health(arguments) => health::run(arguments, &environment).await,
            Command::Config { .. } => line(REFERENCE.trim_end()),
            Command::Device { command } => device::run(command).await,
            Command::Module { command } => module::run(command).await,
            Command::Twin { command } => twin::run(command).await,
            Command::Method { command } => method::run(command).await,
            Command::C2d { command } => c2d::run(command).await,
            Command::Feedback { command } => feedback::run(command).await,
            Command::Policy { command } => policy::run(command).await,
            Command::Ca { command } => ca::run(command).await,
            Command::Events { command } => events::run(command).await,
        }
    });
    // What is still blocked has nothing to say any more.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Where the data folder of the hub on this machine is.
fn default_data() -> PathBuf {
    crate::config::Hub::default().data
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_command_is_sound_and_shows_an_example() {
        fn check(command: &clap::Command) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example"), "{} has no example", command.get_name());
            command.get_subcommands().for_each(check);
        }
        let command = Cli::command();
        command.clone().debug_assert();
        check(&command);
    }
}
