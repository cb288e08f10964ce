//! `securedl approximate`: polynomials for an activation, and how good they are.

use anyhow::{Result, bail};
use nn_poly::approximate::{
    Approximation, FitProblem, Function, Interval, Method, ObservedLayer, SampledFunction, observe,
};
use nn_poly::import::Split;
use nn_poly::model::Model;
use serde::Serialize;

use crate::args::{ApproximateArguments, FunctionArgument, IntervalArgument, MethodArgument};
use crate::failure::{Hint, Outcome};
use crate::kind::FileKind;
use crate::output::{Destination, OutputFile};
use crate::pipeline::source::DataSource;
use crate::report::polynomials::plot::{self, Curve, Panel};
use crate::report::table::{Grid, Lean};
use crate::report::terminal::Screen;
use crate::report::{Console, polynomials, units};

/// Training samples on which pre-activations are observed, at most; spread over all.
const OBSERVED_SAMPLES: usize = 1500;
/// Half width of the interval unless the user or a model says so: normalized pre-activations rarely
/// leave it.
const DEFAULT_INTERVAL: f64 = 4.0;

/// Fit, print, draw.
pub(crate) fn run(arguments: &ApproximateArguments) -> Result<Outcome> {
    let Console { screen, progress } = Console::new(arguments.json.as_ref());
    let json = arguments.json.as_ref().map(Destination::check).transpose()?;
    let svg = arguments.svg.as_deref().map(OutputFile::check).transpose()?;
    let function = function(arguments)?;
    let observed = match (&arguments.model, &arguments.data) {
        (Some(model), Some(data)) => {
            let bar = progress.spinner("observing activations");
            let observed = observe_model(model, &DataSource::new(data, &arguments.reading))?;
            drop(bar);
            observed
        }
        _ => Vec::new(),
    };
    let subjects = subjects(arguments, &function, observed)?;
    let methods = methods(arguments.method);
    let mut results = Vec::with_capacity(subjects.len());
    for subject in subjects {
        let fits = methods.iter().filter_map(|method| method.fit(&subject)).collect::<Vec<_>>();
        if let [Fit { outcome: Err(error), .. }] = fits.as_slice() {
            bail!("{error}");
        }
        if fits.is_empty() {
            return Err(anyhow::anyhow!("the method `observed` needs values to observe"))
                .hint(|| "give a model and data: --model MODEL --data PATH");
        }
        results.push((subject, fits));
    }
    screen.fact("Function", &function);
    screen.fact("Degree", arguments.degree);
    for (subject, fits) in &results {
        print_fits(&screen, subject, fits);
    }
    if let Some(file) = &svg {
        let panels: Vec<Panel<'_>> =
            results.iter().map(|(subject, fits)| panel(&function, subject, fits)).collect();
        file.write(plot::draw(&panels)?.as_bytes())?;
        screen.gap();
        screen.fact("Picture", file.shown().display());
    }
    if let Some(destination) = &json {
        let report = Report::new(arguments, &function, &results);
        destination.write(&(serde_json::to_string_pretty(&report)? + "\n"))?;
    }
    screen.finish()?;
    Ok(Outcome::Success)
}

/// One interval on which polynomials are fitted.
struct Subject {
    problem: FitProblem,
    observed: Option<ObservedLayer>,
}

impl Subject {
    fn title(&self) -> String {
        let interval = self.problem.interval();
        match &self.observed {
            Some(layer) => format!("layer {} on {interval}", layer.layer_idx()),
            None => format!("{interval}"),
        }
    }
}

/// A method, or the fit to observed values.
#[derive(Clone, Copy)]
enum Choice {
    Of(Method),
    Observed,
}

/// What came of one method.
struct Fit {
    method: String,
    outcome: nn_poly::Result<Approximation>,
}

impl Choice {
    /// Nothing if there are no values to fit to.
    fn fit(self, subject: &Subject) -> Option<Fit> {
        Some(match self {
            Self::Of(method) => {
                Fit { method: method.to_string(), outcome: subject.problem.solve(method) }
            }
            Self::Observed => Fit {
                method: Method::OBSERVED.to_owned(),
                outcome: subject.problem.solve_observed(subject.observed.as_ref()?.values()),
            },
        })
    }
}

fn methods(argument: MethodArgument) -> Vec<Choice> {
    match argument {
        MethodArgument::Observed => vec![Choice::Observed],
        MethodArgument::Of(method) => vec![Choice::Of(method)],
        MethodArgument::All => {
            Method::ALL.into_iter().map(Choice::Of).chain([Choice::Observed]).collect()
        }
    }
}

fn function(arguments: &ApproximateArguments) -> Result<Function> {
    match (&arguments.function, &arguments.table) {
        (FunctionArgument::Named(function), None) => Ok(function.clone()),
        (FunctionArgument::Sampled, Some(path)) => {
            Ok(Function::Sampled(SampledFunction::load(path)?))
        }
        (FunctionArgument::Named(function), Some(_)) => {
            bail!("--table is for `--function sampled`; {function} needs no table")
        }
        (FunctionArgument::Sampled, None) => {
            Err(anyhow::anyhow!("`--function sampled` needs the table of its values"))
                .hint(|| "give a file with lines x,y: --table FILE")
        }
    }
}

