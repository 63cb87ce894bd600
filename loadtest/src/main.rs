//! `dunlin-loadtest`: many devices on one machine, and what they measure.

mod args;
mod caller;
mod device;
mod fleet;
mod identities;
mod link;
mod mqtt;
mod outcome;
mod process;
mod publisher;
mod report;
mod rest;
mod run;
mod target;
mod websocket;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = args::Arguments::parse();
    match run::run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("dunlin-loadtest: {error:#}");
            ExitCode::FAILURE
        }
    }
}
