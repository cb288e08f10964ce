//! Training further on clean data: the mildest thing that moves every weight.

use nn_poly::layer::ParameterKind;
use nn_poly::network::Network;
use nn_poly::train::{Optimizer, Schedule, TrainableParameters};

use super::retrain::{Duration, Retraining};
use super::{Aftermath, AttackData, AttackKind, AttackSuccess, MAX_ACCURACY_LOSS, Method, Tools};
use crate::error::Result;

#[derive(Clone, Debug)]
pub(super) struct FineTune {
    last_only: bool,
    retraining: Retraining,
}

impl FineTune {
    pub(super) fn new(kind: AttackKind, learning_rate: f64, duration: Duration) -> Self {
        let last_only = kind == AttackKind::FineTuneLast;
        let optimizer = if last_only {
            Optimizer::Sgd { momentum: 0.0, weight_decay: 0.0 }
        } else {
            Optimizer::Adam
        };
        let schedule = Schedule::Constant;
        Self { last_only, retraining: Retraining { duration, optimizer, schedule, learning_rate } }
    }
}

impl Method for FineTune {
    fn tamper(
        &self,
        deployed: &Network<f32>,
        data: &AttackData<'_>,
        tools: &mut Tools<'_>,
    ) -> Result<Network<f32>> {
        let trainable = self.last_only.then(|| {
            let last = deployed.layers().iter().rposition(|layer| {
                layer.parameters().iter().any(|p| p.kind == ParameterKind::Weight)
            });
            TrainableParameters::layers(deployed, |layer_idx| Some(layer_idx) == last)
        });
        self.retraining.run(deployed.clone(), data.train(), trainable, tools)
    }

    fn success(&self, aftermath: &Aftermath<'_>) -> Result<Option<AttackSuccess>> {
        Ok(Some(aftermath.changed_scores(MAX_ACCURACY_LOSS)))
    }
}
