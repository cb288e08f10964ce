//! From raw flags to checked options.

use std::time::Duration;

use anyhow::Result;
use nn_poly::import::Split;
use nn_poly::model::Bits;
use nn_poly::network::{ActivationChoice, NetworkKind};
use nn_poly::plan::{ActivationSide, Trust};
use protocol::client::RetryPolicy;

use crate::args::{
    ActivationName, BitsArgument, ConnectionArguments, InferArguments, NetworkName, SideName,
    SplitName, TrustName,
};
use crate::failure::Hint;

impl From<NetworkName> for NetworkKind {
    fn from(name: NetworkName) -> Self {
        match name {
            NetworkName::Cryptonets => Self::Cryptonets,
            NetworkName::Securedl => Self::Securedl,
            NetworkName::Mlp => Self::Mlp,
        }
    }
}

impl From<ActivationName> for ActivationChoice {
    fn from(name: ActivationName) -> Self {
        match name {
            ActivationName::Square => Self::Square,
            ActivationName::Relu => Self::Relu,
            ActivationName::Poly => Self::Polynomial,
        }
    }
}

impl From<SideName> for ActivationSide {
    fn from(name: SideName) -> Self {
        match name {
            SideName::Server => Self::Server,
            SideName::Client => Self::Client,
        }
    }
}

impl From<TrustName> for Trust {
    fn from(name: TrustName) -> Self {
        match name {
            TrustName::Owner => Self::Owner,
            TrustName::Masked => Self::Masked,
        }
    }
}

impl From<SplitName> for Split {
    fn from(name: SplitName) -> Self {
        match name {
            SplitName::Train => Self::Train,
            SplitName::Test => Self::Test,
            SplitName::All => Self::All,
        }
    }
}

/// What to do about quantization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BitsChoice {
    /// What the network or model says.
    Default,
    /// No quantization-aware fine-tuning.
    None,
    /// These.
    Of(Bits),
}

impl BitsChoice {
    /// Check the numbers of `--bits`.
    ///
    /// # Errors
    /// A number out of its range.
    pub(crate) fn new(argument: Option<BitsArgument>) -> Result<Self> {
        Ok(match argument {
            None => Self::Default,
            Some(BitsArgument::None) => Self::None,
            Some(BitsArgument::Of { input, weight, activation }) => {
                let bits = Bits::new(input, weight, activation);
                Self::Of(bits.hint(|| "write --bits as input/weight/activation, such as 4/4/4")?)
            }
        })
    }
}

/// Where an inference runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Venue {
    /// On servers over TLS.
    Server {
        /// `host:port` of each.
        addresses: Vec<String>,
        /// Folder with `ca.pem`.
        tls: std::path::PathBuf,
    },
    /// On a server inside this process.
    Local,
    /// Nowhere: the integer network alone.
    Simulation,
}

impl Venue {
    /// What the flags of `infer` say; [`Venue::Local`] if they say nothing.
    pub(crate) fn of_run(arguments: &InferArguments) -> Self {
        match Self::of_connection(&arguments.connection) {
            Self::Local if arguments.simulate => Self::Simulation,
            venue @ (Self::Local | Self::Server { .. } | Self::Simulation) => venue,
        }
    }

    /// The servers that are named; without any, [`Venue::Local`].
    pub(crate) fn of_connection(connection: &ConnectionArguments) -> Self {
        match &connection.tls {
            Some(tls) if !connection.server.is_empty() => {
                Self::Server { addresses: connection.server.clone(), tls: tls.clone() }
            }
            _ => Self::Local,
        }
    }

    /// Where that is, in words.
    pub(crate) fn in_words(&self) -> String {
        match self {
            Self::Server { addresses, .. } => format!("{} over TLS", addresses.join(", ")),
            Self::Local => "this process, through the same messages".to_owned(),
            Self::Simulation => "none: the integer network alone".to_owned(),
        }
    }

    /// Its name in reports.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Server { .. } => "server",
            Self::Local => "local",
            Self::Simulation => "simulate",
        }
    }
}

/// How long to wait for a server that went away.
pub(crate) fn retry_policy(patience_seconds: u64) -> RetryPolicy {
    let outage = Duration::from_secs(patience_seconds);
    if outage.is_zero() {
        RetryPolicy::never()
    } else {
        RetryPolicy { outage, ..RetryPolicy::default() }
    }
}
