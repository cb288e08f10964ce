//! Time and traffic of encrypted batches, as the SecureDL paper tabulates them.

use std::fs;

use anyhow::{Context, Result};
use clap::ValueEnum;
use nn_poly::model::Bits;
use nn_poly::network::NetworkKind;

use crate::args::{ComparisonArguments, TableArguments, TabularArguments, TabularData};
use crate::failure::Outcome;
use crate::output::OutputFile;
use crate::pipeline::tabulating::shares;
use crate::pipeline::tabulating::{BatchRecord, Design, Laboratory, Mode, Samples, Scale};
use crate::report::Console;
use crate::report::published::{BATCHES, TABLE_2_BATCH, TABLE_3_BATCH};
use crate::report::tables::{self, Report};

/// Side of the grid that features are laid on: that of the benchmark's images, and the smallest that
/// its layers take.
const SIDES: (usize, usize) = (28, 16);
/// Samples of a batch with `--quick`.
const QUICK_BATCH: u64 = 64;
/// Most convolutions beyond the benchmark's.
const MOST_MORE: usize = 3;
/// Weights of networks without refreshes need more bits, or answer less well: both are measured.
const NON_INTERACTIVE_BITS: [Bits; 2] =
    [Bits { input: 4, weight: 4, activation: 4 }, Bits { input: 4, weight: 6, activation: 4 }];

/// Six tables on the benchmark network and on a small one.
pub(super) fn table2(arguments: &TabularArguments) -> Result<Outcome> {
    let only = arguments.only();
    let call = format!("table2{only}");
    publish("table2", &call, &arguments.common, |laboratory| {
        let mut records = Vec::new();
        for data in arguments.data() {
            for design in [benchmark(arguments, data, 0), small(data)] {
                records.extend(both_sides(laboratory, design, arguments.common.batch())?);
            }
        }
        Ok((tables::table2(&records), None))
    })
}

/// The same with more convolutions.
pub(super) fn table10_to_12(arguments: &TabularArguments) -> Result<Outcome> {
    let call = format!("table10-12{}", arguments.only());
    publish("table10-12", &call, &arguments.common, |laboratory| {
        let mut records = Vec::new();
        for more in 1..=MOST_MORE {
            for data in arguments.data() {
                let design = benchmark(arguments, data, more);
                records.extend(both_sides(laboratory, design, arguments.common.batch())?);
            }
        }
        Ok((tables::table10_to_12(&records), None))
    })
}

/// MNIST by three methods.
pub(super) fn table3(arguments: &ComparisonArguments) -> Result<Outcome> {
    if !arguments.without_secureml {
        shares::check_built_in()?;
    }
    let call =
        if arguments.without_secureml { "table3 --without-secureml" } else { "table3" }.to_owned();
    let (designs, n_samples) = if arguments.common.quick {
        (vec![Design { samples: Samples::CoarseMnist, ..digits(NetworkKind::Mlp) }], QUICK_BATCH)
    } else {
        (vec![digits(NetworkKind::Cryptonets), digits(NetworkKind::Securedl)], TABLE_3_BATCH)
    };
    publish("table3", &call, &arguments.common, |laboratory| {
        let (mut batches, mut shared, mut impossible) = (Vec::new(), Vec::new(), Vec::new());
        for design in designs {
            let (kind, subject) = (design.kind, laboratory.subject(design)?);
            for mode in [Mode::Client, Mode::Server] {
                batches.push(subject.measure(mode, n_samples)?);
            }
            for bits in NON_INTERACTIVE_BITS {
                match subject.measure_if_possible(Mode::NonInteractive(bits), n_samples)? {
                    Ok(record) => batches.push(record),
                    Err(reason) => impossible.push(format!("{kind} at {bits} bits: {reason}")),
                }
            }
            // Shares of every value of the benchmark network would take more memory than most have.
            if !arguments.without_secureml && kind != NetworkKind::Securedl {
                shared.push(subject.measure_shares(n_samples)?);
            }
        }
        Ok((tables::table3(&batches, &shared, &impossible), None))
    })
}

