//! `securedl paper`: the papers' experiments on networks trained here.

mod single_weight;
mod tables;

use std::fs;

use anyhow::{Context, Result};
use fingerprint::ComparisonRule;
use fingerprint::attack::AttackKind;
use nn_poly::network::NetworkKind;

use crate::args::{PaperArguments, PaperCommand};
use crate::failure::Outcome;
use crate::output::OutputFile;
use crate::pipeline::studying::{self, Folders, Scale, Scenario, Sizes, Study};
use crate::report::plot::{Axis, Curve, Panel, Values, svg};
use crate::report::{Console, paper};

/// Shares of changed weights of figure 4 (e).
const RATIOS: [f64; 7] = [0.001, 0.01, 0.05, 0.1, 0.2, 0.4, 0.8];
/// Those of them that show the curve.
const QUICK_RATIOS: [f64; 3] = [0.001, 0.05, 0.8];

/// The curves of figure 4: the baseline, the published objective (with our optimizer, in a box), ours.
const CURVES: [(&str, &str, &str); 4] = [
    ("ordinary samples", "non-sensitive", "random"),
    ("SSF objective, MANC", "ssf", "manc"),
    ("boundary entropy", "boundary-entropy", "class-cover"),
    ("ours: tie, class cover", "tie", "class-cover"),
];

/// The experiments on black boxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Experiment {
    Fig4,
    TableMissingRates,
    Efficiency,
}

/// Run one experiment and write its results.
pub(crate) fn run(command: &PaperCommand) -> Result<Outcome> {
    let (experiment, name, arguments) = match command {
        PaperCommand::Fig4(arguments) => (Experiment::Fig4, "fig4", arguments),
        PaperCommand::TableMissingRates(arguments) => {
            (Experiment::TableMissingRates, "table-missing-rates", arguments)
        }
        PaperCommand::Efficiency(arguments) => (Experiment::Efficiency, "efficiency", arguments),
        PaperCommand::SingleWeight(arguments) => return single_weight::run(arguments),
        PaperCommand::Table2(arguments) => return tables::table2(arguments),
        PaperCommand::Table3(arguments) => return tables::table3(arguments),
        PaperCommand::Table10To12(arguments) => return tables::table10_to_12(arguments),
        PaperCommand::Fig5(arguments) => return tables::fig5(arguments),
    };
    let console = Console::new(None);
    fs::create_dir_all(&arguments.out)
        .with_context(|| format!("cannot create {}", arguments.out.display()))?;
    let file =
        |extension: &str| OutputFile::check(&arguments.out.join(format!("{name}.{extension}")));
    let (csv, plot, report) = (file("csv")?, file("svg")?, file("md")?);
    let scale = Scale::new(arguments.quick, arguments.seed).resized(&Sizes {
        samples: arguments.samples,
        bag: arguments.bag,
        draws: arguments.draws,
        networks: arguments.networks,
        instances: arguments.instances,
    });
    let study = studying::run(
        Folders { data: &arguments.data, kept: &arguments.out.join("study") },
        &scenarios(experiment, arguments),
        &rules(experiment)?,
        &scale,
        arguments.seed,
        &console.progress,
    )?;
    csv.write(paper::csv(&study)?.as_bytes())?;
    plot.write(svg(&panels(experiment, &study))?.as_bytes())?;
    report.write(markdown(experiment, name, arguments, &study)?.as_bytes())?;
    for (what, file) in [("Figures", &csv), ("Plot", &plot), ("Report", &report)] {
        console.screen.fact(what, file.shown().display());
    }
    console.screen.finish()?;
    Ok(Outcome::Success)
}

/// Attacks by data set, of those that are wanted.
fn scenarios(experiment: Experiment, arguments: &PaperArguments) -> Vec<Scenario> {
    let mut scenarios = all_scenarios(experiment, arguments.quick);
    let only: Vec<&str> = arguments.only.iter().map(|data| data.name()).collect();
    scenarios.retain(|scenario| only.is_empty() || only.contains(&scenario.data));
    scenarios
}

