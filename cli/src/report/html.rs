//! A finished run as HTML: the part that the local page shows, and the report that stands alone.
//!
//! Both are written here, with the one stylesheet `cli/assets/ui/style.css`, so that they cannot differ.
//! Names of data, plans and classes come from files: every text goes through [`Escaped`].

mod charts;

use std::fmt::{self, Display, Write as _};

use super::drawing::Drawing;
use super::units;
use super::view::{PredictionsView, ReceiptsView, RunView, SampleView, Tone, VerdictView};
use charts::{confusion, meter, predicted, rounds};

/// The stylesheet of page and report.
pub(crate) const STYLE: &str = include_str!("../../assets/ui/style.css");

/// What a report may do in a browser: show itself.
const REPORT_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; \
                             base-uri 'none'; form-action 'none'";

/// Text as it may stand between tags and inside quoted attributes.
pub(crate) struct Escaped<T>(pub(crate) T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Filter<'a, 'b>(&'a mut fmt::Formatter<'b>);
        impl fmt::Write for Filter<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                text.chars().try_for_each(|c| match c {
                    '&' => self.0.write_str("&amp;"),
                    '<' => self.0.write_str("&lt;"),
                    '>' => self.0.write_str("&gt;"),
                    '"' => self.0.write_str("&quot;"),
                    '\'' => self.0.write_str("&#39;"),
                    // Control characters have no place in a page; bidirectional ones turn text around.
                    '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                        self.0.write_char('\u{fffd}')
                    }
                    c if c.is_control() && c != '\n' => self.0.write_char('\u{fffd}'),
                    c => self.0.write_char(c),
                })
            }
        }
        write!(Filter(f), "{}", self.0)
    }
}

/// HTML that grows. Writing to a string does not fail.
#[derive(Debug, Default)]
pub(crate) struct Markup(String);

impl Markup {
    /// Markup as it is: only for what this program wrote.
    pub(crate) fn raw(&mut self, markup: fmt::Arguments<'_>) {
        let _ = self.0.write_fmt(markup);
    }

    /// An element that holds text.
    pub(crate) fn text(&mut self, tag: &str, class: &str, text: impl Display) {
        self.raw(format_args!("<{tag} class=\"{class}\">{}</{tag}>", Escaped(text)));
    }
}

/// A run as one file that needs no other.
pub(crate) fn report(view: &RunView) -> String {
    let mut page = Markup::default();
    let title = format!("{} · {}", view.verdict.name, view.plan.name);
    page.raw(format_args!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{}\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\">\
         <title>{}</title>\n<style>\n{STYLE}</style></head>\n<body class=\"report\">\
         <header class=\"masthead\"><p class=\"wordmark\">SecureDL</p>",
        Escaped(REPORT_POLICY),
        Escaped(title),
    ));
    page.text("h1", "", format_args!("Report of {}", units::counted(view.n_samples, "sample")));
    page.text("p", "lead", format_args!("{}, classified by {}", view.source, view.place));
    page.raw(format_args!("</header>\n<main>"));
    write_fragment(&mut page, view);
    page.raw(format_args!("</main>\n<footer>"));
    page.text("p", "quiet", format_args!("Written by securedl {}", view.securedl));
    page.raw(format_args!("</footer></body></html>\n"));
    page.0
}

/// A run as the local page shows it.
pub(crate) fn fragment(view: &RunView) -> String {
    let mut page = Markup::default();
    write_fragment(&mut page, view);
    page.0
}

fn write_fragment(page: &mut Markup, view: &RunView) {
    page.raw(format_args!("<article class=\"run\">"));
    verdict(page, &view.verdict);
    faults(page, view);
    if let Some(predictions) = &view.predictions {
        answers(page, predictions);
    } else {
        page.text("p", "withheld", "No predictions were released.");
    }
    soundness(page, &view.verdict);
    journey(page, view);
    if !view.rounds.is_empty() && view.receipts.n_receipts > 0 {
        section(page, "Rounds", |page| rounds(page, &view.rounds));
    }
    section(page, "Figures", |page| {
        page.raw(format_args!("<dl class=\"figures\">"));
        for figure in &view.figures {
            page.raw(format_args!("<div>"));
            page.text("dt", "", figure.name);
            page.text("dd", "", &figure.value);
            page.raw(format_args!("</div>"));
        }
        page.raw(format_args!("</dl>"));
    });
    receipts(page, &view.receipts);
    plan(page, view);
    page.raw(format_args!("</article>\n"));
}

