//! `dunlin-loadtest`: many devices on one machine, and what they measure.

mod args;
mod caller;
mod check;
mod device;
mod fleet;
#[expect(dead_code, reason = "a run is to write histories")]
mod history;
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
mod text;
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
