//! Time and traffic of encrypted batches: tables, CSV, and the paper's figures beside ours.

mod comparison;
mod csv;

use anyhow::Result;

use super::figures::{Figures, TableStyle, or_dash, three_digits};
use super::machine::Machine;
use super::plot::{Axis, Curve, Panel, Values, svg};
use super::published::{TABLE_2, Tabular};
use super::terminal::Screen;
use super::units;
use crate::pipeline::tabulating::BatchRecord;

pub(crate) use comparison::table3;

/// What the measurements of this page have in common.
const CHECKED: &str = "Every encrypted batch behind a figure was found intact, its scores were those of the integer network, \
     score by score, and it moved exactly the bytes that its plan forecasts; otherwise there \
     would be no table. *Seconds* are wall time of a batch with client and server on this machine, sharing \
     its cores, through memory: keys, canaries and checks included, medians of the runs in the \
     CSV. *MB* are 10^6 bytes of payload in both directions.";

/// What differs from the paper wherever its seconds stand beside ours.
const DIFFERENCES: [&str; 4] = [
    "**Machine and library.** The paper ran HElib on a machine that the part of it we could read does not name; \
     a factor between its seconds and ours says as much about that as about the method.",
    "**Noise reduction.** As in the paper the client decrypts and encrypts again. Here it also rescales to a few \
     bits between layers, which is why moduli stay small. *Messages* are those that only \
     refreshes need, one reply and one request for each; ours come after every layer with an \
     activation, the paper's 14 are not explained. *Noise reduction, s* is the client's busy time \
     for them over its threads (decryption, encoding, encryption; word checks are not in it); it \
     is part of the total, and overlaps with the server's work.",
    "**Checks.** Ours verify every batch: canaries and random points in secret slots where the server \
     squares, every word where it does not. What the paper's sensitive samples cost is not in the \
     part of it we could read.",
    "**Activation.** *server* squares under encryption, as in the paper; *client* evaluates the activation while \
     it refreshes, so that the server multiplies by weights only. Both give the client the same \
     values to see.",
];

/// A page of measurements.
pub(crate) struct Report {
    title: String,
    sections: Vec<Section>,
    /// What differs from the paper.
    remarks: Vec<String>,
    /// Every figure.
    pub(crate) csv: String,
}

/// A table under a heading.
struct Section {
    heading: String,
    /// Said before the table.
    introduction: String,
    table: Figures,
}

impl Section {
    fn new(heading: impl Into<String>, introduction: impl Into<String>, table: Figures) -> Self {
        Self { heading: heading.into(), introduction: introduction.into(), table }
    }
}

impl Report {
    fn new(title: String, sections: Vec<Section>, batches: &[BatchRecord]) -> Self {
        let remarks = DIFFERENCES.iter().map(|&text| text.to_owned()).collect();
        Self { title, sections, remarks, csv: csv::of_batches(batches) }
    }

    /// Print the tables.
    pub(crate) fn print(&self, screen: &Screen) {
        for section in &self.sections {
            screen.heading(&section.heading);
            section.table.print(screen, TableStyle::Terminal);
        }
    }

    /// All of it as a page made by `call`.
    pub(crate) fn markdown(&self, call: &str) -> String {
        let mut text = format!("# {}\n\nMade by `{call}`.\n\n", self.title);
        text.push_str(&format!("Machine: {}.\n\n{CHECKED}\n", Machine::here().summary()));
        for Section { heading, introduction, table } in &self.sections {
            text.push_str(&format!("\n## {heading}\n\n"));
            if !introduction.is_empty() {
                text.push_str(&format!("{introduction}\n\n"));
            }
            for line in table.markdown() {
                text.push_str(&line);
                text.push('\n');
            }
        }
        text.push_str("\n## What differs from the paper\n\n");
        for remark in &self.remarks {
            text.push_str(&format!("- {remark}\n"));
        }
        text
    }
}

/// Titles of a batch's figures, in the order of the data set and [`batch_cells`].
const BATCH_COLUMNS: [&str; 9] = [
    "data",
    "network",
    "activation",
    "seconds",
    "messages",
    "noise reduction, s",
    "ms per sample",
    "MB",
    "test accuracy",
];

/// Six tables on the benchmark network and a small one.
pub(crate) fn table2(records: &[BatchRecord]) -> Report {
    let papers = ["paper: seconds", "paper: messages", "paper: noise reduction, s", "paper / ours"];
    let columns = [&BATCH_COLUMNS[..], &papers].concat();
    let mut table = Figures::new(&columns, 3);
    for record in records {
        let published = published(record);
        let of = |figure: fn(&Tabular) -> String| or_dash(published.map(figure));
        let mut cells = vec![record.data.clone()];
        cells.extend(batch_cells(record));
        cells.extend([
            of(|row| format!("{:.2}", row.seconds)),
            of(|row| row.messages.to_string()),
            of(|row| format!("{:.2}", row.refresh_seconds)),
            or_dash(published.map(|row| three_digits(row.seconds / record.seconds()))),
        ]);
        table.row(cells);
    }
    let n_samples = records.first().map_or(0, |record| record.samples);
    let introduction = format!(
        "Batches of {n_samples}: the test part of each table, repeated. The paper's figures are of batches of \
         576 on its benchmark network, and stand beside ours on that network."
    );
    let title = "Table 2 of SecureDL: tables of data in batches".to_owned();
    let section = Section::new("Encrypted batches", introduction, table);
    let mut report = Report::new(title, vec![section], records);
    report.remarks.push(grid_remark());
    report.remarks.push(
        "**Network `mlp`** (dense 64, 32) has no counterpart there: tables need no convolutions, and most of \
         the benchmark's work is on zeros around them."
            .to_owned(),
    );
    report
}

