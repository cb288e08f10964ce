//! Results of the papers' experiments: CSV, Markdown, and the published numbers beside ours.

use std::fmt::Write;

use anyhow::Result;
use fingerprint::experiment::{
    Instances, MISSING_TARGETS, efficiency, fresh_missing_interval, queries_needed_on_average,
};
use fingerprint::statistics::{Interval, Z_95, wilson_interval};

use super::published::{BY_RULE, MISSING, QUERIES, SAMPLES};
use super::units;
use crate::pipeline::studying::{Cell, Measured, RULES, Study};

/// Every figure, one line per cell and number of samples.
///
/// # Errors
/// Only broken invariants.
pub(crate) fn csv(study: &Study) -> Result<String> {
    let mut text = String::from(
        "data,attack,strength,network,generator,selection,rule,samples,networks,models,missing,low,high,worst,\
         fresh_low,fresh_high,detecting_share,accuracy_after\n",
    );
    for (cell, measured) in &study.cells {
        let Cell { data, attack, strength, network, generator, selection, rule } = cell;
        let instances = &measured.instances;
        for n in 1.. {
            let (Some(rate), Some(worst)) = (instances.mean(n), instances.worst(n)) else { break };
            let interval = instances.interval(n)?;
            let fresh = fresh(measured, n)?;
            writeln!(
                text,
                "{data},{attack},{strength},{network},{generator},{selection},{rule},{n},{},{},{rate:.6},\
                 {:.6},{:.6},{worst:.6},{:.6},{:.6},{:.4},{:.4}",
                instances.n_networks(),
                instances.len(),
                interval.low,
                interval.high,
                fresh.low,
                fresh.high,
                mean(&shares(measured)),
                mean(&measured.accuracy),
            )?;
        }
    }
    Ok(text)
}

/// The missing rate of `n` fresh samples chosen at random, between the means over networks of both
/// ends.
fn fresh(measured: &Measured, n: usize) -> Result<Interval> {
    let (mut low, mut high) = (Vec::new(), Vec::new());
    for &(n_detecting, n_samples) in &measured.counts {
        let one = fresh_missing_interval(n_samples, n_detecting, u32::try_from(n)?)?;
        low.push(one.low);
        high.push(one.high);
    }
    Ok(Interval { low: mean(&low), high: mean(&high) })
}

/// Share of the bag that detects, per attacked network.
fn shares(measured: &Measured) -> Vec<f64> {
    #[expect(clippy::cast_precision_loss, reason = "a few thousand samples")]
    let share = |&(n, of): &(u64, u64)| n as f64 / of.max(1) as f64;
    measured.counts.iter().map(share).collect()
}

/// What every report begins with.
pub(crate) fn introduction(study: &Study, title: &str, command: &str) -> Result<String> {
    let mut text = format!("# {title}\n\nMade by `{command}`.\n\n");
    text.push_str("| network | test accuracy |\n|---|---|\n");
    for (name, accuracy) in &study.networks {
        writeln!(text, "| {name} | {} |", units::percent(*accuracy))?;
    }
    text.push_str(&false_alarms(study)?);
    if !study.failed.is_empty() {
        text.push_str("\nAttacks that did not work, and are not counted either way:\n\n");
        for failed in &study.failed {
            writeln!(text, "- {failed}")?;
        }
    }
    Ok(text)
}

/// Cost of the generators, and answers that honest float stacks give differently.
fn false_alarms(study: &Study) -> Result<String> {
    let mut text = String::from(
        "\nAnswers of other honest float stacks (64 bits, one sample at a time, folded batch \
         normalization, permuted neurons) that differ from the reference, by rule.\n\n\
         | generator | processor s per sample | answers compared |",
    );
    for rule in RULES {
        write!(text, " {rule} |")?;
    }
    text.push_str("\n|---|---|---|");
    text.push_str(&"---|".repeat(RULES.len()));
    text.push('\n');
    for (generator, seconds) in &study.seconds {
        let of = |rule: &str| {
            let key = (generator.clone(), rule.to_owned());
            study.false_alarms.get(&key).copied().unwrap_or_default()
        };
        write!(text, "| {generator} | {:.3} | {} |", mean(seconds), of("top-1").0)?;
        for rule in RULES {
            write!(text, " {} |", of(rule).1)?;
        }
        text.push('\n');
    }
    Ok(text)
}

