//! What a plan is for.

use super::Link;
use crate::error::{Error, Result};
use crate::integer::require;
use crate::plan::{ActivationSide, RangePolicy, Relinearization, RunSize, Trust};

/// What is to be small.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Objective {
    /// Seconds of a run from first to last, bytes where those are equal.
    #[default]
    Time,
    /// Payload bytes of both directions, then seconds.
    Bytes,
    /// Round trips of a run, then seconds.
    Rounds,
}

/// What a plan is for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlanGoal {
    /// What is to be small.
    pub objective: Objective,
    /// What lies between client and server.
    pub link: Link,
    /// How many times as fast the server computes as the machine whose costs are known.
    pub server_speed: f64,
    /// Memory that client and server may each take for a run, bytes.
    pub memory_bytes: Option<u64>,
    /// Round trips that one batch may take; [`choose`](crate::compiler::choose) takes 0 for 1.
    pub max_rounds: Option<u32>,
    /// Which ranges the plan may rest on.
    pub ranges: RangePolicy,
    /// Whether ciphertexts of chains are relinearized.
    pub relinearization: Relinearization,
    /// Who evaluates activations, if that is settled.
    pub activation_side: Option<ActivationSide>,
    /// Who may see intermediate values.
    pub trust: Trust,
    /// The run: its samples, and slots of blocks that carry none.
    pub size: RunSize,
}

impl PlanGoal {
    /// Least time over a link of 1 Gbit/s and a millisecond, proven ranges preferred, nothing else
    /// settled, no limits.
    #[must_use]
    pub const fn new(size: RunSize) -> Self {
        Self {
            objective: Objective::Time,
            link: Link::Network { bits_per_second: 1e9, round_trip_seconds: 1e-3 },
            server_speed: 1.0,
            memory_bytes: None,
            max_rounds: None,
            ranges: RangePolicy::PreferProven,
            relinearization: Relinearization::Cheapest,
            activation_side: None,
            trust: Trust::Owner,
            size,
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        require("run", 0, "number of samples", self.size.n_samples, 1, 1 << 40)?;
        let mut figures = vec![("speed of the server", self.server_speed)];
        if let Link::Network { bits_per_second, round_trip_seconds } = self.link {
            figures.push(("bits per second of the link", bits_per_second));
            if !(round_trip_seconds.is_finite() && round_trip_seconds >= 0.0) {
                return Err(Error::InvalidSetting {
                    setting: "round trip of the link",
                    value: round_trip_seconds,
                    requirement: "finite and not negative, in seconds",
                });
            }
        }
        for (setting, value) in figures {
            if !(value.is_finite() && value > 0.0) {
                let requirement = "finite and positive";
                return Err(Error::InvalidSetting { setting, value, requirement });
            }
        }
        Ok(())
    }
}