fn all_scenarios(experiment: Experiment, is_quick: bool) -> Vec<Scenario> {
    use AttackKind::{
        Adaptive, ArbitraryWeights, BitFlip, Distill, ErrorGeneric, ErrorSpecific, FineTuneAll,
        FineTuneLast, LowRank, Noise, Precision, Prune, Quantize, QuantizedBitFlip, SingleWeight,
        Trojan, TrojanMatched,
    };
    let papers = |kinds: &[AttackKind]| kinds.iter().map(|&kind| (kind, None)).collect::<Vec<_>>();
    let scenario = |data, kind, attacks| Scenario { data, kind, attacks };
    let image = if is_quick { NetworkKind::Cryptonets } else { NetworkKind::Securedl };
    let mut mnist: Vec<(AttackKind, Option<f64>)>;
    // All 17 attacks on the small network; on the others those that take minutes, not hours.
    let mut small = Vec::new();
    let mut traffic_signs = papers(&[ErrorSpecific]);
    match experiment {
        Experiment::Fig4 => {
            let ratios: &[f64] = if is_quick { &QUICK_RATIOS } else { &RATIOS };
            mnist = papers(&[Trojan]);
            mnist.extend(ratios.iter().map(|&ratio| (ArbitraryWeights, Some(ratio))));
        }
        Experiment::TableMissingRates => {
            traffic_signs = papers(&[ErrorGeneric, ErrorSpecific]);
            mnist = papers(&[
                Trojan,
                Adaptive,
                Prune,
                Quantize,
                Noise,
                FineTuneLast,
                FineTuneAll,
                ArbitraryWeights,
                SingleWeight,
                BitFlip,
                QuantizedBitFlip,
            ]);
            mnist.extend([(Quantize, Some(4.0)), (Noise, Some(0.001)), (Noise, Some(0.0001))]);
            small.clone_from(&mnist);
            small.extend(papers(&[
                TrojanMatched,
                ErrorGeneric,
                ErrorSpecific,
                Precision,
                LowRank,
                Distill,
            ]));
        }
        Experiment::Efficiency => {
            traffic_signs = papers(&[ErrorGeneric, ErrorSpecific]);
            mnist = papers(&[Trojan]);
        }
    }
    let mut scenarios = vec![scenario("mnist", image, mnist)];
    if !is_quick && !small.is_empty() {
        scenarios.push(scenario("mnist", NetworkKind::Mlp, small));
    }
    scenarios.push(scenario("gtsrb", NetworkKind::Securedl, traffic_signs));
    scenarios.push(scenario("cifar10", NetworkKind::Securedl, papers(&[Precision])));
    scenarios
}

fn rules(experiment: Experiment) -> Result<Vec<ComparisonRule>> {
    let names: &[&str] = match experiment {
        Experiment::TableMissingRates => &studying::RULES,
        Experiment::Fig4 | Experiment::Efficiency => &["top-1"],
    };
    Ok(names.iter().map(|name| name.parse()).collect::<Result<_, fingerprint::Error>>()?)
}

