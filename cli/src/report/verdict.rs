//! Verdicts and soundness in words.

use fingerprint::{MaskedSoundness, MaskedVerdict, Sharpness, Soundness, Verdict};

use super::terminal::{Ink, Screen};

/// What a comparison with the integer network shows that the checks did not.
pub(crate) const CONTRADICTED: &str =
    "Some scores are not the integer network's: the server altered samples that carried no canary";

/// Below this, cheating on a single sample is worth a word of advice.
const WEAK_BITS: f64 = 5.0;

/// How a verdict is painted.
pub(crate) fn ink(verdict: &Verdict) -> Ink {
    match verdict {
        Verdict::Intact { .. } => Ink::Good,
        Verdict::ModelModified { .. } | Verdict::ComputationTampered { .. } => Ink::Bad,
        Verdict::Unverified { .. } => Ink::Warn,
    }
}

/// Print a verdict: its name, and what it means.
pub(crate) fn print(screen: &Screen, verdict: &Verdict) {
    let sign = match verdict {
        Verdict::Intact { .. } => "✓",
        Verdict::ModelModified { .. } | Verdict::ComputationTampered { .. } => "✗",
        Verdict::Unverified { .. } => "?",
    };
    screen.gap();
    let title = format!("{sign} {}", verdict.name());
    screen.paragraph(
        2,
        format_args!("{}  {}", screen.paint(ink(verdict), title), explanation(verdict)),
    );
    if let Verdict::Intact { soundness } = verdict {
        screen.gap();
        let lead = "A server that cheats is caught if it changes";
        screen.line(format_args!("  {}", screen.paint(Ink::Dim, lead)));
        for (what, chance) in soundness_lines(soundness) {
            screen.line(format_args!("    {what:<36} {chance}"));
        }
        if let Some(advice) = advice(soundness) {
            screen.paragraph(2, screen.paint(Ink::Dim, advice));
        }
    }
}

/// Print what a client without weights may believe, and what it may not.
pub(crate) fn print_masked(screen: &Screen, verdict: &MaskedVerdict, sharpness: &Sharpness) {
    screen.gap();
    match verdict {
        MaskedVerdict::Tolerated { soundness } => {
            let title = screen.paint(Ink::Good, "✓ WithinTolerance");
            let text = format!(
                "all {} canaries of every block have scores that an honest run may give",
                soundness.n_canaries
            );
            screen.paragraph(2, format_args!("{title}  {text}"));
            screen.gap();
            print_noticed(screen, soundness, sharpness);
        }
        MaskedVerdict::Unverified { soundness } => {
            let title = screen.paint(Ink::Warn, "? Unverified");
            let text = format!(
                "not verified: the scores of all {} canaries are within tolerances so wide that {}",
                soundness.n_canaries,
                passes(soundness)
            );
            screen.paragraph(2, format_args!("{title}  {text}"));
            screen.gap();
            print_noticed(screen, soundness, sharpness);
            let advice = "ask the model's owner for a pack with narrower tolerances (more bits of activations) \
                          or with more canaries; --accept-unverified releases the predictions all the same";
            screen.paragraph(2, screen.paint(Ink::Dim, advice));
        }
        MaskedVerdict::Refuted { blocks, n_failed, n_canaries } => {
            let title = screen.paint(Ink::Bad, "✗ OutsideTolerance");
            let text = format!(
                "{n_failed} of {n_canaries} canaries have scores that no honest run gives, in {}",
                listed("block", blocks)
            );
            screen.paragraph(2, format_args!("{title}  {text}"));
        }
    }
}

/// Which server would most likely pass, by the weaker figure.
fn passes(soundness: &MaskedSoundness) -> &'static str {
    if soundness.ignored_inputs_bits < soundness.every_label_bits {
        "a server that ignores the inputs would most likely pass"
    } else {
        "a server with a wrong label for every sample would most likely pass"
    }
}

/// Print what canaries of this sharpness can notice.
pub(crate) fn print_noticed(screen: &Screen, soundness: &MaskedSoundness, sharpness: &Sharpness) {
    let lead = "A server that cheats is caught if it gives";
    screen.line(format_args!("  {}", screen.paint(Ink::Dim, lead)));
    for (what, chance) in masked_lines(soundness) {
        screen.line(format_args!("    {what:<36} {chance}"));
    }
    let text = format!(
        "Without the weights no more can be checked: another model is noticed only if it moves a \
         canary's score by about {} of its spread.",
        super::units::percent(sharpness.width_share)
    );
    screen.paragraph(2, screen.paint(Ink::Dim, text));
}

