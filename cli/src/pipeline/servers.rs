//! The servers of a run: who holds the plan, who cannot be used, before anything is encrypted.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use nn_poly::plan::Plan;
use protocol::access::Token;
use protocol::client::{ClientOptions, Endpoint, RemoteEvaluator, RetryPolicy};
use protocol::error::{Error as ProtocolError, ResourceError};
use protocol::identifiers::Digest;
use protocol::identity::PublicIdentity;
use protocol::message::ModelCard;
use protocol::signature::{self, OwnerSignature, Subject};

use super::inference::client_options;
use crate::failure::Hint;

/// How long a server may take to appear before a run; once it was seen, the retry policy counts.
const FIRST_CONTACT: Duration = Duration::from_secs(5);

/// How this client shows itself to servers, and whom it accepts.
#[derive(Debug, Clone)]
pub(crate) struct Visitor {
    pub(crate) retry: RetryPolicy,
    pub(crate) token: Option<Token>,
    /// Identities that are accepted; any if there are none.
    pub(crate) identities: Vec<PublicIdentity>,
}

impl Visitor {
    /// A client without credentials.
    pub(crate) fn plain(retry: &RetryPolicy) -> Self {
        Self { retry: retry.clone(), token: None, identities: Vec::new() }
    }

    fn options(&self, retry: RetryPolicy) -> Result<ClientOptions> {
        let (token, identities) = (self.token.clone(), self.identities.clone());
        Ok(ClientOptions { token, identities, ..client_options(retry)? })
    }

    /// A client of these servers with at most so many requests under way.
    ///
    /// # Errors
    /// Only broken invariants.
    pub(crate) fn client(
        &self,
        servers: Vec<Endpoint>,
        connections: usize,
    ) -> Result<Arc<RemoteEvaluator>> {
        let options = self.options(self.retry.clone())?;
        let max_connections = options.max_connections.max(connections);
        let options = ClientOptions { max_connections, ..options };
        Ok(Arc::new(RemoteEvaluator::new(servers, options)?))
    }
}

/// The plan that is looked for.
#[derive(Debug, Clone)]
pub(crate) struct Sought {
    digest: Digest,
    /// What its owner signs.
    subject: Subject,
    name: String,
}

impl Sought {
    /// A whole plan.
    pub(crate) fn plan(plan: &Plan) -> Self {
        let (digest, name) = (Digest(plan.digest().0), plan.public().name.clone());
        Self { digest, subject: Subject::of_plan(plan), name }
    }

    /// A plan of which only the public part is at hand.
    pub(crate) fn public(digest: Digest, subject: Subject, name: &str) -> Self {
        Self { digest, subject, name: name.to_owned() }
    }
}

/// What was found at the addresses.
#[derive(Debug)]
pub(crate) struct Found {
    /// Servers that can be used, or may be later.
    pub(crate) servers: Vec<Endpoint>,
    /// The owner's signature that the first of them announced with the plan.
    pub(crate) signature: Option<OwnerSignature>,
    /// About the others, one line each.
    pub(crate) remarks: Vec<String>,
}

