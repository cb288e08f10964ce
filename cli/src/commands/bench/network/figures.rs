//! The figures of `securedl bench network`, for people and programs.

use anyhow::{Context, Result};
use he_core::Backend;
use nn_poly::plan::{Packing, SegmentForecast};
use serde::Serialize;

use super::super::floor::Floor;
use super::super::serving::BlockTimes;
use super::super::workload::Workload;
use super::{Case, Repeated};
use crate::args::TransportName;
use crate::pipeline::inference::Run;
use crate::report::figures::{Figures, TableStyle, median, or_dash, percent, three_digits};
use crate::report::machine::Machine;
use crate::report::terminal::Screen;
use crate::report::units;

/// Everything measured about one network. `null` is unknown.
#[derive(Debug, Serialize)]
pub(in super::super) struct NetworkFigures {
    securedl: &'static str,
    machine: Machine,
    backend: Option<&'static str>,
    workload: String,
    pub(in super::super) activation: String,
    transport: &'static str,
    threads: usize,
    pub(in super::super) samples: usize,
    repeat: usize,
    batches: usize,
    blocks: u64,
    rounds: u32,
    matches_integer_network: bool,
    pub(in super::super) seconds: Seconds,
    server_seconds: ServerSeconds,
    images_per_second: f64,
    pub(in super::super) bytes_up: u64,
    pub(in super::super) bytes_down: u64,
    bytes_up_per_image: f64,
    bytes_down_per_image: f64,
    peak_memory_bytes: Option<u64>,
    /// Whether the peak is that of the measured runs, and not of the whole process.
    peak_memory_is_of_the_runs: bool,
    pub(in super::super) cpu_seconds: Option<f64>,
    one_image: OneImage,
    floor: Floor,
    /// Floor over all threads, divided by the wall time.
    share_of_floor: Option<f64>,
    /// Floor on one core, divided by the CPU time.
    share_of_floor_cpu: Option<f64>,
    segments: Vec<SegmentFigures>,
}

/// Wall time of the whole, then busy time of each phase.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(in super::super) struct Seconds {
    /// Wall time.
    pub(in super::super) total: f64,
    pub(in super::super) encode: f64,
    pub(in super::super) encrypt: f64,
    /// Between sending and the last byte of the reply, without the server's evaluation; blocks in
    /// flight together count each.
    network: f64,
    /// The server, as it reports.
    pub(in super::super) evaluate: f64,
    pub(in super::super) check: f64,
    pub(in super::super) decrypt: f64,
}

impl Seconds {
    pub(super) fn of(run: &Run) -> Self {
        let total = run.total.as_secs_f64();
        let Some(costs) = &run.costs else { return Self { total, ..Self::default() } };
        let times = &costs.tally.times;
        Self {
            total,
            encode: times.encode.as_secs_f64(),
            encrypt: times.encrypt.as_secs_f64(),
            network: costs.network.as_secs_f64(),
            evaluate: costs.evaluate.as_secs_f64(),
            check: times.check.as_secs_f64(),
            decrypt: times.decrypt.as_secs_f64(),
        }
    }

    /// The median of each.
    pub(super) fn medians(runs: &[Self]) -> Self {
        let of = |phase: fn(&Self) -> f64| median(&mut runs.iter().map(phase).collect::<Vec<_>>());
        Self {
            total: of(|s| s.total),
            encode: of(|s| s.encode),
            encrypt: of(|s| s.encrypt),
            network: of(|s| s.network),
            evaluate: of(|s| s.evaluate),
            check: of(|s| s.check),
            decrypt: of(|s| s.decrypt),
        }
    }
}

/// The server alone, without a client beside it: wall time of all blocks, one after the other.
#[derive(Debug, Clone, Copy, Serialize)]
struct ServerSeconds {
    /// Unpacking and expanding requests.
    receive: f64,
    /// From the linear maps to packed replies.
    evaluate: f64,
}

/// One image alone, with a plan compiled for one.
#[derive(Debug, Clone, Copy, Serialize)]
struct OneImage {
    seconds: f64,
    bytes_up: u64,
    bytes_down: u64,
    matches_integer_network: bool,
}