/// Kinds of cheating on a data owner, and how likely each would have been caught, in any one block.
fn masked_lines(soundness: &MaskedSoundness) -> [(&'static str, String); 4] {
    [
        ("a wrong label to every sample", soundness.every_label_bits),
        ("scores that ignore the samples", soundness.ignored_inputs_bits),
        ("wrong labels to 1 % of a block", soundness.one_percent_bits),
        ("a wrong label to a single sample", soundness.one_sample_bits),
    ]
    .map(|(what, bits)| (what, caught(Some(bits))))
}

/// What a verdict means, in one sentence.
pub(crate) fn explanation(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Intact { .. } => {
            "every check of every block passed: the server ran your model on your samples"
                .to_owned()
        }
        Verdict::ModelModified { segment, neurons } => format!(
            "the server runs another model: segment {segment} differs in {}, alike in every block",
            neurons_in_words(neurons)
        ),
        Verdict::ComputationTampered { segment, blocks } => format!(
            "the replies of segment {segment} are not what any model gives, in {}",
            listed("block", blocks)
        ),
        Verdict::Unverified { .. } => {
            let text = verdict.to_string();
            text.split_once(": ").map_or(text.clone(), |(_, reason)| reason.to_owned())
        }
    }
}

fn neurons_in_words(neurons: &[u32]) -> String {
    listed("output neuron", neurons)
}

/// `block 3`, `blocks 0, 2, 5`, `12 blocks (0, 1, 2, …)`.
fn listed(noun: &str, indices: &[u32]) -> String {
    const SHOWN: usize = 6;
    let first: Vec<String> = indices.iter().take(SHOWN).map(u32::to_string).collect();
    let first = first.join(", ");
    match indices.len() {
        1 => format!("{noun} {first}"),
        n if n <= SHOWN => format!("{noun}s {first}"),
        n => format!("{n} {noun}s ({first}, …)"),
    }
}

/// What to do about a weak figure.
pub(crate) fn advice(soundness: &Soundness) -> Option<&'static str> {
    soundness.one_sample_bits.is_some_and(|bits| bits < WEAK_BITS).then_some(
        "with --replicas 2, infer and ui put every sample into two secret slots, which protects single ones",
    )
}

/// Kinds of cheating, and how likely each would have been caught.
pub(crate) fn soundness_lines(soundness: &Soundness) -> Vec<(&'static str, String)> {
    vec![
        ("the model, for all samples", caught(soundness.every_slot_change_bits)),
        ("1 % of the samples of a block", caught(soundness.one_percent_bits)),
        ("a single sample", caught(soundness.one_sample_bits)),
        ("a single word of a reply", caught(soundness.reply_word_bits)),
    ]
}

/// The chance of being caught, given bits of soundness.
fn caught(bits: Option<f64>) -> String {
    match bits {
        None => "not checked (segments with a square)".to_owned(),
        Some(bits) if bits >= 20.0 => format!("always, but for a chance of 2^-{:.0}", bits.floor()),
        Some(bits) => {
            let percent = -100.0 * (-bits * std::f64::consts::LN_2).exp_m1();
            // Rounded towards 0: never promise more than there is.
            let digits = if percent < 10.0 { 100.0 } else { 10.0 };
            let floor = (percent * digits).floor() / digits;
            if percent < 10.0 {
                format!("in {floor:.2} % of cases")
            } else {
                format!("in {floor:.1} % of cases")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chances_never_promise_too_much() {
        for (bits, expected) in [
            (None, "not checked (segments with a square)"),
            (Some(128.0), "always, but for a chance of 2^-128"),
            (Some(19.0), "in 99.9 % of cases"),
            (Some(1.0), "in 50.0 % of cases"),
            (Some(0.006), "in 0.41 % of cases"),
            (Some(0.0), "in 0.00 % of cases"),
        ] {
            assert_eq!(caught(bits), expected);
        }
    }

    #[test]
    fn long_lists_are_cut() {
        assert_eq!(listed("block", &[3]), "block 3");
        assert_eq!(listed("block", &[0, 2]), "blocks 0, 2");
        let many: Vec<u32> = (0..12).collect();
        assert_eq!(listed("block", &many), "12 blocks (0, 1, 2, 3, 4, 5, …)");
    }
}