/// Generators of the tables, with what they are called there.
const GENERATORS: [(&str, &str); 4] = [
    ("non-sensitive", "ordinary"),
    ("ssf", "`ssf`"),
    ("boundary-entropy", "`boundary-entropy`"),
    ("tie", "`tie`"),
];

/// Missing rates of all generators at a glance, then by selection with the published ones.
///
/// # Errors
/// Only broken invariants.
pub(crate) fn missing_rates(study: &Study) -> Result<String> {
    let mut text = overview(study)?;
    text.push_str(&by_network(study)?);
    text.push_str(
        "\n## By selection, top-1, in %\n\nMean over networks, with 95 % interval: Student's over \
         networks, Wilson's over draws where that is wider. `fresh_low` and `fresh_high` in the CSV \
         are for fresh samples. From a small pool MANC picks nearly the same \
         first sample again and again, so its figures for NS = 1 stand for a few samples only. \
         Published: table 3 of He et al., on other networks.\n\n\
         | attack | samples from | chosen by | networks |",
    );
    for n in SAMPLES {
        write!(text, " NS = {n} |")?;
    }
    text.push_str("\n|---|---|---|---|---|---|---|---|---|---|\n");
    let mut attacks = study.attacks();
    attacks.sort_by_key(|(_, attack, _)| {
        MISSING.iter().position(|row| row.0 == *attack).unwrap_or(MISSING.len())
    });
    for (attack, name, published) in MISSING {
        write!(text, "| {name} | *published* | *manc* | *1* |")?;
        for value in published {
            write!(text, " *{value:.2}* |")?;
        }
        text.push('\n');
        for &about in attacks.iter().filter(|about| about.1 == attack) {
            text.push_str(&rows(study, about)?);
        }
    }
    for about in attacks {
        if MISSING.iter().all(|row| row.0 != about.1) {
            text.push_str(&rows(study, about)?);
        }
    }
    Ok(text)
}

/// Random choice: one row per attack, one column per generator.
fn overview(study: &Study) -> Result<String> {
    let mut text = String::from(
        "\n## Missing rates, top-1, random choice, in %\n\nAt NS = 1 / 3 / 8, mean over networks. \
         *Fewest* counts the attacked models on which `tie` misses less at NS = 1 than any other \
         generator. *Kept* is the share of their own sensitive samples that attackers kept who tried \
         to.\n\n| attack | networks × models | accuracy after |",
    );
    for (_, name) in GENERATORS {
        write!(text, " {name} |")?;
    }
    text.push_str(" fewest |\n|---|---|---|---|---|---|---|---|\n");
    for (data, attack, strength) in study.attacks() {
        let about = (Some(data), attack, Some(strength));
        let Some(any) = study.merged(about, "tie", "random", "top-1") else { continue };
        let accuracy = units::percent(mean(&any.accuracy));
        let kept = match any.kept.as_slice() {
            [] => String::new(),
            kept => format!(" (kept {})", units::percent(mean(kept))),
        };
        let n_models = models(&any.instances);
        write!(text, "| {attack} {strength}, {data}{kept} | {n_models} | {accuracy} |")?;
        let mut detecting = Vec::new();
        for (generator, _) in GENERATORS {
            let measured = study.merged(about, generator, "random", "top-1").unwrap_or_default();
            write!(text, " {} |", rates(&measured, &[1, 3, 8]))?;
            detecting.push(shares(&measured));
        }
        let ours = detecting.pop().unwrap_or_default();
        let is_best = |(i, p): &(usize, f64)| {
            detecting.iter().all(|others| others.get(*i).is_some_and(|other| p > other))
        };
        let n_best = ours.iter().copied().enumerate().filter(is_best).count();
        writeln!(text, " {n_best} of {} |", ours.len())?;
    }
    Ok(text)
}

/// How many networks and attacked models, such as `3 × 5`.
fn models(instances: &Instances) -> String {
    let (n_networks, n_models) = (instances.n_networks(), instances.len());
    if n_models == n_networks {
        n_networks.to_string()
    } else if n_models % n_networks.max(1) == 0 {
        format!("{n_networks} × {}", n_models / n_networks.max(1))
    } else {
        format!("{n_networks}, {n_models} models")
    }
}