/// One segment.
#[derive(Debug, Clone, Serialize)]
pub(super) struct SegmentFigures {
    segment: u32,
    ring_degree: u32,
    plaintext_modulus_bits: f64,
    ciphertext_modulus_bits: f64,
    packing: Packing,
    inputs: u32,
    outputs: u32,
    pub(super) blocks: u64,
    occupancy: f64,
    bytes_up: u64,
    bytes_down: u64,
    /// The server on one block, alone on all threads, wall time.
    block_seconds: BlockTimes,
}

impl SegmentFigures {
    pub(super) fn new(forecast: &SegmentForecast, block_seconds: BlockTimes) -> Self {
        Self {
            segment: forecast.segment,
            ring_degree: forecast.ring_degree,
            plaintext_modulus_bits: forecast.plaintext_modulus_bits,
            ciphertext_modulus_bits: forecast.ciphertext_modulus_bits,
            packing: forecast.packing,
            inputs: forecast.n_inputs,
            outputs: forecast.n_outputs,
            blocks: forecast.blocks,
            occupancy: forecast.occupancy,
            bytes_up: forecast.bytes_up + forecast.seed_bytes,
            bytes_down: forecast.bytes_down,
            block_seconds,
        }
    }
}

impl NetworkFigures {
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    pub(super) fn new(
        case: &Case,
        workload: &Workload,
        batch: &Repeated,
        alone: &Repeated,
        segments: Vec<SegmentFigures>,
        floor: Floor,
        backend: Option<Backend>,
    ) -> Result<Self> {
        const NO_COSTS: &str = "an encrypted run has costs";
        let samples = batch.last.n_samples;
        let costs = batch.last.costs.as_ref().context(NO_COSTS)?;
        let of_one = alone.last.costs.as_ref().context(NO_COSTS)?;
        let threads = rayon::current_num_threads();
        let sum = |part: fn(&BlockTimes) -> f64| {
            segments.iter().map(|s| s.blocks as f64 * part(&s.block_seconds)).sum()
        };
        let share = |time: f64| floor.core_seconds.map(|floor| floor / time);
        Ok(Self {
            securedl: env!("CARGO_PKG_VERSION"),
            machine: Machine::here(),
            backend: backend.map(Backend::name),
            workload: workload.description.clone(),
            activation: case.side.to_string(),
            transport: match case.transport {
                TransportName::Pipe => "pipe",
                TransportName::Tls => "tls",
            },
            threads,
            samples,
            repeat: case.repeat,
            batches: costs.n_batches,
            blocks: costs.tally.blocks,
            rounds: costs.tally.rounds,
            matches_integer_network: batch.matches && alone.matches,
            seconds: batch.seconds,
            server_seconds: ServerSeconds {
                receive: sum(|times| times.receive),
                evaluate: sum(|times| times.evaluate),
            },
            images_per_second: samples as f64 / batch.seconds.total,
            bytes_up: costs.tally.bytes_up,
            bytes_down: costs.tally.bytes_down,
            bytes_up_per_image: costs.tally.bytes_up as f64 / samples as f64,
            bytes_down_per_image: costs.tally.bytes_down as f64 / samples as f64,
            peak_memory_bytes: batch.peak_memory_bytes,
            peak_memory_is_of_the_runs: batch.is_peak_of_runs,
            cpu_seconds: batch.cpu_seconds,
            one_image: OneImage {
                seconds: alone.seconds.total,
                bytes_up: of_one.tally.bytes_up,
                bytes_down: of_one.tally.bytes_down,
                matches_integer_network: alone.matches,
            },
            share_of_floor: share(batch.seconds.total * threads as f64),
            share_of_floor_cpu: batch.cpu_seconds.filter(|&s| s > 0.0).and_then(share),
            floor,
            segments,
        })
    }

    /// Print all of it.
    pub(in super::super) fn print(&self, screen: &Screen, style: TableStyle) {
        screen.fact(
            "Measured",
            format!(
                "{} over {}, {}, {}; medians of {}",
                units::counted(self.samples, "sample"),
                match self.transport {
                    "tls" => "TLS on loopback",
                    _ => "an in-process pipe",
                },
                units::counted(self.threads, "thread"),
                units::counted(self.rounds, "round"),
                units::counted(self.repeat, "run"),
            ),
        );
        screen.fact(
            "Exact",
            if self.matches_integer_network {
                "every score equals the integer network's"
            } else {
                "NO: some score is not the integer network's"
            },
        );
        screen.heading(format_args!("Batch, activation at the {}", self.activation));
        self.batch().print(screen, style);
        screen.heading("Segments");
        self.segment_table().print(screen, style);
        screen.heading("Floor");
        self.floor_table().print(screen, style);
    }