/// Ask every server, all at once, whether it holds the plan. Those that cannot be used are left out;
/// those that cannot be reached are kept if another one can: they may be back when they are needed.
///
/// # Errors
/// No server that holds the plan can be reached; the error names each with its reason.
pub(crate) async fn find(
    endpoints: Vec<Endpoint>,
    sought: &Sought,
    visitor: &Visitor,
) -> Result<Found> {
    let outage = visitor.retry.outage.min(FIRST_CONTACT);
    let options = visitor.options(RetryPolicy { outage, ..visitor.retry.clone() })?;
    let mut questions = Vec::with_capacity(endpoints.len());
    for endpoint in endpoints {
        let remote = RemoteEvaluator::new(vec![endpoint.clone()], options.clone())?;
        let question = tokio::spawn(async move {
            let models = remote.list_models().await;
            remote.close().await;
            models
        });
        questions.push((endpoint, question));
    }
    let is_alone = questions.len() == 1;
    let mut found = Found { servers: Vec::new(), signature: None, remarks: Vec::new() };
    let (mut n_good, mut reasons) = (0, Vec::new());
    for (endpoint, question) in questions {
        let (error, may_come_back) = match question.await.context("a question to a server ended")? {
            Ok(models) => match judge(&endpoint, &models, sought) {
                Ok(signature) => {
                    n_good += 1;
                    found.signature = found.signature.or(signature);
                    found.servers.push(endpoint);
                    continue;
                }
                Err(error) => (error, false),
            },
            Err(error) => {
                let passes = may_pass(&error);
                (error.into(), passes)
            }
        };
        if is_alone {
            return Err(error);
        }
        reasons.push(format!("{endpoint}: {error:#}"));
        if may_come_back {
            found.remarks.push(format!("{endpoint} does not answer and is tried later: {error:#}"));
            found.servers.push(endpoint);
        } else {
            found.remarks.push(format!("{endpoint} is left out: {error:#}"));
        }
    }
    if n_good == 0 {
        anyhow::bail!("no server can be used; {}", reasons.join("; "));
    }
    Ok(found)
}

/// Make sure that one server can be reached and holds the plan; gives the signature that it announces.
///
/// # Errors
/// A server that cannot be reached, cannot prove who it is, or lacks the plan; an announced signature
/// that is not of this plan.
pub(crate) async fn check(
    endpoint: &Endpoint,
    plan: &Plan,
    visitor: &Visitor,
) -> Result<Option<OwnerSignature>> {
    Ok(find(vec![endpoint.clone()], &Sought::plan(plan), visitor).await?.signature)
}

/// Whether a server announces the plan, and the signature it announces with it.
fn judge(
    endpoint: &Endpoint,
    models: &[ModelCard],
    sought: &Sought,
) -> Result<Option<OwnerSignature>> {
    let wanted = sought.digest;
    if let Some(card) = models.iter().find(|card| card.plan == wanted) {
        signature::check(card.signature.as_ref(), &sought.subject, &[])
            .with_context(|| format!("the server at {endpoint} announces a false signature"))?;
        return Ok(card.signature);
    }
    let held: Vec<String> =
        models.iter().map(|card| format!("{} ({})", card.name, card.plan.short())).collect();
    let held = if held.is_empty() { "none".to_owned() } else { held.join(", ") };
    let error = anyhow::anyhow!(
        "the server at {endpoint} does not hold the plan `{}` ({}); its plans: {held}",
        sought.name,
        wanted.short(),
    );
    Err(error).hint(|| "copy the plan file into the folder the server was started with (--plans)")
}

fn may_pass(error: &ProtocolError) -> bool {
    if let ProtocolError::Resource(ResourceError::GaveUp { last, .. }) = error {
        return last.is_retryable();
    }
    let is_late = matches!(error, ProtocolError::Resource(ResourceError::DeadlineExceeded { .. }));
    is_late || error.is_retryable()
}

/// Where evidence is kept, if any is: only what a server did is worth it. A folder that was made for
/// nothing is removed.
#[derive(Debug)]
pub(crate) struct EvidenceFolder {
    path: Option<PathBuf>,
    is_new: bool,
}

impl EvidenceFolder {
    /// The folder the user named, or `evidence` in `beside` (the working directory if there is none).
    pub(crate) fn new(is_wanted: bool, named: Option<&Path>, beside: Option<&Path>) -> Self {
        let default = || beside.unwrap_or(Path::new("")).join("evidence");
        let path = is_wanted.then(|| named.map_or_else(default, Path::to_owned));
        Self { is_new: path.as_ref().is_some_and(|path| !path.exists()), path }
    }

    pub(crate) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }
}

impl Drop for EvidenceFolder {
    fn drop(&mut self) {
        if let (Some(path), true) = (&self.path, self.is_new) {
            // Fails if something is in it.
            let _ = std::fs::remove_dir(path);
        }
    }
}
