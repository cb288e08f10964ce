//! The `securedl` command: private, verified neural-network inference.
//!
//! ```text
//!  args ──► options ──► commands/* ──► pipeline/* ──► nn-poly, fingerprint, protocol
//!                            └──► report/*, output        (all the algorithms)
//! ```
//! Exit codes: 0 intact or done, 1 a server cheated, 2 an error or an unverified result.
#![forbid(unsafe_code)]

mod args;
mod commands;
mod credentials;
mod failure;
mod file_limit;
mod kind;
mod logs;
mod options;
mod output;
mod pipeline;
mod report;
mod ui;

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use args::{
    AccessCommand, Arguments, Command, EvidenceCommand, FingerprintCommand, KeysCommand, TlsCommand,
};
use failure::{FAILURE, Outcome};

fn main() -> ExitCode {
    failure::install_panic_hook();
    let arguments = Arguments::parse();
    // The hook has told what a panic was; it ends like any other failure.
    match std::panic::catch_unwind(AssertUnwindSafe(|| run(arguments.command))) {
        Ok(Ok(outcome)) => outcome.into(),
        Ok(Err(error)) => {
            failure::tell(&error);
            ExitCode::from(FAILURE)
        }
        Err(_) => ExitCode::from(FAILURE),
    }
}

fn run(command: Command) -> Result<Outcome> {
    match command {
        Command::Demo(arguments) => commands::demo::run(&arguments),
        Command::Train(arguments) => commands::train::run(&arguments),
        Command::CrossValidate(arguments) => commands::cross_validate::run(&arguments),
        Command::Approximate(arguments) => commands::approximate::run(&arguments),
        Command::Polynomialize(arguments) => commands::polynomialize::run(&arguments),
        Command::FineTune(arguments) => commands::fine_tune::run(&arguments),
        Command::Import(arguments) => commands::import::run(&arguments),
        Command::Compile(arguments) => commands::compile::run(&arguments),
        Command::Inspect(arguments) => commands::inspect::run(&arguments),
        Command::Tls(TlsCommand::Init(arguments)) => commands::tls::init(&arguments),
        Command::Tls(TlsCommand::Client(arguments)) => commands::tls::client(&arguments),
        Command::Access(AccessCommand::Add(arguments)) => commands::access::add(&arguments),
        Command::Access(AccessCommand::Check(arguments)) => commands::access::check(&arguments),
        Command::Keys(KeysCommand::Init { directory }) => commands::sign::init(&directory),
        Command::Sign(arguments) => commands::sign::sign(&arguments),
        Command::Evidence(EvidenceCommand::Verify(arguments)) => {
            commands::evidence::verify(&arguments)
        }
        Command::Serve(arguments) => commands::serve::run(&arguments),
        Command::Infer(arguments) => commands::infer::run(&arguments),
        Command::Ui(arguments) => commands::ui::run(&arguments),
        Command::Attack(arguments) => commands::attack::run(&arguments),
        Command::Fingerprint(FingerprintCommand::Generate(arguments)) => {
            commands::fingerprint::generate(&arguments)
        }
        Command::Fingerprint(FingerprintCommand::Show(arguments)) => {
            commands::fingerprint::show(&arguments)
        }
        Command::Verify(arguments) => commands::verify::run(&arguments),
        Command::Paper(command) => commands::paper::run(&command),
        Command::Bench(command) => commands::bench::run(&command),
    }
}