fn observe_model(model: &std::path::Path, source: &DataSource<'_>) -> Result<Vec<ObservedLayer>> {
    FileKind::Model.expect_of(model)?;
    let model = Model::load(model)?;
    let spec = model.spec();
    let (_, samples) = source.load_for(Split::Train, spec)?;
    let samples = samples.thinned(OBSERVED_SAMPLES)?;
    let observed = observe(&spec.network, &spec.preprocessing.apply(samples.features())?)?;
    if observed.is_empty() {
        bail!("the model `{}` has no activations to observe", spec.name);
    }
    Ok(observed)
}

fn subjects(
    arguments: &ApproximateArguments,
    function: &Function,
    observed: Vec<ObservedLayer>,
) -> Result<Vec<Subject>> {
    let degree = usize::from(arguments.degree);
    let pose = |interval, observed| -> Result<Subject> {
        let problem = FitProblem::new(function.clone(), interval, degree)?;
        Ok(Subject { problem, observed })
    };
    let is_automatic = match arguments.interval {
        None => !observed.is_empty(),
        Some(IntervalArgument::Auto) if observed.is_empty() => {
            return Err(anyhow::anyhow!("an automatic interval needs values to observe")).hint(
                || "give a model and data (--model MODEL --data PATH), or numbers (--interval 4)",
            );
        }
        Some(argument) => argument == IntervalArgument::Auto,
    };
    let fixed = match arguments.interval {
        Some(IntervalArgument::Of(low, high)) => Interval::new(low, high)?,
        Some(IntervalArgument::Auto) | None => Interval::symmetric(DEFAULT_INTERVAL)?,
    };
    if observed.is_empty() {
        return Ok(vec![pose(fixed, None)?]);
    }
    observed
        .into_iter()
        .map(|layer| {
            let interval =
                if is_automatic { layer.symmetric_interval(arguments.coverage)? } else { fixed };
            pose(interval, Some(layer))
        })
        .collect()
}

fn print_fits(screen: &Screen, subject: &Subject, fits: &[Fit]) {
    screen.heading(format_args!("Polynomials, {}", subject.title()));
    if let Some(layer) = &subject.observed {
        let (min, max) = layer.range();
        let [min, max, mean, deviation] =
            [min, max, layer.mean(), layer.deviation()].map(polynomials::number);
        let text = format!("{min} … {max}, mean {mean}, deviation {deviation}");
        screen.fact("Observed", text);
    }
    let columns = [
        ("method", Lean::Left),
        ("polynomial", Lean::Left),
        ("max error", Lean::Right),
        ("RMS error", Lean::Right),
        ("weighted", Lean::Right),
        ("at 1.5×", Lean::Right),
        ("at 2×", Lean::Right),
    ];
    let mut grid = Grid::new(screen, &columns);
    let mut refused = Vec::new();
    for Fit { method, outcome } in fits {
        match outcome {
            Ok(fit) => {
                grid.row(std::iter::once(method.clone()).chain(polynomials::cells(fit)));
            }
            Err(error) => refused.push(error.to_string()),
        }
    }
    grid.print(screen);
    for reason in refused {
        screen.paragraph(2, reason);
    }
}

fn panel<'a>(function: &'a Function, subject: &Subject, fits: &'a [Fit]) -> Panel<'a> {
    let curves = fits.iter().filter_map(|fit| {
        let approximation = fit.outcome.as_ref().ok()?;
        Some(Curve { name: &fit.method, polynomial: &approximation.polynomial })
    });
    Panel {
        title: format!(
            "{function}, degree {}, {}",
            units::count(subject.problem.degree()),
            subject.title()
        ),
        function,
        interval: subject.problem.interval(),
        curves: curves.collect(),
    }
}

/// Everything, for programs.
#[derive(Serialize)]
struct Report<'a> {
    function: String,
    degree: u8,
    coverage: f64,
    subjects: Vec<SubjectReport<'a>>,
}

#[derive(Serialize)]
struct SubjectReport<'a> {
    interval: Interval,
    observed: Option<ObservedReport>,
    fits: Vec<FitReport<'a>>,
}

#[derive(Serialize)]
struct ObservedReport {
    layer: usize,
    activation: &'static str,
    min: f64,
    max: f64,
    mean: f64,
    deviation: f64,
}

#[derive(Serialize)]
struct FitReport<'a> {
    method: &'a str,
    /// Coefficients of the powers of x, lowest first.
    monomials: Option<Vec<f64>>,
    #[serde(flatten)]
    fit: Option<&'a Approximation>,
    error: Option<String>,
}

impl<'a> Report<'a> {
    fn new(
        arguments: &ApproximateArguments,
        function: &Function,
        results: &'a [(Subject, Vec<Fit>)],
    ) -> Self {
        let subjects = results.iter().map(|(subject, fits)| SubjectReport {
            interval: subject.problem.interval(),
            observed: subject.observed.as_ref().map(|layer| ObservedReport {
                layer: layer.layer_idx(),
                activation: layer.activation(),
                min: layer.range().0,
                max: layer.range().1,
                mean: layer.mean(),
                deviation: layer.deviation(),
            }),
            fits: fits.iter().map(FitReport::new).collect(),
        });
        Self {
            function: function.to_string(),
            degree: arguments.degree,
            coverage: arguments.coverage,
            subjects: subjects.collect(),
        }
    }
}

impl<'a> FitReport<'a> {
    fn new(fit: &'a Fit) -> Self {
        let found = fit.outcome.as_ref().ok();
        Self {
            method: &fit.method,
            monomials: found.map(|fit| fit.polynomial.monomials()),
            fit: found,
            error: fit.outcome.as_ref().err().map(ToString::to_string),
        }
    }
}
