//! One connection's client: who it is, what it may ask for, and the record of what it asked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::access::{Credentials, Ticket, Token, Visitor};
use crate::audit::{Event, Record};
use crate::identifiers::Digest;
use crate::message::{EvaluateHeader, ModelCard, Refusal, RefusalCode, ServerMessage};
use crate::server::Shared;
use crate::server::event::Question;
use crate::server::gate::Party;
use crate::server::metrics::Direction;
use crate::server::service::PlanHost;
use crate::tls::CertificateFingerprint;

/// Where a connection comes from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Origin {
    /// From inside the process, or from a caller that has decided already.
    Inside,
    /// Over the network; with the certificate that TLS has verified, if there is one.
    Network { address: SocketAddr, certificate: Option<CertificateFingerprint> },
}

/// The client of one connection.
pub(super) struct Visit {
    shared: Arc<Shared>,
    origin: Origin,
    visitor: Option<Visitor>,
    open: Option<Record>,
    began: Instant,
}

impl Visit {
    pub(super) fn new(shared: &Arc<Shared>, origin: Origin) -> Self {
        let visitor = match origin {
            Origin::Inside => Some(shared.options.access.inside()),
            Origin::Network { .. } => None,
        };
        Self { shared: Arc::clone(shared), origin, visitor, open: None, began: Instant::now() }
    }

    /// Decide at the entrance.
    pub(super) fn enter(&mut self, token: Option<Token>) -> Result<(), Refusal> {
        let Origin::Network { certificate, .. } = self.origin else { return Ok(()) };
        match self.shared.options.access.enter(&Credentials { token, certificate }) {
            Ok(visitor) => {
                self.visitor = Some(visitor);
                Ok(())
            }
            Err(refusal) => {
                self.note(Event::Enter);
                Err(refusal)
            }
        }
    }

    /// Whether the client was let in.
    pub(super) const fn has_entered(&self) -> bool {
        self.visitor.is_some()
    }

    /// A right to ask: counts as a request.
    pub(super) fn ask(&mut self, question: Question) -> Result<Asking, Refusal> {
        match question {
            Question::Models => {
                self.note(Event::ListModels);
            }
            Question::PublicPlan(plan) => {
                self.note(Event::FetchPlan).plan = Some(plan);
            }
        }
        self.begin()
    }

    /// A right to evaluate: counts as a request.
    pub(super) fn evaluate(&mut self, header: &EvaluateHeader) -> Result<Asking, Refusal> {
        let record = self.note(Event::Evaluate);
        record.request = Some(header.request_id);
        record.plan = Some(header.plan);
        record.segment = Some(header.segment);
        self.begin()
    }

    fn begin(&self) -> Result<Asking, Refusal> {
        let visitor = self.visitor.clone().ok_or(Refusal::new(RefusalCode::Unauthorized))?;
        Ok(Asking { ticket: visitor.begin()?, visitor, party: self.party() })
    }

    /// The request under way, as logs name it.
    pub(super) fn request(&self) -> Option<String> {
        self.open.as_ref()?.request.map(|request| request.to_string())
    }

    /// The client's name in the list.
    pub(super) fn client(&self) -> Option<&str> {
        self.visitor.as_ref().and_then(Visitor::name)
    }

    fn party(&self) -> Party {
        match (self.client(), self.origin) {
            (Some(name), _) => Party::Client(name.into()),
            (None, Origin::Network { address, .. }) => Party::at(address.ip()),
            (None, Origin::Inside) => Party::Inside,
        }
    }

    pub(super) fn received(&mut self, n_bytes: usize) {
        if let Some(record) = &mut self.open {
            record.bytes_in = record.bytes_in.saturating_add(n_bytes as u64);
        }
    }

    pub(super) fn sent(&mut self, n_bytes: usize) {
        if let Some(record) = &mut self.open {
            record.bytes_out = record.bytes_out.saturating_add(n_bytes as u64);
        }
    }

