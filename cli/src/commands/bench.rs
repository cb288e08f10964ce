//! `securedl bench`: what this machine does, and how close that is to what it could do.
//!
//! ```text
//!  kernels ── clock ──► linear maps, every other step        one core, beside ceilings
//!  network ── pipeline ► batches from end to end             beside the floor of counted work
//!  peers ──── network ─► another library on the same shape   beside ours
//!  load ───── a server process, many connections and clients  promises that must hold
//!  faults ─── a server process, and whatever can go wrong     likewise
//! ```

mod ceilings;
mod clock;
mod faults;
mod floor;
mod kernels;
mod layer;
mod load;
mod network;
mod operations;
mod peers;
mod server_process;
mod serving;
mod subject;
pub(super) mod workload;

use anyhow::{Context, Result};
use rayon::ThreadPool;

use crate::args::{BenchCommand, FiguresArguments};
use crate::failure::Outcome;
use crate::logs;
use crate::output::Destination;
use crate::report::Console;
use crate::report::figures::TableStyle;

/// Run one of them.
pub(crate) fn run(command: &BenchCommand) -> Result<Outcome> {
    match command {
        BenchCommand::Kernels(arguments) => kernels::run(arguments),
        BenchCommand::Network(arguments) => network::run(arguments),
        BenchCommand::Peers(arguments) => peers::run(arguments),
        BenchCommand::Load(arguments) => load::run(arguments),
        BenchCommand::Faults(arguments) => faults::run(arguments),
    }
}

/// Where figures go.
struct Output {
    console: Console,
    style: TableStyle,
    report: Option<Destination>,
}

impl Output {
    /// Check that the report can be written, before anything is measured.
    fn new(arguments: &FiguresArguments) -> Result<Self> {
        let console = Console::new(arguments.json.as_ref());
        logs::start("error", logs::Style::Brief, &console.progress);
        let report = arguments.json.as_ref().map(Destination::check).transpose()?;
        let style = if arguments.markdown { TableStyle::Markdown } else { TableStyle::Terminal };
        Ok(Self { console, style, report })
    }

    /// Write the report, if one was asked for, and make sure that everything was read.
    fn finish(&self, report: &impl serde::Serialize) -> Result<Outcome> {
        if let Some(destination) = &self.report {
            destination.write(&(serde_json::to_string_pretty(report)? + "\n"))?;
        }
        self.console.screen.finish()?;
        Ok(Outcome::Success)
    }
}

/// A pool of one thread: what runs in it is measured on one core.
fn one_core() -> Result<ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .context("no thread to measure on can be started")
}
