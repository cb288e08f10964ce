//! Results of the papers' experiments: CSV, Markdown, and the published numbers beside ours.
//!
//! Published numbers are from Z. He, T. Zhang, R. Lee, "Sensitive-Sample Fingerprinting of Deep Neural
//! Networks", CVPR 2019, tables 3 to 5: on *their* networks (VGG-Face, a 7-layer CNN on GTSRB and on
//! CIFAR-10). The curves of figure 4 of Xu et al., "SecureDL", ACSAC 2020, cannot be read off.

use std::fmt::Write;

use anyhow::Result;
use fingerprint::experiment::{
    MISSING_TARGETS, efficiency, fresh_missing_interval, queries_needed,
};
use fingerprint::statistics::Interval;

use super::units;
use crate::pipeline::studying::{Cell, Measured, Study};

/// Numbers of samples in tables.
pub(crate) const SAMPLES: [usize; 6] = [1, 2, 3, 4, 5, 8];

/// Table 3: missing rates in percent for [`SAMPLES`], with sensitive samples chosen by MANC, top-1.
pub(crate) const MISSING: [(&str, &str, [f64; 6]); 4] = [
    ("trojan", "trojan", [5.93, 0.22, 0.0, 0.0, 0.0, 0.0]),
    ("error-generic", "error-generic poisoning", [12.26, 0.04, 0.01, 0.0, 0.0, 0.0]),
    ("error-specific", "error-specific poisoning", [2.20, 0.01, 0.0, 0.0, 0.0, 0.0]),
    ("precision", "compression", [48.93, 15.56, 4.72, 1.81, 0.83, 0.04]),
];

/// Table 4: missing rates in percent for 1, 2, 3 samples, trojan, by what is compared.
pub(crate) const BY_RULE: [(&str, &str, [f64; 3]); 5] = [
    ("top-1", "top-1", [5.93, 0.22, 0.0]),
    ("top-3", "top-3", [0.0, 0.0, 0.0]),
    ("top-5", "top-5", [0.0, 0.0, 0.0]),
    ("decimals-1", "p-dec-1", [0.21, 0.0, 0.0]),
    ("decimals-2", "p-dec-2", [0.0, 0.0, 0.0]),
];

/// Table 5: samples needed for [`MISSING_TARGETS`]: non-sensitive, sensitive (random), with MANC.
pub(crate) const QUERIES: [(&str, [[u64; 7]; 3]); 4] = [
    ("trojan", [[74, 65, 56, 47, 38, 28, 21], [10, 9, 8, 7, 6, 4, 3], [4, 4, 3, 3, 3, 2, 2]]),
    (
        "error-generic",
        [[332, 291, 249, 208, 166, 125, 83], [14, 12, 11, 9, 7, 6, 4], [4, 4, 4, 4, 3, 2, 2]],
    ),
    (
        "error-specific",
        [[309, 270, 232, 193, 155, 116, 77], [11, 9, 8, 7, 6, 4, 3], [3, 3, 3, 3, 3, 2, 2]],
    ),
    (
        "precision",
        [
            [502, 439, 376, 314, 252, 189, 126],
            [78, 70, 59, 51, 40, 29, 20],
            [31, 31, 30, 28, 25, 18, 8],
        ],
    ),
];

