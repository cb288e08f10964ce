//! Bars and tables of counts, as SVG and HTML without a script; colors come from the stylesheet.

use super::{Escaped, Markup};
use crate::report::units;
use crate::report::view::{PredictionsView, RoundView};

/// A bar of `part` in `whole`. It repeats a figure beside it, so it is silent for readers.
#[expect(clippy::cast_precision_loss, reason = "a length in a picture")]
pub(super) fn meter(page: &mut Markup, part: u64, whole: u64, class: &str) {
    let width = 100.0 * (part as f64 / whole.max(1) as f64).clamp(0.0, 1.0);
    page.raw(format_args!(
        "<svg class=\"meter {class}\" viewBox=\"0 0 100 8\" preserveAspectRatio=\"none\" aria-hidden=\"true\">\
         <rect class=\"track\" width=\"100\" height=\"8\"/><rect class=\"fill\" width=\"{width:.2}\" height=\"8\"/></svg>"
    ));
}

/// Samples by predicted class.
pub(super) fn predicted(page: &mut Markup, predictions: &PredictionsView) {
    let most = predictions.predicted.iter().copied().max().unwrap_or(0);
    page.raw(format_args!(
        "<table class=\"bars\"><caption class=\"unseen\">Samples by predicted class</caption>"
    ));
    for (class, &count) in predictions.classes.iter().zip(&predictions.predicted) {
        page.raw(format_args!("<tr><th scope=\"row\">{}</th><td>", Escaped(class)));
        meter(page, count, most, "");
        page.raw(format_args!("</td><td class=\"number\">{}</td></tr>", units::count(count)));
    }
    page.raw(format_args!("</table>"));
}

/// What was taken for what: a row per label, a column per prediction, shaded by its share of the row.
pub(super) fn confusion(page: &mut Markup, predictions: &PredictionsView) {
    page.raw(format_args!(
        "<p class=\"quiet\">A row for each class as it is, a column for each prediction.</p>\
         <div class=\"wide\"><table class=\"confusion\"><thead><tr><td></td>"
    ));
    for class in &predictions.classes {
        page.raw(format_args!("<th scope=\"col\">{}</th>", Escaped(class)));
    }
    page.raw(format_args!("</tr></thead><tbody>"));
    let rows = predictions.classes.iter().zip(&predictions.confusion);
    for (label, (name, row)) in rows.enumerate() {
        let sum: u64 = row.iter().sum();
        page.raw(format_args!("<tr><th scope=\"row\">{}</th>", Escaped(name)));
        for (class, &count) in row.iter().enumerate() {
            let kind = if class == label { "hit" } else { "miss" };
            let level = (4 * count).div_ceil(sum.max(1));
            let shown = if count == 0 { String::new() } else { units::count(count) };
            page.raw(format_args!("<td class=\"{kind} level{level}\">{shown}</td>"));
        }
        page.raw(format_args!("</tr>"));
    }
    page.raw(format_args!("</tbody></table></div>"));
}

/// Bytes and time of every round.
pub(super) fn rounds(page: &mut Markup, rounds: &[RoundView]) {
    let most = |of: fn(&RoundView) -> u64| rounds.iter().map(of).max().unwrap_or(0);
    let micros = |round: &RoundView| round_micros(round.seconds);
    let most_bytes = most(|round| round.bytes_up.max(round.bytes_down));
    let most_time = rounds.iter().map(micros).max().unwrap_or(0);
    page.raw(format_args!("<div class=\"wide\"><table class=\"rounds\"><thead><tr>"));
    for title in ["Round", "Sent", "Received", "Time"] {
        page.raw(format_args!("<th scope=\"col\">{title}</th>"));
    }
    page.raw(format_args!("</tr></thead><tbody>"));
    for round in rounds {
        let (sign, words) = match round.state {
            "passed" => ("✓", "passed"),
            "rejected" => ("✗", "failed its check"),
            _ => ("–", "not reached"),
        };
        page.raw(format_args!("<tr class=\"{}\"><th scope=\"row\">", round.state));
        page.text("span", "computes", format_args!("{} {}", round.number, round.computes));
        let blocks = units::counted(round.n_blocks, "block");
        page.raw(format_args!(
            "<span class=\"state\"><span aria-hidden=\"true\">{sign}</span> {words}</span>\
             <span class=\"quiet\">{blocks}</span></th>"
        ));
        for bytes in [round.bytes_up, round.bytes_down] {
            let shown = if bytes == 0 { "–".to_owned() } else { units::bytes(bytes) };
            page.raw(format_args!("<td>{shown}"));
            meter(page, bytes, most_bytes, "");
            page.raw(format_args!("</td>"));
        }
        let time = if round.n_blocks == 0 { "–" } else { &round.time };
        page.raw(format_args!("<td>{}", Escaped(time)));
        meter(page, micros(round), most_time, "");
        page.raw(format_args!("</td></tr>"));
    }
    page.raw(format_args!("</tbody></table></div>"));
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a length in a picture, of a time that is not negative"
)]
fn round_micros(seconds: f64) -> u64 {
    (seconds * 1e6) as u64
}
