//! The report of a run as a page.

use std::path::PathBuf;

use anyhow::Result;
use nn_poly::plan::Plan;

use super::Case;
use crate::pipeline::inference::Run;
use crate::pipeline::recording::Record;
use crate::pipeline::streaming::Work;
use crate::report::distribution::SHOWN;
use crate::report::drawing::Drawing;
use crate::report::view::{FaultView, Finished, PredictionsView, RunView, Sheet};

/// What is known of the scores.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claims {
    /// Every score was compared with the integer network's.
    pub(super) is_compared: bool,
    /// Some are not.
    pub(super) is_contradicted: bool,
    /// They may be shown.
    pub(super) released: bool,
}

impl Case<'_> {
    /// The run as a page shows it.
    ///
    /// # Errors
    /// Samples that cannot be read.
    pub(super) fn view(
        &self,
        run: &Run,
        work: &Work<'_>,
        record: &Record,
        claims: Claims,
    ) -> Result<RunView> {
        let public = self.plan.public();
        let features = work.first_features(SHOWN)?;
        let sheet =
            Sheet { plan: public, features: &features, n_out_of_calibration: work.counts.n_out };
        let first = features.first().map(Vec::as_slice).unwrap_or_default();
        RunView::new(Finished {
            plan: self.plan,
            place: self.venue.in_words(),
            source: work.source(),
            room: None,
            run,
            record,
            is_contradicted: claims.is_contradicted,
            is_compared: claims.is_compared,
            predictions: claims
                .released
                .then(|| PredictionsView::new(&work.counts.distribution, sheet))
                .transpose()?,
            faults: faults(self.plan, run),
            input: Drawing::of_sample(public.input_shape.dims(), first, "The first sample")?,
        })
    }
}

/// What the evidence of a run shows; its files stay. The verdict stands without it.
fn faults(plan: &Plan, run: &Run) -> Vec<FaultView> {
    let judge = |path: &PathBuf| {
        let fault = FaultView::or_warning(path, plan)?;
        Some(FaultView { file: Some(path.display().to_string()), ..fault })
    };
    run.evidence.iter().filter_map(judge).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fingerprint::Verdict;
    use nn_poly::plan::ActivationSide;
    use securedl_tests::models::TinyModel;

    use super::*;

    #[test]
    fn evidence_that_cannot_be_judged_is_left_out() {
        let plan = TinyModel::conv_pool_square().plan(ActivationSide::Server, 8);
        let folder = tempfile::tempdir().unwrap();
        let (gone, empty) = (folder.path().join("gone"), folder.path().join("empty"));
        std::fs::write(&empty, "").unwrap();
        let run = Run {
            verdict: Verdict::ModelModified { segment: 0, neurons: vec![0] },
            scores: None,
            n_samples: 1,
            costs: None,
            total: Duration::ZERO,
            evidence: vec![gone, empty],
        };
        assert!(faults(&plan, &run).is_empty());
    }
}
