//! The demonstration's server, which cheats as it is told to.

use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Result, bail};
use nn_poly::plan::Plan;
use protocol::hosting::PlanShelf;
use protocol::identifiers::Digest;
use protocol::message::Refusal;
use protocol::server::service::{PlanHost, SegmentService};

use super::tampering;
use crate::pipeline::altering::{AlteredHost, AlteredSegment, change, ciphertext_bytes};
use crate::ui::Tampering;

/// Ways to cheat: what programs call them, and what they are.
const KINDS: [(&str, &str); 5] = [
    ("honest", "Be honest"),
    ("weight", "Change one weight by one unit"),
    ("pruned", "Save work: drop the small weights"),
    ("neuron", "Leave out one neuron"),
    ("word", "Change one bit of each reply"),
];

/// How the server of one plan cheats: as it was told last.
pub(super) struct Cheating {
    plan: Plan,
    digest: Digest,
    way: RwLock<Way>,
}

#[derive(Clone)]
struct Way {
    kind: &'static str,
    segment: usize,
    cheat: Cheat,
}

#[derive(Clone)]
enum Cheat {
    None,
    /// Another model, under the plan's digest.
    Model(Arc<PlanShelf>),
    /// The ciphertext in the middle is zero.
    Zero,
    /// The first bit of the ciphertext in the middle is another.
    Bit,
}

impl Cheating {
    /// A host of the plan that is honest for the time being, and what makes it cheat.
    ///
    /// # Errors
    /// A plan whose parameters cannot be used.
    pub(super) fn host(plan: &Plan) -> Result<(Arc<dyn PlanHost>, Arc<Self>)> {
        let mut honest = PlanShelf::new();
        let digest = honest.insert(plan)?;
        let segment = plan.public().segments.len() / 2;
        let way = RwLock::new(Way { kind: "honest", segment, cheat: Cheat::None });
        let cheating = Arc::new(Self { plan: plan.clone(), digest, way });
        let told = Arc::clone(&cheating);
        let host = AlteredHost::new(Arc::new(honest), move |plan, segment, honest| {
            told.segment(plan, segment, honest)
        });
        Ok((host, cheating))
    }

    /// A panic while the way was held leaves it usable: it is replaced as a whole.
    fn way(&self) -> Way {
        self.way.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn other_model(&self, plan: &Plan) -> Result<Cheat> {
        let mut shelf = PlanShelf::new();
        // It claims to run the plan it was given.
        shelf.insert_as(plan, self.digest)?;
        Ok(Cheat::Model(Arc::new(shelf)))
    }

    /// What is served instead of an honest segment.
    fn segment(
        &self,
        plan: &Digest,
        segment: u32,
        honest: Arc<dyn SegmentService>,
    ) -> Result<Arc<dyn SegmentService>, Refusal> {
        let way = self.way();
        if way.segment != segment as usize {
            return Ok(honest);
        }
        let size = ciphertext_bytes(&*honest);
        let start = u64::from(honest.n_outputs() / 2) * size;
        Ok(match way.cheat {
            Cheat::None => honest,
            Cheat::Model(shelf) => shelf.segment(plan, segment)?,
            Cheat::Zero => AlteredSegment::new(
                honest,
                Arc::new(move |piece_start, piece| {
                    change(piece_start, piece, start..start + size, |byte| *byte = 0);
                }),
            ),
            Cheat::Bit => AlteredSegment::new(
                honest,
                Arc::new(move |piece_start, piece| {
                    change(piece_start, piece, start..start + 1, |byte| *byte ^= 1);
                }),
            ),
        })
    }
}

impl Tampering for Cheating {
    fn kinds(&self) -> Vec<(&'static str, &'static str)> {
        KINDS.to_vec()
    }

    fn current(&self) -> (&'static str, usize) {
        let way = self.way();
        (way.kind, way.segment)
    }

    fn choose(&self, kind: &str, segment: usize) -> Result<()> {
        self.plan.public().segment(segment)?;
        let Some(&(kind, _)) = KINDS.iter().find(|(name, _)| *name == kind) else {
            bail!("there is no such way to cheat");
        };
        let cheat = match kind {
            "weight" => self.other_model(&tampering::change_one_weight(&self.plan, segment)?.1)?,
            "pruned" => self.other_model(&tampering::drop_small_weights(&self.plan, segment)?)?,
            "neuron" => Cheat::Zero,
            "word" => Cheat::Bit,
            _ => Cheat::None,
        };
        *self.way.write().unwrap_or_else(PoisonError::into_inner) = Way { kind, segment, cheat };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use fingerprint::{LayoutOptions, Verdict};
    use nn_poly::plan::ActivationSide;
    use protocol::client::{Endpoint, RetryPolicy};
    use securedl_tests::models::{TinyModel, samples};

    use super::*;
    use crate::pipeline::inference::{self, RunSettings};

    #[tokio::test]
    async fn every_way_to_cheat_is_caught_in_every_segment() {
        let plan = TinyModel::conv_pool_square().plan(ActivationSide::Server, 8);
        let (host, cheating) = Cheating::host(&plan).unwrap();
        let serving = Endpoint::in_process(inference::server(host).unwrap());
        let layout = LayoutOptions { network_canaries: 4, ..LayoutOptions::default() };
        let retry = RetryPolicy::never();
        let settings = RunSettings { layout, retry, fingerprint: None };
        let inputs = samples(&plan, 3, 1);
        let n_segments = plan.public().segments.len();
        for (kind, _) in cheating.kinds() {
            for segment in 0..n_segments {
                cheating.choose(kind, segment).unwrap();
                assert_eq!(cheating.current(), (kind, segment));
                let run = inference::run_alone(&plan, &inputs, &serving, &settings).await.unwrap();
                let found = match run.verdict {
                    Verdict::Intact { .. } => None,
                    Verdict::ModelModified { segment, .. }
                    | Verdict::ComputationTampered { segment, .. } => Some(segment as usize),
                    Verdict::Unverified { .. } => panic!("{kind} in segment {segment}"),
                };
                let expected = (kind != "honest").then_some(segment);
                assert_eq!(found, expected, "{kind} in segment {segment}");
                assert_eq!(run.scores.is_some(), kind == "honest");
            }
        }
        assert!(
            cheating.choose("bribe", 0).is_err() && cheating.choose("word", n_segments).is_err()
        );
    }
}