    /// A message to the client may end what it asked for.
    pub(super) fn answered(&mut self, message: &ServerMessage) {
        let outcome = match message {
            ServerMessage::Welcome(_)
            | ServerMessage::Admitted { .. }
            | ServerMessage::Progress(_)
            | ServerMessage::ReplyHeader(_) => return,
            ServerMessage::Models(_) => "listed",
            ServerMessage::Plan(part) => {
                self.sent(part.plan.0.len());
                "fetched"
            }
            ServerMessage::Receipt(_) => "evaluated",
            ServerMessage::Cancelled { .. } => "cancelled",
            ServerMessage::Refused(refusal) => outcome(refusal.code),
        };
        self.finish(outcome);
    }

    fn note(&mut self, event: Event) -> &mut Record {
        self.finish("abandoned");
        self.began = Instant::now();
        let peer = match self.origin {
            Origin::Inside => None,
            Origin::Network { address, .. } => Some(address),
        };
        self.open.insert(Record {
            event,
            client: self.visitor.as_ref().and_then(Visitor::name).map(str::to_owned),
            peer,
            request: None,
            plan: None,
            segment: None,
            bytes_in: 0,
            bytes_out: 0,
            duration: std::time::Duration::ZERO,
            outcome: "",
        })
    }

    fn finish(&mut self, outcome: &'static str) {
        let Some(mut record) = self.open.take() else { return };
        record.duration = self.began.elapsed();
        record.outcome = outcome;
        self.count(&record);
        if let Some(log) = &self.shared.options.audit {
            log.record(&record);
        }
    }
}

impl Visit {
    fn count(&self, record: &Record) {
        let metrics = &self.shared.options.metrics;
        metrics.request(record.event.name(), record.outcome);
        // Only of requests that were admitted: what strangers name makes no series.
        if let (Some(plan), Some(segment)) = (&record.plan, record.segment)
            && record.bytes_in > 0
        {
            metrics.payload(Direction::In, plan, segment, record.bytes_in);
            metrics.payload(Direction::Out, plan, segment, record.bytes_out);
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.finish("connection lost");
    }
}

/// What somebody who was let in may have.
pub(super) struct Asking {
    visitor: Visitor,
    party: Party,
    pub(super) ticket: Ticket,
}

impl Asking {
    /// Whose turn in the queue it is.
    pub(super) const fn party(&self) -> &Party {
        &self.party
    }

    /// The models this client may know of.
    pub(super) fn models(&self, host: &dyn PlanHost) -> Vec<ModelCard> {
        let mut cards = host.models();
        cards.retain(|card| self.visitor.may_use(&card.plan, Some(card.name.as_str())));
        cards
    }

    /// Whether the host has a plan and this client may know of it.
    pub(super) fn may_use(&self, host: &dyn PlanHost, plan: &Digest) -> bool {
        host.plan_name(plan).is_some_and(|name| self.visitor.may_use(plan, Some(name.as_str())))
    }
}

const fn outcome(code: RefusalCode) -> &'static str {
    match code {
        RefusalCode::UnsupportedVersion => "refused: unsupported version",
        RefusalCode::MalformedMessage => "refused: malformed message",
        RefusalCode::UnexpectedMessage => "refused: unexpected message",
        RefusalCode::UnknownPlan => "refused: unknown plan",
        RefusalCode::UnknownSegment => "refused: unknown segment",
        RefusalCode::WrongShape => "refused: wrong shape",
        RefusalCode::MalformedPayload => "refused: malformed payload",
        RefusalCode::TooLarge => "refused: too large",
        RefusalCode::Busy => "refused: busy",
        RefusalCode::ShuttingDown => "refused: shutting down",
        RefusalCode::TooSlow => "refused: too slow",
        RefusalCode::Internal => "refused: internal",
        RefusalCode::Unauthorized => "refused: unauthorized",
        RefusalCode::RateLimited => "refused: rate limited",
    }
}