pub(crate) fn section(page: &mut Markup, title: &str, body: impl FnOnce(&mut Markup)) {
    page.raw(format_args!("<section>"));
    page.text("h3", "", title);
    body(page);
    page.raw(format_args!("</section>\n"));
}

fn verdict(page: &mut Markup, verdict: &VerdictView) {
    let (class, sign) = match verdict.tone {
        Tone::Good => ("good", "✓"),
        Tone::Bad => ("bad", "✗"),
        Tone::Doubtful => ("doubtful", "?"),
    };
    page.raw(format_args!(
        "<div class=\"verdict {class}\" data-verdict=\"{}\"><span class=\"sign\" aria-hidden=\"true\">{sign}</span><div>",
        Escaped(verdict.name)
    ));
    page.text("h2", "", verdict.headline);
    page.text("p", "", capitalized(&verdict.text));
    page.raw(format_args!("</div></div>\n"));
}

/// The first letter of a sentence large, and a full stop at its end.
fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}

fn faults(page: &mut Markup, view: &RunView) {
    if view.faults.is_empty() {
        return;
    }
    section(page, "What gave it away", |page| {
        page.raw(format_args!("<ul class=\"faults\">"));
        for fault in &view.faults {
            page.raw(format_args!("<li>"));
            page.text("p", "", &fault.text);
            meter(page, fault.n_different, u64::from(fault.n_outputs), "bad");
            if let Some(file) = &fault.file {
                page.text(
                    "p",
                    "quiet",
                    format_args!("Evidence for anybody who has the plan: {file}"),
                );
            }
            page.raw(format_args!("</li>"));
        }
        page.raw(format_args!("</ul>"));
        let text = "The server signed these replies. Whoever has the plan can compute the same \
                    segment again, without any key, and see that they are not its result.";
        page.text("p", "quiet", text);
    });
}

fn answers(page: &mut Markup, predictions: &PredictionsView) {
    let n_samples: u64 = predictions.predicted.iter().sum();
    section(page, if n_samples == 1 { "Prediction" } else { "Predictions" }, |page| {
        if let Some(right) = &predictions.right {
            page.text("p", "right", right);
        }
        if predictions.n_out_of_calibration > 0 {
            let n = units::counted(predictions.n_out_of_calibration, "sample");
            let text = "unlike what the plan was calibrated with: take the prediction with care";
            page.text("p", "caution", format_args!("{n} {text}."));
        }
        page.raw(format_args!(
            "<div class=\"samples {}\">",
            if n_samples == 1 { "one" } else { "many" }
        ));
        predictions.shown.iter().for_each(|shown| sample(page, shown));
        page.raw(format_args!("</div>"));
        let n_shown = predictions.shown.len() as u64;
        if n_samples > n_shown {
            let (n_shown, all) = (units::count(n_shown), units::count(n_samples));
            page.text("p", "quiet", format_args!("The first {n_shown} of {all}."));
        }
    });
    if n_samples > 1 {
        section(page, "Predictions per class", |page| predicted(page, predictions));
        if !predictions.confusion.is_empty() {
            section(page, "What was taken for what", |page| confusion(page, predictions));
        }
    }
}

fn sample(page: &mut Markup, sample: &SampleView) {
    page.raw(format_args!("<figure class=\"sample\">"));
    if let Some(picture) = &sample.picture {
        drawing(page, picture, "picture");
    }
    page.raw(format_args!("<figcaption>"));
    page.text("strong", "label", &sample.label);
    page.text("span", "confidence", &sample.confidence);
    match (&sample.truth, sample.is_right) {
        (Some(_), Some(true)) => page.text("span", "truth good", "✓ right"),
        (Some(truth), _) => page.text("span", "truth bad", format_args!("✗ is {truth}")),
        (None, _) => {}
    }
    page.raw(format_args!(
        "</figcaption><table class=\"bars\"><caption class=\"unseen\">Scores</caption>"
    ));
    for bar in &sample.bars {
        page.raw(format_args!("<tr class=\"{}\">", if bar.is_best { "best" } else { "" }));
        page.raw(format_args!("<th scope=\"row\">{}</th><td>", Escaped(&bar.class)));
        meter(page, u64::from(bar.permille), 1000, if bar.is_best { "best" } else { "" });
        page.raw(format_args!("</td><td class=\"number\">{}</td></tr>", bar.score));
    }
    page.raw(format_args!("</table></figure>"));
}

