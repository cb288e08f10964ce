//! `securedl bench network`: batches from end to end.

mod figures;

use std::sync::Arc;

use anyhow::{Context, Result};
use fingerprint::LayoutOptions;
use nn_poly::integer::IntegerMatrix;
use nn_poly::plan::{ActivationSide, Plan, forecast};
use protocol::client::Endpoint;
use protocol::hosting::PlanShelf;
use protocol::identifiers::Digest;
use protocol::server::service::PlanHost;
use tokio::runtime::Runtime;

pub(super) use figures::NetworkFigures;
use figures::{Seconds, SegmentFigures};

use super::floor::Floor;
use super::serving::{BlockTimes, Serving, time_block};
use super::workload::Workload;
use super::{Output, clock};
use crate::args::{NetworkArguments, TransportName};
use crate::failure::{Hint, Outcome};
use crate::pipeline::inference::{self, Run, RunSettings};
use crate::pipeline::source::DataSource;
use crate::report::figures::median;
use crate::report::machine::Machine;
use crate::report::progress::Progress;
use crate::report::{memory, process, units};

/// Measure and print.
pub(super) fn run(arguments: &NetworkArguments) -> Result<Outcome> {
    let output = Output::new(&arguments.figures)?;
    if let Some(threads) = arguments.threads {
        limit_threads(threads.into())?;
    }
    let samples = arguments.batch.samples as usize;
    let bar = output.console.progress.spinner("network and samples");
    let workload = match (&arguments.model, &arguments.data, arguments.network) {
        (Some(model), Some(data), _) => {
            Workload::trained(model, &DataSource::new(data, &arguments.reading), samples)?
        }
        (_, _, Some(kind)) => Workload::random(kind.into(), samples, arguments.seed)?,
        _ => {
            return Err(anyhow::anyhow!("nothing to measure"))
                .hint(|| "give --network NAME, or --model MODEL with --data PATH");
        }
    };
    drop(bar);
    let screen = &output.console.screen;
    screen.fact("Machine", Machine::here().summary());
    screen.fact("Network", &workload.description);
    let case = Case {
        side: arguments.activation.into(),
        transport: arguments.transport,
        repeat: arguments.batch.repeat.into(),
    };
    let figures = case.measure(&workload, &output.console.progress)?;
    figures.print(screen, output.style);
    output.finish(&figures)
}

/// Let this many threads compute. Works once per process, before anything was computed.
pub(super) fn limit_threads(threads: usize) -> Result<()> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .context("the number of threads cannot be set")
}

/// What to measure about a workload.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub(super) side: ActivationSide,
    pub(super) transport: TransportName,
    pub(super) repeat: usize,
}

/// A plan, its inputs, and a server that holds it.
struct Stage<'a> {
    runtime: &'a Runtime,
    serving: &'a Endpoint,
    settings: RunSettings,
    progress: &'a Progress,
}

impl Case {
    /// Measure a batch of all samples, one sample alone, and the floor.
    ///
    /// # Errors
    /// No parameters for the network, or a run that is not intact.
    pub(super) fn measure(
        &self,
        workload: &Workload,
        progress: &Progress,
    ) -> Result<NetworkFigures> {
        let n_samples = workload.samples.nrows();
        let plan = workload.compile(self.side, n_samples as u64)?;
        let single = workload.compile(self.side, 1)?;
        let inputs = plan.public().quantize(&workload.samples)?;
        let mut shelf = PlanShelf::new();
        shelf.insert(&plan)?;
        shelf.insert(&single)?;
        let host: Arc<dyn PlanHost> = Arc::new(shelf);
        let runtime = crate::commands::runtime()?;
        let serving = runtime.block_on(Serving::start(Arc::clone(&host), self.transport))?;
        let settings = RunSettings::default();
        let stage = Stage { runtime: &runtime, serving: &serving.endpoint, settings, progress };
        let batch = stage.repeat(&plan, &inputs, self.repeat)?;
        let one = inputs.slice_axis(ndarray::Axis(1), (..1).into()).to_owned();
        // One image is quick, and the first is slower than the others.
        let alone = stage.repeat(&single, &one, 2 * self.repeat - 1)?;
        runtime.block_on(serving.stop())?;
        let segments = segments(&plan, host.as_ref(), n_samples)?;
        let blocks: Vec<u64> = segments.iter().map(|segment| segment.blocks).collect();
        let floor = Floor::measure(&plan, &blocks)?;
        let backend = Floor::backend(&plan)?;
        NetworkFigures::new(self, workload, &batch, &alone, segments, floor, backend)
    }
}

