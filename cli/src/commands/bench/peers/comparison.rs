//! The peer and ours, side by side.

use anyhow::Result;
use nn_poly::network::NetworkKind;
use nn_poly::plan::ActivationSide;
use serde::Serialize;

use super::super::Output;
use super::super::network::{Case, NetworkFigures, limit_threads};
use super::super::workload::Workload;
use super::bfv::{self, CONVOLUTION_TAPS, DENSE_TAPS, N_PLAINTEXT_MODULI, RING_DEGREE, Steps};
use crate::args::{PeersArguments, TransportName};
use crate::failure::Outcome;
use crate::report::figures::{Figures, median, or_dash, three_digits};
use crate::report::machine::Machine;
use crate::report::units;

/// Inputs, hidden neurons and outputs of the CryptoNets shape.
const N_INPUTS: usize = 784;
const N_MAPS: usize = 845;
const N_HIDDEN: usize = 100;
const N_OUTPUTS: usize = 10;
/// Multiply-accumulates of its convolution without those on padding: 5 maps lose one row and one
/// column of taps at the edge.
const CONVOLUTION_PRODUCTS: usize = N_MAPS * CONVOLUTION_TAPS - 5 * (2 * 13 * 5 - 1);

#[derive(Debug, Serialize)]
struct PeersReport {
    securedl: &'static str,
    machine: Machine,
    peer: PeerFigures,
    ours: Vec<NetworkFigures>,
}

/// The peer on one batch that fills its slots, all plaintext moduli together, one core.
#[derive(Debug, Serialize)]
struct PeerFigures {
    library: &'static str,
    scheme: &'static str,
    ring_degree: usize,
    plaintext_moduli: Vec<u64>,
    samples: usize,
    part: usize,
    steps: Vec<PeerStep>,
    encryption_seconds: f64,
    evaluation_seconds: f64,
    decryption_seconds: f64,
    bytes_up: u64,
    bytes_down: u64,
}

/// One step for the whole network.
#[derive(Debug, Serialize)]
struct PeerStep {
    step: &'static str,
    /// Repetitions of the unit in the whole network, for each plaintext modulus.
    count: usize,
    unit: &'static str,
    unit_seconds: f64,
    /// All plaintext moduli.
    seconds: f64,
    scaled_from: String,
}

/// Measure and print.
pub(super) fn run(arguments: &PeersArguments) -> Result<Outcome> {
    let output = Output::new(&arguments.figures)?;
    limit_threads(1)?;
    let (screen, progress) = (&output.console.screen, &output.console.progress);
    let machine = Machine::here();
    screen.fact("Machine", machine.summary());
    screen.fact("Network", "cryptonets, 4-bit inputs and weights, on one core");
    let peer = measure_peer(arguments.part.into(), progress)?;
    let workload = Workload::random(NetworkKind::Cryptonets, arguments.batch.samples as usize, 0)?;
    let ours = [ActivationSide::Client, ActivationSide::Server]
        .into_iter()
        .map(|side| {
            let repeat = arguments.batch.repeat.into();
            let case = Case { side, transport: TransportName::Pipe, repeat };
            case.measure(&workload, progress)
        })
        .collect::<Result<Vec<_>>>()?;
    screen.heading(format_args!(
        "{} of {}: {} slots, {N_PLAINTEXT_MODULI} plaintext moduli, no refresh",
        peer.scheme, peer.library, RING_DEGREE
    ));
    steps(&peer).print(screen, output.style);
    screen.heading("Side by side, seconds on one core");
    side_by_side(&peer, &ours).print(screen, output.style);
    for note in [
        "Ours refreshes at the client between layers: three rounds, and values of a few bits. The \
         peer needs one round, and plaintext moduli for the last value. Ours checks every reply; the \
         peer checks nothing.",
        "A batch of the peer costs the same however few samples are in it.",
    ] {
        screen.gap();
        screen.paragraph(2, note);
    }
    let report = PeersReport { securedl: env!("CARGO_PKG_VERSION"), machine, peer, ours };
    output.finish(&report)
}

