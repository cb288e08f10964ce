//! Servers that cheat: how they are told to, and what the page shows of it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use axum::http::StatusCode;
use fingerprint::Verdict;
use protocol::runner::Silent;
use securedl_tests::dishonest::{Cheat, DishonestHost, Victims};

use super::{blank, fixture, fixture_on, fixture_with, plan};
use crate::pipeline::inference::{self, Run};
use crate::pipeline::recording::Recorder;
use crate::report::view::Tone;
use crate::ui::{EvidencePlace, Tampering};

#[tokio::test]
async fn a_cheat_is_shown_with_what_gave_it_away_and_without_predictions() {
    for (segment, cheat) in
        [(0, Cheat::Weight { index: 3, by: 1 }), (1, Cheat::DroppedNeuron { output: 2 })]
    {
        let fixture = fixture_on(DishonestHost::new(&plan(), segment, cheat, Victims::All));
        fixture.desk.begin(blank()).unwrap();
        let status = fixture.ended().await;
        assert_eq!(status["past"][0]["tone"], "bad", "{status}");
        let view = fixture.desk.view(1).unwrap();
        assert!(view.verdict.text.contains(&format!("segment {segment}")), "{:?}", view.verdict);
        assert_eq!(view.predictions, None);
        let fault = &view.faults[0];
        assert!(fault.text.starts_with(&format!("Segment {segment}: ")), "{fault:?}");
        assert!(fault.n_different >= 1 && fault.file.is_none(), "{fault:?}");
        if segment == 1 {
            assert!(fault.text.contains("output neuron 2,"), "{fault:?}");
            assert_eq!(fault.n_different, 1);
        }
        let EvidencePlace::Moment(folder) = &fixture.desk.evidence else { panic!("a folder") };
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing stays");
        let page = fixture.get("/api/runs/1/html").await.1;
        assert!(page.contains("No predictions were released"), "{page}");
        assert!(page.contains("What gave it away"), "{page}");
    }
}

#[tokio::test]
async fn a_verdict_stands_without_its_evidence() {
    let fixture = fixture();
    let samples = blank();
    let inputs = fixture.desk.plan.public().quantize(&samples.features).unwrap();
    let run = Run {
        verdict: Verdict::ModelModified { segment: 1, neurons: vec![2] },
        scores: None,
        n_samples: 1,
        costs: None,
        total: Duration::ZERO,
        evidence: vec![PathBuf::from("gone.evidence")],
    };
    let recorder = Recorder::new(&fixture.desk.plan, Arc::new(Silent));
    let view = fixture.desk.describe(&samples, &inputs, &run, &recorder).unwrap();
    assert_eq!((view.verdict.tone, view.verdict.name), (Tone::Bad, "ModelModified"));
    assert_eq!((view.faults.len(), view.predictions.is_none()), (0, true));
}

/// Takes longer to learn what it is told first.
#[derive(Default)]
struct SlowLearner(Mutex<Vec<usize>>);

impl SlowLearner {
    fn learned(&self) -> Vec<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Tampering for SlowLearner {
    fn kinds(&self) -> Vec<(&'static str, &'static str)> {
        vec![("slowly", "Learn slowly")]
    }

    fn current(&self) -> (&'static str, usize) {
        ("slowly", self.learned().last().copied().unwrap_or(0))
    }

    fn choose(&self, _: &str, segment: usize) -> Result<()> {
        std::thread::sleep(Duration::from_millis(100 / (segment as u64 + 1)));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(segment);
        Ok(())
    }
}

#[tokio::test]
async fn the_last_choice_stays_however_long_others_take() {
    let server = Arc::new(SlowLearner::default());
    let honest = inference::shelf(&plan()).unwrap();
    let fixture = fixture_with(honest, Some(Arc::clone(&server) as Arc<dyn Tampering>));
    let choose = async |segment: usize| {
        let body = format!("{{\"kind\": \"slowly\", \"segment\": {segment}}}");
        let request = fixture.request("POST", "/api/tampering", "application/json", body);
        assert_eq!(fixture.send(request).await.0, StatusCode::NO_CONTENT);
    };
    tokio::join!(choose(0), choose(1), choose(9));
    assert_eq!(server.learned(), [0, 1, 9]);
}