fn drawing(page: &mut Markup, drawing: &Drawing, class: &str) {
    page.raw(format_args!(
        "<img class=\"{class}\" src=\"{}\" width=\"{}\" height=\"{}\" alt=\"{}\">",
        Escaped(&drawing.source),
        drawing.width,
        drawing.height,
        Escaped(&drawing.description),
    ));
}

fn soundness(page: &mut Markup, verdict: &VerdictView) {
    if verdict.chances.is_empty() {
        return;
    }
    section(page, "What this verdict is worth", |page| {
        page.text("p", "quiet", "A server that cheats would have been caught if it had changed");
        page.raw(format_args!("<dl class=\"chances\">"));
        for chance in &verdict.chances {
            page.raw(format_args!("<div>"));
            page.text("dt", "", chance.what);
            page.text("dd", "", &chance.caught);
            page.raw(format_args!("</div>"));
        }
        page.raw(format_args!("</dl>"));
        if let Some(advice) = verdict.advice {
            page.text("p", "quiet", capitalized(advice));
        }
    });
}

fn journey(page: &mut Markup, view: &RunView) {
    let Some(ciphertext) = &view.ciphertext else { return };
    section(page, "What the server was sent", |page| {
        page.raw(format_args!("<div class=\"journey\">"));
        if let Some(input) = &view.input {
            page.raw(format_args!("<figure>"));
            drawing(page, input, "picture");
            page.text("figcaption", "quiet", "Here");
            page.raw(format_args!("</figure><span class=\"arrow\" aria-hidden=\"true\">→</span>"));
        }
        page.raw(format_args!("<figure>"));
        drawing(page, ciphertext, "noise");
        page.text("figcaption", "quiet", &ciphertext.description);
        page.raw(format_args!("</figure></div>"));
        if let Some(room) = &view.room {
            page.text("p", "quiet", room);
        }
    });
}

fn receipts(page: &mut Markup, receipts: &ReceiptsView) {
    if receipts.n_receipts == 0 {
        return;
    }
    section(page, "Receipts", |page| {
        let text = "each one is the server's signature under the hash of what it was sent and of what \
                    it answered. It proves what was said, not that it is right: that is the verdict's part.";
        let n = units::counted(receipts.n_receipts, "receipt");
        page.text("p", "quiet", format_args!("{n} checked; {text}"));
        for identity in &receipts.identities {
            page.raw(format_args!(
                "<p class=\"quiet\">Signed by <code>{}</code></p>",
                Escaped(identity)
            ));
        }
        page.raw(format_args!(
            "<details><summary>Show {}</summary><div class=\"wide\">",
            receipts.first.len()
        ));
        page.raw(format_args!("<table class=\"receipts\"><thead><tr>"));
        for title in ["Segment", "Request", "Hash of the request", "Hash of the reply"] {
            page.raw(format_args!("<th scope=\"col\">{title}</th>"));
        }
        page.raw(format_args!("</tr></thead><tbody>"));
        for receipt in &receipts.first {
            page.raw(format_args!("<tr><td>{}</td>", receipt.segment));
            for text in [&receipt.request, &receipt.request_hash, &receipt.reply_hash] {
                page.raw(format_args!("<td><code>{}</code></td>", Escaped(text)));
            }
            page.raw(format_args!("</tr>"));
        }
        page.raw(format_args!("</tbody></table></div></details>"));
    });
}

fn plan(page: &mut Markup, view: &RunView) {
    section(page, "Plan", |page| {
        page.raw(format_args!("<dl class=\"figures\">"));
        let activation = format!("at the {}", view.plan.activation);
        for (name, value) in [
            ("Name", &view.plan.name),
            ("Trust", &view.plan.trust),
            ("Activation", &activation),
            ("Server", &view.place),
            ("Samples", &view.source),
        ] {
            page.raw(format_args!("<div>"));
            page.text("dt", "", name);
            page.text("dd", "", value);
            page.raw(format_args!("</div>"));
        }
        page.raw(format_args!(
            "</dl><p class=\"quiet\">Digest <code>{}</code></p>",
            Escaped(&view.plan.digest)
        ));
    });
}

#[cfg(test)]
pub(crate) mod tests;