fn measure_peer(part: usize, progress: &crate::report::progress::Progress) -> Result<PeerFigures> {
    let plaintext_moduli = bfv::plaintext_moduli()?;
    let bar = progress.bar("peer", plaintext_moduli.len() as u64);
    let mut found = Vec::new();
    for &t in &plaintext_moduli {
        found.push(bfv::measure(t, part)?);
        bar.advance(1);
    }
    bar.finish("peer");
    let of = |step: fn(&Steps) -> f64| median(&mut found.iter().map(step).collect::<Vec<_>>());
    let bytes = |of: fn(&Steps) -> usize| found.iter().map(of).sum::<usize>() as u64;
    let squares = of(|s| s.square);
    let outputs = |n: usize| format!("{part} of {n} outputs");
    let steps = [
        (
            "encryption",
            N_INPUTS,
            "ciphertext",
            of(|s| s.encrypt),
            format!("{CONVOLUTION_TAPS} of {N_INPUTS}"),
        ),
        (
            "convolution",
            CONVOLUTION_PRODUCTS,
            "product",
            of(|s| s.convolution_product),
            outputs(N_MAPS),
        ),
        ("square", N_MAPS, "ciphertext", squares, outputs(N_MAPS)),
        (
            "dense 845 → 100",
            N_MAPS * N_HIDDEN,
            "product",
            of(|s| s.dense_product),
            format!("{part} rows of {DENSE_TAPS} weights"),
        ),
        ("square", N_HIDDEN, "ciphertext", squares, outputs(N_HIDDEN)),
        (
            "dense 100 → 10",
            N_HIDDEN * N_OUTPUTS,
            "product",
            of(|s| s.dense_product),
            format!("{part} rows of {DENSE_TAPS} weights"),
        ),
        ("decryption", N_OUTPUTS, "ciphertext", of(|s| s.decrypt), format!("{part} ciphertexts")),
    ];
    #[expect(clippy::cast_precision_loss, reason = "small counts")]
    let steps: Vec<PeerStep> = steps
        .into_iter()
        .map(|(step, count, unit, unit_seconds, scaled_from)| PeerStep {
            step,
            count,
            unit,
            unit_seconds,
            seconds: (N_PLAINTEXT_MODULI * count) as f64 * unit_seconds,
            scaled_from,
        })
        .collect();
    let sum = |wanted: fn(&str) -> bool| {
        steps.iter().filter(|s| wanted(s.step)).map(|s| s.seconds).sum::<f64>()
    };
    let is_server = |step: &str| step != "encryption" && step != "decryption";
    Ok(PeerFigures {
        library: "fhe 0.1.1",
        scheme: "BFV",
        ring_degree: RING_DEGREE,
        plaintext_moduli,
        samples: RING_DEGREE,
        part,
        encryption_seconds: sum(|step| step == "encryption"),
        evaluation_seconds: sum(is_server),
        decryption_seconds: sum(|step| step == "decryption"),
        bytes_up: N_INPUTS as u64 * bytes(|s| s.request_bytes),
        bytes_down: N_OUTPUTS as u64 * bytes(|s| s.reply_bytes),
        steps,
    })
}

fn steps(peer: &PeerFigures) -> Figures {
    let columns = ["step", "scaled from", "unit", "µs each", "count", "seconds, all moduli"];
    let mut table = Figures::new(&columns, 3);
    for step in &peer.steps {
        table.row([
            step.step.to_owned(),
            step.scaled_from.clone(),
            step.unit.to_owned(),
            three_digits(1e6 * step.unit_seconds),
            format!("{N_PLAINTEXT_MODULI} × {}", units::count(step.count)),
            three_digits(step.seconds),
        ]);
    }
    table
}

fn side_by_side(peer: &PeerFigures, ours: &[NetworkFigures]) -> Figures {
    let columns = [
        "who",
        "samples",
        "encryption",
        "server",
        "checks",
        "decryption",
        "all",
        "µs per image",
        "CPU",
        "up",
        "down",
    ];
    let mut table = Figures::new(&columns, 1);
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let per_image = |seconds: f64, samples: usize| three_digits(1e6 * seconds / samples as f64);
    let all = peer.encryption_seconds + peer.evaluation_seconds + peer.decryption_seconds;
    table.row([
        format!("{} ({})", peer.library, peer.scheme),
        units::count(peer.samples),
        three_digits(peer.encryption_seconds),
        three_digits(peer.evaluation_seconds),
        "–".to_owned(),
        three_digits(peer.decryption_seconds),
        three_digits(all),
        per_image(all, peer.samples),
        "–".to_owned(),
        units::bytes(peer.bytes_up),
        units::bytes(peer.bytes_down),
    ]);
    for figures in ours {
        let seconds = figures.seconds;
        table.row([
            format!("ours, activation at the {}", figures.activation),
            units::count(figures.samples),
            three_digits(seconds.encode + seconds.encrypt),
            three_digits(seconds.evaluate),
            three_digits(seconds.check),
            three_digits(seconds.decrypt),
            three_digits(seconds.total),
            per_image(seconds.total, figures.samples),
            or_dash(figures.cpu_seconds.map(three_digits)),
            units::bytes(figures.bytes_up),
            units::bytes(figures.bytes_down),
        ]);
    }
    table
}