/// One chart per attack and strength; for figure 4 also the sweep over changed weights.
fn panels(experiment: Experiment, study: &Study) -> Vec<Panel> {
    let sweep = AttackKind::ArbitraryWeights.to_string();
    let is_figure = matches!(experiment, Experiment::Fig4);
    let keys = study.attacks();
    let weakest = keys.iter().filter(|key| key.1 == sweep).map(|key| key.2).min();
    let mut panels: Vec<Panel> = keys
        .into_iter()
        .filter(|key| !is_figure || key.1 != sweep || Some(key.2) == weakest)
        .map(|(data, attack, strength)| Panel {
            title: format!("{attack} {strength}, {data}"),
            axis: Axis::Linear,
            values: Values::Percent,
            x_label: "samples".to_owned(),
            y_label: "detected, %".to_owned(),
            curves: CURVES
                .iter()
                .filter_map(|&(name, generator, selection)| {
                    let about = (Some(data), attack, Some(strength));
                    let measured = study.merged(about, generator, selection, "top-1")?;
                    let points = (1_u32..)
                        .map_while(|n| Some((f64::from(n), measured.instances.mean(n as usize)?)))
                        .map(|(n, missing)| (n, 100.0 * (1.0 - missing)))
                        .collect();
                    Some(Curve { name: name.to_owned(), points })
                })
                .collect(),
        })
        .collect();
    if is_figure {
        panels.push(ratio_panel(study, &sweep));
    }
    panels
}

/// Detection by 1, 3 and 5 samples over the share of changed weights, ours and SSF's.
fn ratio_panel(study: &Study, attack: &str) -> Panel {
    let mut ratios: Vec<(&str, &str, f64)> = study
        .attacks()
        .into_iter()
        .filter(|key| key.1 == attack)
        .filter_map(|(data, _, strength)| Some((data, strength, strength.parse().ok()?)))
        .collect();
    ratios.sort_by(|a, b| a.2.total_cmp(&b.2));
    let mut curves = Vec::new();
    for (name, generator, selection) in
        [("SSF objective", "ssf", "manc"), ("ours", "tie", "class-cover")]
    {
        for n in [1, 3, 5] {
            let point = |&(data, strength, ratio): &(&str, &str, f64)| {
                let about = (Some(data), attack, Some(strength));
                let measured = study.merged(about, generator, selection, "top-1")?;
                Some((100.0 * ratio, 100.0 * (1.0 - measured.instances.mean(n)?)))
            };
            let points = ratios.iter().filter_map(point).collect();
            curves.push(Curve { name: format!("{name}, {n}"), points });
        }
    }
    Panel {
        title: "share of changed weights".to_owned(),
        axis: Axis::Logarithmic,
        values: Values::Percent,
        x_label: "weights with N(0, 1) noise, %".to_owned(),
        y_label: "detected, %".to_owned(),
        curves,
    }
}

/// The command that repeats this, but for the folders.
fn call(name: &str, arguments: &PaperArguments) -> String {
    let mut call = format!("securedl paper {name}");
    if arguments.quick {
        call.push_str(" --quick");
    }
    for data in &arguments.only {
        call.push_str(&format!(" --only {}", data.name()));
    }
    let sizes = [
        ("samples", arguments.samples),
        ("bag", arguments.bag),
        ("draws", arguments.draws),
        ("networks", arguments.networks),
        ("instances", arguments.instances),
    ];
    for (flag, size) in sizes {
        if let Some(size) = size {
            call.push_str(&format!(" --{flag} {size}"));
        }
    }
    call + &format!(" --seed {}", arguments.seed)
}

fn markdown(
    experiment: Experiment,
    name: &str,
    arguments: &PaperArguments,
    study: &Study,
) -> Result<String> {
    let call = call(name, arguments);
    let title = match experiment {
        Experiment::Fig4 => "Detection over the number of samples",
        Experiment::TableMissingRates => "Missing rates",
        Experiment::Efficiency => "Queries needed",
    };
    let mut text = paper::introduction(study, title, &call)?;
    match experiment {
        Experiment::Fig4 => {
            text.push_str("\n![Detection](fig4.svg)\n\nThe curves of figure 4 of the SecureDL paper cannot be read off; published missing rates below are those of the method it compares with.\n");
            text.push_str(&paper::missing_rates(study)?);
        }
        Experiment::TableMissingRates => {
            text.push_str(&paper::missing_rates(study)?);
            text.push_str(&paper::by_rule(study)?);
        }
        Experiment::Efficiency => text.push_str(&paper::queries(study)?),
    }
    Ok(text)
}