/// The benchmark network on batches of all sizes.
pub(super) fn fig5(arguments: &TableArguments) -> Result<Outcome> {
    let (kind, sizes): (NetworkKind, &[u64]) = if arguments.quick {
        (NetworkKind::Cryptonets, &[16, QUICK_BATCH])
    } else {
        (NetworkKind::Securedl, &BATCHES)
    };
    publish("fig5", "fig5", arguments, |laboratory| {
        let subject = laboratory.subject(digits(kind))?;
        let mut records = Vec::new();
        for mode in [Mode::Client, Mode::Server] {
            for &size in sizes {
                records.push(subject.measure(mode, size)?);
            }
        }
        Ok((tables::fig5(&records), Some(tables::fig5_plot(&records)?)))
    })
}

const fn digits(kind: NetworkKind) -> Design {
    Design { kind, more_convolutions: 0, samples: Samples::Mnist }
}

const fn small(data: TabularData) -> Design {
    let samples = Samples::Table(data.name());
    Design { kind: NetworkKind::Mlp, more_convolutions: 0, samples }
}

const fn benchmark(arguments: &TabularArguments, data: TabularData, more: usize) -> Design {
    let side = if arguments.common.quick { SIDES.1 } else { SIDES.0 };
    let samples = Samples::Grid(data.name(), side);
    Design { kind: NetworkKind::Securedl, more_convolutions: more, samples }
}

fn both_sides(
    laboratory: &Laboratory<'_>,
    design: Design,
    n_samples: u64,
) -> Result<[BatchRecord; 2]> {
    let subject = laboratory.subject(design)?;
    Ok([subject.measure(Mode::Server, n_samples)?, subject.measure(Mode::Client, n_samples)?])
}

impl TableArguments {
    /// Samples of a batch of a table.
    const fn batch(&self) -> u64 {
        if self.quick { QUICK_BATCH } else { TABLE_2_BATCH }
    }
}

impl TabularArguments {
    /// The data sets that are wanted.
    fn data(&self) -> Vec<TabularData> {
        let all = TabularData::value_variants().iter().copied();
        all.filter(|data| self.only.is_empty() || self.only.contains(data)).collect()
    }

    /// Flags that repeat the choice.
    fn only(&self) -> String {
        self.only.iter().map(|data| format!(" --only {}", data.name())).collect()
    }
}

/// Measure and write down: `NAME.csv`, `NAME.md`, and `NAME.svg` if there is a picture.
fn publish(
    name: &str,
    call: &str,
    arguments: &TableArguments,
    measure: impl FnOnce(&Laboratory<'_>) -> Result<(Report, Option<String>)>,
) -> Result<Outcome> {
    let console = Console::new(None);
    fs::create_dir_all(&arguments.out)
        .with_context(|| format!("cannot create {}", arguments.out.display()))?;
    let file =
        |extension: &str| OutputFile::check(&arguments.out.join(format!("{name}.{extension}")));
    let (csv, plot, markdown) = (file("csv")?, file("svg")?, file("md")?);
    let runtime = crate::commands::runtime()?;
    let laboratory = Laboratory {
        data: &arguments.data,
        kept: &arguments.out.join("study"),
        scale: Scale::new(arguments.quick, arguments.seed),
        runtime: &runtime,
        progress: &console.progress,
    };
    let (report, picture) = measure(&laboratory)?;
    let quick = if arguments.quick { " --quick" } else { "" };
    let call = format!("securedl paper {call}{quick} --seed {}", arguments.seed);
    report.print(&console.screen);
    console.screen.gap();
    csv.write(report.csv.as_bytes())?;
    console.screen.fact("Figures", csv.shown().display());
    if let Some(picture) = picture {
        plot.write(picture.as_bytes())?;
        console.screen.fact("Plot", plot.shown().display());
    }
    markdown.write(report.markdown(&call).as_bytes())?;
    console.screen.fact("Report", markdown.shown().display());
    console.screen.finish()?;
    Ok(Outcome::Success)
}
