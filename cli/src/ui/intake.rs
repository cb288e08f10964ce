//! From the bytes of a request to samples.

use anyhow::{Context, Result, bail};
use axum::http::StatusCode;
use ndarray::Array2;
use nn_poly::import::{DataOptions, Dataset, SampleStream, Split};
use nn_poly::plan::PublicPlan;
use serde::Deserialize;

use crate::pipeline::inference;

/// Bytes of a request, at most.
pub(super) const MAX_BODY_BYTES: usize = 16 << 20;
/// Samples of a run, at most.
const MAX_SAMPLES: usize = 20_000;

/// The first bytes of gzip.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// What a run is about.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Samples {
    /// One row of raw features per sample.
    pub(crate) features: Array2<f32>,
    pub(crate) labels: Option<Vec<u32>>,
    /// Where they are from, in words.
    pub(crate) source: String,
}

/// Why a request is refused: the answer, and what to tell.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) text: String,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }
}

/// Whatever is wrong with a body is its sender's business.
impl From<anyhow::Error> for Refusal {
    fn from(error: anyhow::Error) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, format!("{error:#}"))
    }
}

/// Pixels of images, a byte each, image after image, row by row, channel fastest.
///
/// # Errors
/// A plan whose samples are no images; bytes that are no whole number of images, none, or too many.
pub(super) fn pixels(plan: &PublicPlan, body: &[u8]) -> Result<Samples> {
    let n_features = plan.input_shape.len().max(1);
    let [_, _, 1 | 3] = *plan.input_shape.dims() else {
        bail!("the samples of this plan are no images: bring a table");
    };
    let n_samples = body.len() / n_features;
    if n_samples == 0 || !body.len().is_multiple_of(n_features) {
        bail!(
            "an image of this plan has {n_features} bytes; {} are no whole number of them",
            body.len()
        );
    }
    check_count(n_samples)?;
    let values = body.iter().map(|&byte| f32::from(byte) / 255.0).collect();
    let features = Array2::from_shape_vec((n_samples, n_features), values)?;
    let source = if n_samples == 1 { "a drawing or image" } else { "drawings and images" };
    Ok(Samples { features, labels: None, source: source.to_owned() })
}

/// A CSV table with a header: a column per feature and, perhaps, one with labels.
///
/// # Errors
/// Text that is no table, of another width, with too many rows, or with labels the plan does not know;
/// a compressed table, which could be any number of times larger than it looks.
pub(super) fn table(
    plan: &PublicPlan,
    body: &[u8],
    label_column: Option<String>,
) -> Result<Samples> {
    const NAME: &str = "table.csv";
    if body.starts_with(&GZIP) {
        bail!("the table is compressed: unpack it first");
    }
    let folder = tempfile::tempdir().context("a temporary folder cannot be made")?;
    let path = folder.path().join(NAME);
    std::fs::write(&path, body).context("a temporary file cannot be written")?;
    let shown = path.display().to_string();
    let read = || -> Result<Samples> {
        let options = DataOptions { label_column };
        // Images may be tables too: a column per pixel.
        let shape = plan.input_shape.flattened();
        let stream = SampleStream::open(&path, Split::All, &plan.split, &options, &shape)?;
        check_count(stream.n_samples())?;
        let mut stream = stream.with_classes(&plan.class_names)?;
        let labels = stream.labels().map(<[u32]>::to_vec);
        let Some(mut features) = stream.next_features(MAX_SAMPLES)? else {
            bail!("the table has no rows");
        };
        if plan.input_shape.dims().len() == 3 && features.iter().any(|&value| value > 1.0) {
            features.mapv_inplace(|value| value / 255.0);
        }
        Ok(Samples { features, labels, source: "a table".to_owned() })
    };
    // Where the table lay for a moment is nobody's business.
    read().map_err(|error| anyhow::anyhow!("{}", format!("{error:#}").replace(&shown, "the table")))
}

/// Which examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    examples: usize,
}

/// Some of the examples, drawn at random.
///
/// # Errors
/// There are none, or none is asked for.
pub(super) fn examples(all: Option<&Dataset>, body: &[u8]) -> Result<Samples> {
    let wanted: Wanted = serde_json::from_slice(body).context("which examples?")?;
    let Some(all) = all else { bail!("there are no examples: start the page with --data") };
    if wanted.examples == 0 {
        bail!("no example is asked for");
    }
    check_count(wanted.examples)?;
    let n_wanted = wanted.examples.min(all.n_samples());
    let chosen = all.select(&inference::draw_numbers(all.n_samples(), n_wanted)?)?;
    Ok(Samples {
        features: chosen.features().clone(),
        labels: chosen.labels().map(<[u32]>::to_vec),
        source: format!("examples from {}", chosen.source()),
    })
}

fn check_count(n_samples: usize) -> Result<()> {
    if n_samples > MAX_SAMPLES {
        bail!(
            "{n_samples} samples are too many for this page, which takes {MAX_SAMPLES}: use `securedl infer`"
        );
    }
    Ok(())
}
