//! `securedl bench kernels`: linear maps per backend and layer, then every other step.

use anyhow::{Result, anyhow};
use he_core::{Backend, CiphertextBlock, Params, ParamsSpec};
use serde::Serialize;

use super::layer::{LAYERS, Layer, block};
use super::operations::{self, Operation};
use super::{Output, ceilings, clock};
use crate::args::KernelsArguments;
use crate::failure::{Hint, Outcome};
use crate::report::figures::{Figures, or_dash, percent, three_digits};
use crate::report::machine::Machine;
use crate::report::progress::Progress;

/// Outputs that exist at one time, bytes; larger layers are measured in part.
const OUTPUT_BYTES: usize = 64 << 20;
/// Runs of a case that should fit its time.
const RUNS_PER_CASE: f64 = 4.0;
/// How often the size of a part is estimated anew.
const MAX_REFINEMENTS: usize = 4;
/// Plaintext modulus of every ring here: slots at both ring degrees.
pub(super) const PLAINTEXT_MODULUS: u64 = 65_537;

/// One kind of primes: what decides how many digits a residue has.
#[derive(Debug, Clone, Copy)]
struct PrimeClass {
    bits: u32,
    ring_degree: usize,
}

/// The primes of linear segments, and of segments with a square.
const PRIMES: [PrimeClass; 2] =
    [PrimeClass { bits: 30, ring_degree: 2048 }, PrimeClass { bits: 47, ring_degree: 4096 }];

/// Everything measured.
#[derive(Debug, Serialize)]
struct KernelsReport {
    securedl: &'static str,
    machine: Machine,
    seconds_per_case: f64,
    read_bytes_per_second: f64,
    copy_bytes_per_second: f64,
    kernels: Vec<KernelFigures>,
    operations: Vec<Operation>,
}

/// One backend on one layer with one kind of prime.
#[derive(Debug, Serialize)]
struct KernelFigures {
    layer: &'static str,
    prime_bits: u32,
    ring_degree: usize,
    backend: &'static str,
    digits: usize,
    outputs: usize,
    outputs_measured: usize,
    seconds: f64,
    runs: usize,
    multiply_accumulates_per_second: f64,
    share_of_instruction_ceiling: Option<f64>,
    bytes_per_second: f64,
    share_of_copy: f64,
}

/// Measure and print.
pub(super) fn run(arguments: &KernelsArguments) -> Result<Outcome> {
    let backends = backends(&arguments.backend)?;
    let output = Output::new(&arguments.figures)?;
    let seconds = arguments.seconds_per_case;
    let machine = Machine::here();
    let screen = &output.console.screen;
    screen.fact("Machine", machine.summary());
    screen.fact("Measured", "on one core; medians of wall time");
    let report = super::one_core()?.install(|| {
        let bar = output.console.progress.spinner("memory");
        let read_bytes_per_second = ceilings::read_bytes_per_second();
        let copy_bytes_per_second = ceilings::copy_bytes_per_second();
        drop(bar);
        let progress = &output.console.progress;
        let kernels = measure_kernels(&backends, seconds, copy_bytes_per_second, progress)?;
        let fastest = backends.last().copied().unwrap_or(Backend::Scalar);
        anyhow::Ok(KernelsReport {
            securedl: env!("CARGO_PKG_VERSION"),
            machine,
            seconds_per_case: seconds,
            read_bytes_per_second,
            copy_bytes_per_second,
            kernels,
            operations: operations::measure(fastest, seconds, progress)?,
        })
    })?;
    screen.fact(
        "Memory",
        format!(
            "reads {} GB/s, copies {} GB/s (read and written)",
            three_digits(report.read_bytes_per_second / 1e9),
            three_digits(report.copy_bytes_per_second / 1e9),
        ),
    );
    print(&output, &report);
    output.finish(&report)
}

/// The kernels that `--backend` names.
fn backends(name: &str) -> Result<Vec<Backend>> {
    if name == "all" {
        return Ok(Backend::available());
    }
    let names = |backends: &[Backend]| -> String {
        backends.iter().map(|backend| backend.name()).collect::<Vec<_>>().join(", ")
    };
    let available = || format!("use all, or one of: {}", names(&Backend::available()));
    let Some(backend) = Backend::ALL.into_iter().find(|backend| backend.name() == name) else {
        return Err(anyhow!("there is no backend `{name}`")).hint(available);
    };
    if !backend.is_available() {
        return Err(anyhow!("this machine cannot run the backend `{name}`")).hint(available);
    }
    Ok(vec![backend])
}

