//! One client in the access list.

use crate::identifiers::Digest;

/// What a client may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Its name in the list and in the audit log.
    pub name: String,
    /// Whether it may enter.
    pub enabled: bool,
    /// Plans it may know of: any of these.
    pub plans: Vec<PlanRule>,
    /// How much it may ask for.
    pub limits: ClientLimits,
}

impl Client {
    /// Whether one of the rules names this plan.
    #[must_use]
    pub fn may_use(&self, plan: &Digest, name: Option<&str>) -> bool {
        self.plans.iter().any(|rule| match rule {
            PlanRule::Any => true,
            PlanRule::Digest(digest) => digest == plan,
            PlanRule::Name(allowed) => name == Some(allowed),
        })
    }
}

/// Which plans are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlanRule {
    /// Every plan of the server: `*`.
    Any,
    /// The plan with this digest.
    Digest(Digest),
    /// Every plan of this model name.
    Name(String),
}

impl From<&str> for PlanRule {
    fn from(text: &str) -> Self {
        match text.parse() {
            Ok(digest) => Self::Digest(digest),
            Err(_) if text == "*" => Self::Any,
            Err(_) => Self::Name(text.to_owned()),
        }
    }
}

/// How much a client may ask for; `None` = as much as the server takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClientLimits {
    /// Requests of any kind in a minute, refused ones included. As many may come at once.
    pub requests_per_minute: Option<u32>,
    /// Payload bytes up and down in an hour. As many may come at once.
    pub bytes_per_hour: Option<u64>,
    /// Requests at the same time.
    pub concurrent_requests: Option<u32>,
}