/// The default generator by kind of network.
fn by_network(study: &Study) -> Result<String> {
    let mut networks: Vec<&str> = study.cells.keys().map(|cell| cell.network.as_str()).collect();
    networks.sort_unstable();
    networks.dedup();
    let mut text = String::from("\n## `tie` by network, top-1, random choice, in %\n\n| attack |");
    for network in &networks {
        write!(text, " {network} |")?;
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(networks.len()));
    text.push('\n');
    for (data, attack, strength) in study.attacks() {
        write!(text, "| {attack} {strength}, {data} |")?;
        for network in &networks {
            let cell = Cell {
                data,
                attack: attack.to_owned(),
                strength: strength.to_owned(),
                network: (*network).to_owned(),
                generator: "tie".to_owned(),
                selection: "random".to_owned(),
                rule: "top-1".to_owned(),
            };
            match study.cells.get(&cell) {
                Some(measured) => write!(text, " {} |", rates(measured, &[1, 3, 8]))?,
                None => text.push_str(" – |"),
            }
        }
        text.push('\n');
    }
    Ok(text)
}

/// Missing rates in percent, such as `12.3 / 0.4 / 0.00`.
fn rates(measured: &Measured, samples: &[usize]) -> String {
    let shown = |&n: &usize| match measured.instances.mean(n) {
        Some(rate) if rate >= 0.01 => format!("{:.1}", 100.0 * rate),
        Some(rate) => format!("{:.2}", 100.0 * rate),
        None => "–".to_owned(),
    };
    samples.iter().map(shown).collect::<Vec<_>>().join(" / ")
}

fn rows(study: &Study, about: (&str, &str, &str)) -> Result<String> {
    let (data, attack, strength) = about;
    let mut text = String::new();
    for (generator, _) in GENERATORS {
        for selection in ["random", "manc", "class-cover"] {
            let about = (Some(data), attack, Some(strength));
            let Some(measured) = study.merged(about, generator, selection, "top-1") else {
                continue;
            };
            let instances = &measured.instances;
            let n_models = models(instances);
            write!(
                text,
                "| {attack} {strength}, {data} | {generator} | {selection} | {n_models} |"
            )?;
            for n in SAMPLES {
                match instances.mean(n) {
                    Some(rate) => {
                        let interval = instances.interval(n)?;
                        write!(
                            text,
                            " {:.2} ({:.2}–{:.2}) |",
                            100.0 * rate,
                            100.0 * interval.low,
                            100.0 * interval.high
                        )?;
                    }
                    None => text.push_str(" |"),
                }
            }
            text.push('\n');
        }
    }
    Ok(text)
}

/// What comparing more than the label brings.
pub(crate) fn by_rule(study: &Study) -> Result<String> {
    let mut text = String::from(
        "\n## By what is compared, random choice: missing rates in % at NS = 1 / 2 / 3\n\nThe last \
         two columns are ordinary samples and `tie`, when scores are compared within 1e-4. \
         Published: table 4 of He et al., chosen by MANC.\n\n| attack |",
    );
    let cells = [
        ("non-sensitive", "top-1"),
        ("tie", "top-1"),
        ("tie", "top-3"),
        ("tie", "top-5"),
        ("tie", "decimals-1"),
        ("tie", "decimals-2"),
        ("non-sensitive", "tolerance-1e-4"),
        ("tie", "tolerance-1e-4"),
    ];
    for (generator, rule) in cells {
        write!(text, " {generator}, {rule} |")?;
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(cells.len()));
    text.push_str("\n| *trojan, published* |");
    for (generator, rule) in cells {
        match BY_RULE.iter().find(|(known, _)| generator == "tie" && *known == rule) {
            Some((_, [a, b, c])) => write!(text, " *{a:.2} / {b:.2} / {c:.2}* |")?,
            None => text.push_str(" – |"),
        }
    }
    text.push('\n');
    for (data, attack, strength) in study.attacks() {
        write!(text, "| {attack} {strength}, {data} |")?;
        for (generator, rule) in cells {
            let about = (Some(data), attack, Some(strength));
            let measured = study.merged(about, generator, "random", rule);
            write!(text, " {} |", rates(&measured.unwrap_or_default(), &[1, 2, 3]))?;
        }
        text.push('\n');
    }
    Ok(text)
}