fn measure_kernels(
    backends: &[Backend],
    seconds: f64,
    copy_bytes_per_second: f64,
    progress: &Progress,
) -> Result<Vec<KernelFigures>> {
    let bar = progress.bar("linear maps", (PRIMES.len() * LAYERS.len() * backends.len()) as u64);
    let mut figures = Vec::new();
    for &backend in backends {
        for prime in PRIMES {
            let digits = if prime.bits <= 30 { 2 } else { 3 };
            let ceiling = ceilings::multiply_accumulates_per_second(backend, digits);
            let spec =
                ParamsSpec::with_bits(prime.ring_degree, PLAINTEXT_MODULUS.into(), &[prime.bits])?;
            let params = Params::new(spec)?.with_backend(backend)?;
            for layer in LAYERS {
                bar.message(format!("{}, {} bit, {}", layer.name, prime.bits, backend.name()));
                let measured = measure_layer(&layer, &params, seconds)?;
                let MeasuredLayer { outputs_measured, seconds, runs, rate, bytes_per_second } =
                    measured;
                figures.push(KernelFigures {
                    layer: layer.name,
                    prime_bits: prime.bits,
                    ring_degree: prime.ring_degree,
                    backend: backend.name(),
                    digits,
                    outputs: layer.n_outputs(),
                    outputs_measured,
                    seconds,
                    runs,
                    multiply_accumulates_per_second: rate,
                    share_of_instruction_ceiling: ceiling.map(|ceiling| rate / ceiling),
                    bytes_per_second,
                    share_of_copy: bytes_per_second / copy_bytes_per_second,
                });
                bar.advance(1);
            }
        }
    }
    bar.finish("linear maps");
    Ok(figures)
}

struct MeasuredLayer {
    outputs_measured: usize,
    seconds: f64,
    runs: usize,
    /// Residue multiply-accumulates per second.
    rate: f64,
    /// Every input word read once and every output word written once, per second.
    bytes_per_second: f64,
}

/// Measure the largest part of a layer that fits the memory and can be repeated in the time.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a size chosen from an estimate, and rates for people"
)]
fn measure_layer(layer: &Layer, params: &Params, seconds: f64) -> Result<MeasuredLayer> {
    let words = 2 * params.ring_degree();
    let in_memory = OUTPUT_BYTES / (8 * words);
    let mut out = CiphertextBlock::zeros(params, 0, 1, 1)?;
    // Small parts are slow for their size, so an estimate from one is refined on the next.
    let mut n_wanted = 0;
    let mut part = layer.part(n_wanted)?;
    for _ in 0..MAX_REFINEMENTS {
        let (input, n_outputs) = (block(params, part.map.n_inputs())?, part.map.n_outputs());
        let timing =
            clock::measure(0.0, || part.map.apply_range_into(&input, 0..n_outputs, &mut out))?;
        let in_time = n_outputs as f64 * (seconds / RUNS_PER_CASE / timing.seconds);
        let fitting = in_memory.min(in_time as usize);
        if fitting <= n_wanted + n_wanted / 4 {
            break;
        }
        n_wanted = fitting;
        part = layer.part(n_wanted)?;
    }
    let input = block(params, part.map.n_inputs())?;
    let (n_inputs, n_outputs) = (part.map.n_inputs(), part.map.n_outputs());
    let timing =
        clock::measure(seconds, || part.map.apply_range_into(&input, 0..n_outputs, &mut out))?;
    Ok(MeasuredLayer {
        outputs_measured: n_outputs,
        seconds: timing.seconds,
        runs: timing.runs,
        rate: part.products as f64 * words as f64 / timing.seconds,
        bytes_per_second: (8 * words * (n_inputs + n_outputs)) as f64 / timing.seconds,
    })
}

fn print(output: &Output, report: &KernelsReport) {
    let screen = &output.console.screen;
    screen.heading("Linear maps");
    let columns = [
        "layer",
        "prime",
        "backend",
        "outputs measured",
        "G residue-MAC/s",
        "of the instruction's ceiling",
        "GB/s",
        "of a copy",
    ];
    let mut figures = Figures::new(&columns, 3);
    for case in &report.kernels {
        figures.row([
            case.layer.to_owned(),
            format!("{} bit, N = {}", case.prime_bits, case.ring_degree),
            case.backend.to_owned(),
            format!("{} of {}", case.outputs_measured, case.outputs),
            three_digits(case.multiply_accumulates_per_second / 1e9),
            or_dash(case.share_of_instruction_ceiling.map(percent)),
            three_digits(case.bytes_per_second / 1e9),
            percent(case.share_of_copy),
        ]);
    }
    figures.print(screen, output.style);
    screen.heading("Other steps");
    operations::figures(&report.operations).print(screen, output.style);
    for note in operations::NOTES {
        screen.gap();
        screen.paragraph(2, note);
    }
}