/// The benchmark with one, two and three more convolutions.
pub(crate) fn table10_to_12(records: &[BatchRecord]) -> Report {
    let mut networks: Vec<&str> = records.iter().map(|record| record.network.as_str()).collect();
    networks.dedup();
    let section = |(number, network): (usize, &str)| {
        let mut table = Figures::new(&BATCH_COLUMNS, 3);
        for record in records.iter().filter(|record| record.network == network) {
            let mut cells = vec![record.data.clone()];
            cells.extend(batch_cells(record));
            table.row(cells);
        }
        Section::new(format!("Table {}: `{network}`", 10 + number), "", table)
    };
    let sections = networks.into_iter().enumerate().map(section).collect();
    let title = "Tables 10 to 12 of SecureDL: more convolutions".to_owned();
    let mut report = Report::new(title, sections, records);
    report.remarks.push(
        "**These tables of the paper could not be recovered**, so there is nothing to print beside ours. Its text \
         says that they are table 2 with one to three more convolutions. Ours have 50 maps of 3×3 with one \
         row and column of zeros around, after the second pool, each with its activation."
            .to_owned(),
    );
    report.remarks.push(grid_remark());
    report
}

/// Time over the size of the batch.
pub(crate) fn fig5(records: &[BatchRecord]) -> Report {
    let [_, shared @ .., _] = BATCH_COLUMNS;
    let columns = [&["samples"][..], &shared, &["accuracy"]].concat();
    let mut table = Figures::new(&columns, 3);
    for record in records {
        let mut cells = vec![units::count(record.samples)];
        cells.extend(batch_cells(record));
        table.row(cells);
    }
    let introduction = "![Time over the size of the batch](fig5.svg)\n\nThe curve of the paper could not be recovered. Its \
                        text says that a batch of any of these sizes takes as long as a single instance, each \
                        size being the slots of one choice of its parameters.";
    let title = "Figure 5 of SecureDL: time over the size of the batch".to_owned();
    let section = Section::new("Encrypted batches of MNIST", introduction, table);
    let mut report = Report::new(title, vec![section], records);
    report.remarks.push(
        "**Rings.** Each size has a plan of its own here. A block costs the same however full it is, so time \
         rises in steps: blocks of a segment with squares hold 4,078 samples or so (4,096 slots \
         less canaries and random points), those of others 2,048 times the samples per coefficient."
            .to_owned(),
    );
    report
}

/// Two charts: seconds of a batch, milliseconds of a sample.
///
/// # Errors
/// Only broken invariants.
pub(crate) fn fig5_plot(records: &[BatchRecord]) -> Result<String> {
    let panel = |title: &str, y_label: &str, value: fn(&BatchRecord) -> f64| Panel {
        title: title.to_owned(),
        axis: Axis::Linear,
        values: Values::Positive,
        x_label: "samples".to_owned(),
        y_label: y_label.to_owned(),
        curves: ["client", "server"].map(|side| curve(records, side, value)).into(),
    };
    let total = panel("one batch", "seconds", BatchRecord::seconds);
    svg(&[total, panel("one sample", "milliseconds", per_sample)])
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn curve(records: &[BatchRecord], side: &str, value: fn(&BatchRecord) -> f64) -> Curve {
    let of_side = records.iter().filter(|record| record.mode == side);
    let points = of_side.map(|record| (record.samples as f64, value(record))).collect();
    Curve { name: format!("activation at the {side}"), points }
}

/// Network, side, seconds, messages, noise reduction, time per sample, bytes, accuracy.
fn batch_cells(record: &BatchRecord) -> [String; 8] {
    [
        record.network.clone(),
        record.mode.clone(),
        three_digits(record.seconds()),
        record.refresh_messages().to_string(),
        three_digits(record.refresh_seconds),
        three_digits(per_sample(record)),
        megabytes(record.bytes()),
        units::percent(record.accuracy),
    ]
}

/// The paper's row for a batch, if it is on the paper's network.
fn published(record: &BatchRecord) -> Option<&'static Tabular> {
    let row = TABLE_2.iter().find(|row| row.data == record.data);
    row.filter(|_| record.network == "securedl")
}

/// Milliseconds of one sample.
#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn per_sample(record: &BatchRecord) -> f64 {
    1e3 * record.seconds() / record.samples.max(1) as f64
}

/// Bytes in units of 10^6, with three digits.
fn megabytes(bytes: u64) -> String {
    three_digits(in_megabytes(bytes))
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn in_megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn grid_remark() -> String {
    "**Tables as images.** The paper does not say how features reach a network of convolutions. Here they stand \
     row by row in the middle of a square of zeros of 28 × 28 cells (16 × 16 with `--quick`), and \
     every cell is encrypted. Networks learn from 75 to 430 samples: accuracies are there to show that the \
     batch classifies something."
        .to_owned()
}
