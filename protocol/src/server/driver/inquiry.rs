//! What the host and the admission are asked in the background of a connection.

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::task::spawn_blocking;

use crate::message::{EvaluateHeader, PlanBytes, PublicPart, Refusal, RefusalCode};
use crate::server::Shared;
use crate::server::event::{Answer, Question};
use crate::server::gate::Party;
use crate::server::job::{Place, chunk_memory};
use crate::server::metrics::RequestPhase;
use crate::server::service::SegmentService;
use crate::server::visit::Asking;

/// A question on its way.
pub(super) type Inquiry = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// What came of it.
pub(super) enum Outcome {
    Answer(Answer),
    Admitted(Admitted),
    Declined(Refusal),
}

/// A request that may begin.
pub(super) struct Admitted {
    pub(super) header: EvaluateHeader,
    pub(super) service: Arc<dyn SegmentService>,
    pub(super) party: Party,
    pub(super) place: Place,
}

/// Wait for the outcome; for ever without a question.
pub(super) async fn outcome(inquiry: &mut Option<Inquiry>) -> Outcome {
    match inquiry {
        Some(inquiry) => inquiry.await,
        None => pending().await,
    }
}

/// Ask the host.
pub(super) async fn look(
    shared: Arc<Shared>,
    question: Question,
    asking: Result<Asking, Refusal>,
) -> Outcome {
    let mut asking = match asking {
        Ok(asking) => asking,
        Err(refusal) => return Outcome::Declined(refusal),
    };
    if let Question::PublicPlan(plan) = question
        && !asking.may_use(&*shared.host, &plan)
    {
        return Outcome::Answer(Answer::PublicPlan(None));
    }
    let lookups = shared.admission.lookups();
    let Ok(_turn) = lookups.acquire().await else { return Outcome::Answer(Answer::Failed) };
    let answer = spawn_blocking(move || {
        let host = &*shared.host;
        match question {
            Question::Models => Ok(Answer::Models(asking.models(host))),
            Question::PublicPlan(plan) => {
                let part = host.public_plan(&plan);
                let Some(bytes) = part else { return Ok(Answer::PublicPlan(None)) };
                asking.ticket.spend(bytes.len() as u64)?;
                Ok(Answer::PublicPlan(Some(PublicPart {
                    plan: PlanBytes(Bytes::from_owner(bytes)),
                    signature: host.signature(&plan),
                })))
            }
        }
    });
    match answer.await {
        Ok(Ok(answer)) => Outcome::Answer(answer),
        Ok(Err(refusal)) => Outcome::Declined(refusal),
        Err(_) => Outcome::Answer(Answer::Failed),
    }
}

/// Find the segment, and memory for the request.
pub(super) async fn admit(
    shared: Arc<Shared>,
    header: EvaluateHeader,
    asking: Result<Asking, Refusal>,
) -> Outcome {
    let asking = match asking {
        Ok(asking) => asking,
        Err(refusal) => return Outcome::Declined(refusal),
    };
    // From memory, before anything is taken: a plan that does not exist, or that this client may not
    // use, costs no turn, no thread and no memory, and both look alike.
    if !asking.may_use(&*shared.host, &header.plan) {
        return Outcome::Declined(Refusal::new(RefusalCode::UnknownPlan));
    }
    let began = Instant::now();
    let party = asking.party().clone();
    let lookups = shared.admission.lookups();
    let Ok(turn) = lookups.acquire().await else {
        return Outcome::Declined(Refusal::new(RefusalCode::Internal));
    };
    let host = Arc::clone(&shared.host);
    let found = spawn_blocking(move || host.segment(&header.plan, header.segment)).await;
    drop(turn);
    let mut ticket = asking.ticket;
    let service = match found {
        Ok(Ok(service)) => service,
        Ok(Err(refusal)) => return Outcome::Declined(refusal),
        Err(_) => return Outcome::Declined(Refusal::new(RefusalCode::Internal)),
    };
    if let Err(code) = check_shape(&shared, &header, &*service) {
        return Outcome::Declined(Refusal::new(code));
    }
    let moved = header.payload_bytes.saturating_add(service.reply_bytes());
    if let Err(refusal) = ticket.spend(moved) {
        return Outcome::Declined(refusal);
    }
    let chunks = chunk_memory(shared.options.limits.chunk_bytes);
    let bytes = service.memory_bytes().saturating_add(chunks);
    match shared.admission.admit(&party, bytes).await {
        Ok(memory) => {
            let (metrics, waited) = (&shared.options.metrics, began.elapsed());
            metrics.phase(RequestPhase::Admission, &header.plan, header.segment, waited);
            let place = Place { memory, ticket };
            Outcome::Admitted(Admitted { header, service, party, place })
        }
        Err(refusal) => {
            ticket.forgive();
            Outcome::Declined(refusal)
        }
    }
}

fn check_shape(
    shared: &Shared,
    header: &EvaluateHeader,
    service: &dyn SegmentService,
) -> Result<(), RefusalCode> {
    let limits = &shared.options.limits;
    if header.n_ciphertexts != service.n_inputs() || header.payload_bytes != service.request_bytes()
    {
        return Err(RefusalCode::WrongShape);
    }
    if header.payload_bytes > limits.max_request_bytes
        || service.reply_bytes() > limits.max_reply_bytes
    {
        return Err(RefusalCode::TooLarge);
    }
    Ok(())
}