/// Every figure, one line per cell and number of samples.
///
/// # Errors
/// Only broken invariants.
pub(crate) fn csv(study: &Study, seed: u64) -> Result<String> {
    let mut text = String::from(
        "data,attack,strength,generator,selection,rule,samples,models,missing,low,high,worst,\
         fresh_low,fresh_high,detecting_share,accuracy_after\n",
    );
    for (cell, measured) in &study.cells {
        let Cell { data, attack, strength, generator, selection, rule } = cell;
        let instances = &measured.instances;
        for n in 1.. {
            let (Some(rate), Some(worst)) = (instances.mean(n), instances.worst(n)) else { break };
            let interval = instances.interval(n, seed)?;
            let fresh = fresh(measured, n)?;
            writeln!(
                text,
                "{data},{attack},{strength},{generator},{selection},{rule},{n},{},{rate:.6},{:.6},\
                 {:.6},{worst:.6},{:.6},{:.6},{:.4},{:.4}",
                instances.len(),
                interval.low,
                interval.high,
                fresh.low,
                fresh.high,
                mean(&measured.detecting),
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

/// The cells of a study that fit.
pub(crate) fn find<'a>(
    study: &'a Study,
    attack: &str,
    generator: &str,
    selection: &str,
    rule: &str,
) -> Option<(&'a Cell, &'a Measured)> {
    study.cells.iter().find(|(cell, _)| {
        cell.attack == attack
            && cell.generator == generator
            && cell.selection == selection
            && cell.rule == rule
    })
}

/// What every report begins with.
pub(crate) fn introduction(study: &Study, title: &str, command: &str) -> Result<String> {
    let mut text = format!("# {title}\n\nMade by `{command}`.\n\n");
    text.push_str("| network | test accuracy |\n|---|---|\n");
    for (name, accuracy) in &study.networks {
        writeln!(text, "| {name} | {} |", units::percent(*accuracy))?;
    }
    text.push_str("\n| generator | s per sample, all cores | labels on other honest float stacks | flipped |\n|---|---|---|---|\n");
    for (generator, seconds) in &study.seconds {
        let (compared, flipped) = study.false_alarms.get(generator).copied().unwrap_or_default();
        writeln!(text, "| {generator} | {:.3} | {compared} | {flipped} |", mean(seconds))?;
    }
    if !study.failed.is_empty() {
        text.push_str("\nAttacks that did not work, and are not counted either way:\n\n");
        for failed in &study.failed {
            writeln!(text, "- {failed}")?;
        }
    }
    Ok(text)
}

/// Missing rates of all generators, with the published ones.
///
/// # Errors
/// Only broken invariants.
pub(crate) fn missing_rates(study: &Study, seed: u64) -> Result<String> {
    let mut text = String::from(
        "\n## Missing rates, top-1, in %\n\nMean over attacked networks, with 95 % interval over \
         networks and over draws from these bags; other bags differ by more (`fresh_low` and \
         `fresh_high` in the CSV, for random choice). From a small pool MANC picks nearly the same \
         first sample again and again, so its figures for NS = 1 stand for a few samples only. \
         Published: table 3 of He et al., on other networks.\n\n\
         | attack | samples from | chosen by | networks |",
    );
    for n in SAMPLES {
        write!(text, " NS = {n} |")?;
    }
    text.push_str("\n|---|---|---|---|---|---|---|---|---|---|\n");
    for (attack, name, published) in MISSING {
        write!(text, "| {name} | *published* | *manc* | |")?;
        for value in published {
            write!(text, " *{value:.2}* |")?;
        }
        text.push('\n');
        text.push_str(&rows(study, attack, "top-1", seed)?);
    }
    let known: Vec<&str> = MISSING.iter().map(|row| row.0).collect();
    let mut others: Vec<&str> = study
        .cells
        .keys()
        .map(|cell| cell.attack.as_str())
        .filter(|attack| !known.contains(attack))
        .collect();
    others.dedup();
    for attack in others {
        text.push_str(&rows(study, attack, "top-1", seed)?);
    }
    Ok(text)
}

fn rows(study: &Study, attack: &str, rule: &str, seed: u64) -> Result<String> {
    let mut text = String::new();
    for (cell, measured) in &study.cells {
        if cell.attack != attack || cell.rule != rule {
            continue;
        }
        let instances = &measured.instances;
        write!(
            text,
            "| {attack} {}, {} | {} | {} | {} |",
            cell.strength,
            cell.data,
            cell.generator,
            cell.selection,
            instances.len()
        )?;
        for n in SAMPLES {
            match instances.mean(n) {
                Some(rate) => {
                    let interval = instances.interval(n, seed)?;
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
    Ok(text)
}

/// What comparing more than the label brings.
pub(crate) fn by_rule(study: &Study) -> Result<String> {
    let mut text = String::from(
        "\n## Trojan, by what is compared: missing rates in %\n\n| rule | published NS = 1, 2, 3 |",
    );
    let generators = ["non-sensitive", "ssf", "boundary-entropy", "tie"];
    for generator in generators {
        write!(text, " {generator} |")?;
    }
    text.push_str("\n|---|---|---|---|---|---|\n");
    let published = BY_RULE.iter().map(|(rule, name, p)| (*rule, *name, Some(*p)));
    let exact = [("tolerance-1e-4", "scores within 1e-4", None)];
    for (rule, name, published) in published.chain(exact) {
        let published = published
            .map_or_else(|| "–".to_owned(), |[a, b, c]| format!("*{a:.2}, {b:.2}, {c:.2}*"));
        write!(text, "| {name} | {published} |")?;
        for generator in generators {
            match find(study, "trojan", generator, "random", rule) {
                Some((_, measured)) => {
                    let rate = |n| 100.0 * measured.instances.mean(n).unwrap_or(f64::NAN);
                    write!(text, " {:.2}, {:.2}, {:.2} |", rate(1), rate(2), rate(3))?;
                }
                None => text.push_str(" – |"),
            }
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
        "\n## Queries needed for a missing rate, top-1\n\nFor fresh samples, each detecting with the \
         share of its bag that does: the smallest n with (1 − p)^n ≤ target. Published: table 5 of He \
         et al., on other networks.\n\n| attack | samples | p |",
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
        let share = |generator: &str| {
            let found = find(study, attack, generator, "random", "top-1")?;
            Some(mean(&found.1.detecting))
        };
        let Some(baseline) = share("non-sensitive") else { continue };
        for generator in ["non-sensitive", "ssf", "boundary-entropy", "tie"] {
            let Some(p) = share(generator) else { continue };
            write!(text, "| {attack} | {generator} | {p:.3} |")?;
            for target in MISSING_TARGETS {
                let (ours, theirs) =
                    (queries_needed(p, target)?, queries_needed(baseline, target)?);
                let shown = ours.map_or_else(|| "∞".to_owned(), |n| n.to_string());
                match efficiency(theirs, ours).filter(|_| generator != "non-sensitive") {
                    Some(times) => write!(text, " {shown} ({times:.1}×) |")?,
                    None => write!(text, " {shown} |")?,
                }
            }
            text.push('\n');
        }
    }
    Ok(text)
}

fn mean(values: &[f64]) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a few values")]
    let n = values.len().max(1) as f64;
    values.iter().sum::<f64>() / n
}

#[cfg(test)]
mod tests {
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
        let text = missing_rates(&study, 0).unwrap() + &by_rule(&study).unwrap();
        assert!(text.contains("*48.93*") && text.contains("*5.93, 0.22, 0.00*"));
        assert!(queries(&study).unwrap().contains("*502*"));
        assert_eq!(csv(&study, 0).unwrap().lines().count(), 1);
    }
}