    fn batch(&self) -> Figures {
        let mut table = Figures::new(&["what", "figure"], 1);
        let mut row = |name: &str, figure: String| table.row([name.to_owned(), figure]);
        let Seconds { total, encode, encrypt, network, evaluate, check, decrypt } = self.seconds;
        row("seconds, client + server", three_digits(total));
        row("images per second", three_digits(self.images_per_second));
        row("one image alone, seconds", three_digits(self.one_image.seconds));
        row("CPU seconds", or_dash(self.cpu_seconds.map(three_digits)));
        row("bytes up, all / per image", {
            format!("{} / {:.0}", units::bytes(self.bytes_up), self.bytes_up_per_image)
        });
        row("bytes down, all / per image", {
            format!("{} / {:.0}", units::bytes(self.bytes_down), self.bytes_down_per_image)
        });
        row("peak memory", or_dash(self.peak_memory_bytes.map(units::bytes)));
        for (name, seconds) in [
            ("client: encode, busy seconds", encode),
            ("client: encrypt and pack", encrypt),
            ("client: check words", check),
            ("client: unpack and decrypt", decrypt),
            ("server: all, as it reports", evaluate),
            ("transport and waiting", network),
            ("server alone: unpack and expand, wall seconds", self.server_seconds.receive),
            ("server alone: evaluate and pack", self.server_seconds.evaluate),
        ] {
            row(name, three_digits(seconds));
        }
        row("share of the floor, wall / CPU", {
            let wall = or_dash(self.share_of_floor.map(percent));
            format!("{wall} / {}", or_dash(self.share_of_floor_cpu.map(percent)))
        });
        table
    }

    fn segment_table(&self) -> Figures {
        let columns = [
            "segment",
            "packing",
            "ring",
            "log2 t",
            "log2 Q",
            "in → out",
            "blocks",
            "occupancy",
            "up",
            "down",
            "receive ms",
            "evaluate ms",
        ];
        let mut table = Figures::new(&columns, 2);
        for segment in &self.segments {
            table.row([
                segment.segment.to_string(),
                segment.packing.to_string(),
                segment.ring_degree.to_string(),
                three_digits(segment.plaintext_modulus_bits),
                three_digits(segment.ciphertext_modulus_bits),
                format!("{} → {}", segment.inputs, segment.outputs),
                segment.blocks.to_string(),
                percent(segment.occupancy),
                units::bytes(segment.bytes_up),
                units::bytes(segment.bytes_down),
                three_digits(1e3 * segment.block_seconds.receive),
                three_digits(1e3 * segment.block_seconds.evaluate),
            ]);
        }
        table
    }

    fn floor_table(&self) -> Figures {
        let mut table = Figures::new(&["operation", "count", "seconds on one core"], 1);
        let floor = &self.floor;
        let macs: Vec<String> = floor
            .work
            .multiply_accumulates
            .iter()
            .map(|(digits, count)| format!("{} ({digits} digits)", units::count(*count)))
            .collect();
        let seconds = |value: f64| three_digits(value);
        table.row([
            "residue multiply-accumulates".to_owned(),
            macs.join(", "),
            or_dash(floor.multiply_accumulate_seconds.map(seconds)),
        ]);
        for (name, count, time) in [
            ("transforms", floor.work.transforms, floor.transform_seconds),
            ("seed expansions", floor.work.expansions, floor.expansion_seconds),
            ("bytes on the wire, written and read", floor.work.wire_bytes, floor.memory_seconds),
        ] {
            table.row([name.to_owned(), units::count(count), three_digits(time)]);
        }
        let sum = or_dash(floor.core_seconds.map(seconds));
        table.row(["all".to_owned(), String::new(), sum]);
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_taken_phase_by_phase() {
        let run = |total, encode| Seconds { total, encode, ..Seconds::default() };
        let medians = Seconds::medians(&[run(1.0, 5.0), run(2.0, 1.0), run(9.0, 3.0)]);
        assert_eq!(medians, run(2.0, 3.0));
    }
}