/// Several runs of one batch.
#[derive(Debug)]
pub(super) struct Repeated {
    /// The last run: its counts are those of all.
    last: Run,
    /// Medians.
    seconds: Seconds,
    /// CPU time of one run, all threads of this process; mean.
    cpu_seconds: Option<f64>,
    /// Most memory since the runs began.
    peak_memory_bytes: Option<u64>,
    /// Whether that does not include what came before.
    is_peak_of_runs: bool,
    /// Whether every score of every run was the integer network's.
    matches: bool,
}

impl Stage<'_> {
    fn repeat(&self, plan: &Plan, inputs: &IntegerMatrix, times: usize) -> Result<Repeated> {
        let expected = plan.simulate(inputs)?.scores;
        let is_peak_of_runs = process::forget_peak_memory();
        let cpu_before = process::cpu_seconds();
        let mut all = Vec::with_capacity(times);
        let mut matches = true;
        let mut last = None;
        let what = units::counted(inputs.ncols(), "sample");
        let bar = self.progress.bar(&what, times as u64);
        for _ in 0..times {
            let run = self.run(plan, inputs)?;
            matches &= run.scores.as_ref().is_some_and(|scores| scores.scores == expected);
            all.push(Seconds::of(&run));
            last = Some(run);
            bar.advance(1);
        }
        bar.finish(format_args!("{what}: {}", units::counted(times, "run")));
        let cpu = process::cpu_seconds().zip(cpu_before).map(|(after, before)| after - before);
        #[expect(clippy::cast_precision_loss, reason = "a small count")]
        let cpu_seconds = cpu.map(|seconds| seconds / times as f64);
        Ok(Repeated {
            last: last.context("nothing was run")?,
            seconds: Seconds::medians(&all),
            cpu_seconds,
            peak_memory_bytes: memory::peak_bytes(),
            is_peak_of_runs,
            matches,
        })
    }

    /// One batch, as `securedl infer` runs it, over connections of its own.
    fn run(&self, plan: &Plan, inputs: &IntegerMatrix) -> Result<Run> {
        let run = inference::run_alone(plan, inputs, self.serving, &self.settings);
        let run = self.runtime.block_on(run)?;
        if !run.verdict.is_intact() {
            anyhow::bail!("a server in this process is found {}", run.verdict.name());
        }
        Ok(run)
    }
}

/// What the plan says of each segment, and how long the server works on a block of it.
fn segments(plan: &Plan, host: &dyn PlanHost, n_samples: usize) -> Result<Vec<SegmentFigures>> {
    let size = inference::run_size(n_samples as u64, &LayoutOptions::default());
    let digest = Digest(plan.digest().0);
    let forecast = forecast(plan.public(), &size)?;
    let mut found = Vec::with_capacity(forecast.segments.len());
    for segment in &forecast.segments {
        let mut receive = Vec::new();
        let mut evaluate = Vec::new();
        clock::measure(0.0, || {
            let times = time_block(host, digest, segment.segment)?;
            receive.push(times.receive);
            evaluate.push(times.evaluate);
            anyhow::Ok(())
        })?;
        let times = BlockTimes { receive: median(&mut receive), evaluate: median(&mut evaluate) };
        found.push(SegmentFigures::new(segment, times));
    }
    Ok(found)
}
