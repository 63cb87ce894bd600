//! `dunlin-loadtest`: many devices on one machine, and what they measure.

mod args;
mod awaited;
mod backend;
mod check;
mod crew;
mod device;
mod feedback;
mod fleet;
mod history;
mod http;
mod identities;
mod link;
mod log_file;
mod mqtt;
mod outcome;
mod plan;
mod process;
mod report;
mod rest;
mod run;
mod scenario;
mod target;
mod tls;
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