/// Queries needed, and how many times fewer than with ordinary samples.
///
/// # Errors
/// Only broken invariants.
pub(crate) fn queries(study: &Study) -> Result<String> {
    let mut text = String::from(
        "\n## Queries needed for a missing rate, top-1\n\nFor fresh samples on average over attacked \
         models, each sample detecting a model with the share of its bag that does: the smallest n \
         with mean((1 − p)^n) ≤ target, and the same with the lower ends of the 95 % intervals of \
         the shares. p is the mean share. Published: table 5 of He et al., on other networks.\n\n| attack | samples | p |",
    );
    for target in MISSING_TARGETS {
        write!(text, " {target:.0e} |")?;
    }
    text.push_str("\n|---|---|---|---|---|---|---|---|---|---|\n");
    for (attack, published) in QUERIES {
        for (name, values) in ["non-sensitive", "ssf, random", "ssf, manc"].iter().zip(published) {
            write!(text, "| {attack} | *published: {name}* | |")?;
            for value in values {
                write!(text, " *{value}* |")?;
            }
            text.push('\n');
        }
        let of = |generator| study.merged((None, attack, None), generator, "random", "top-1");
        let Some(baseline) = of("non-sensitive") else { continue };
        for (generator, _) in GENERATORS {
            let Some(measured) = of(generator) else { continue };
            write!(text, "| {attack} | {generator} | {:.3} |", mean(&shares(&measured)))?;
            for target in MISSING_TARGETS {
                let ours = queries_needed_on_average(&shares(&measured), target)?;
                let theirs = queries_needed_on_average(&shares(&baseline), target)?;
                let at_worst = queries_needed_on_average(&low_shares(&measured)?, target)?;
                let shown = |n: Option<u64>| n.map_or_else(|| "∞".to_owned(), |n| n.to_string());
                write!(text, " {} to {}", shown(ours), shown(at_worst))?;
                match efficiency(theirs, ours).filter(|_| generator != "non-sensitive") {
                    Some(times) => write!(text, " ({times:.1}×) |")?,
                    None => text.push_str(" |"),
                }
            }
            text.push('\n');
        }
    }
    Ok(text)
}

/// The lower ends of the 95 % intervals of [`shares`].
fn low_shares(measured: &Measured) -> Result<Vec<f64>> {
    let low = |&(n, of): &(u64, u64)| Ok(wilson_interval(n, of, Z_95)?.low);
    measured.counts.iter().map(low).collect()
}

fn mean(values: &[f64]) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a few values")]
    let n = values.len().max(1) as f64;
    values.iter().sum::<f64>() / n
}

#[cfg(test)]
mod tests {
    use fingerprint::experiment::queries_needed;

    use super::*;

    #[test]
    fn published_rows_follow_from_one_probability_where_samples_are_independent() {
        // Table 5, ordinary samples: every row is n = ln(target)/ln(1 − p) of one p, except for the
        // rounding of the authors' simulation.
        for (attack, [ordinary, ..]) in QUERIES {
            #[expect(clippy::cast_precision_loss, reason = "small counts")]
            let p = 1.0 - (1e-8_f64.ln() / ordinary[0] as f64).exp();
            for (target, expected) in MISSING_TARGETS.into_iter().zip(ordinary) {
                let n = queries_needed(p, target).unwrap().unwrap();
                assert!(n.abs_diff(expected) <= 2, "{attack} {target}: {n}, published {expected}");
            }
        }
    }

    #[test]
    fn an_empty_study_still_shows_what_was_published() {
        let study = Study::default();
        let text = missing_rates(&study).unwrap() + &by_rule(&study).unwrap();
        assert!(text.contains("*48.93*") && text.contains("*5.93 / 0.22 / 0.00*"));
        assert!(queries(&study).unwrap().contains("*502*"));
        assert_eq!(csv(&study).unwrap().lines().count(), 1);
    }
}
