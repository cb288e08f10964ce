//! Encoded public plans, shared by the connections that are sending one.
//!
//! A public plan has up to four megabytes. Connections that fetch the same one send the same memory, so
//! that clients who ask for a plan and do not read cost no copy each. Nothing is kept once nobody sends
//! it.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;

use crate::error::Result;
use crate::message::{PublicPart, ServerMessage};

/// The messages that are on their way.
#[derive(Debug, Default)]
pub(super) struct PlanMessages {
    encoded: Mutex<Vec<Weak<Encoded>>>,
}

/// A message, and what it was made of. While it lives no other plan has the address of this one.
#[derive(Debug)]
struct Encoded {
    part: PublicPart,
    message: Bytes,
}

/// A connection's share of a message.
struct Share(Arc<Encoded>);

impl AsRef<[u8]> for Share {
    fn as_ref(&self) -> &[u8] {
        &self.0.message
    }
}

impl PlanMessages {
    /// The message that carries this part, encoded once for all connections that are sending it.
    ///
    /// Cost: one copy of the plan if nobody is sending it; otherwise none.
    ///
    /// # Errors
    /// As [`ServerMessage::encode`].
    pub(super) fn encode(&self, part: &PublicPart) -> Result<Bytes> {
        // Held while it encodes: whoever asks for the same plan meanwhile shares it.
        let mut encoded = self.encoded.lock().unwrap_or_else(PoisonError::into_inner);
        encoded.retain(|weak| weak.strong_count() > 0);
        let found =
            encoded.iter().filter_map(Weak::upgrade).find(|other| is_same(&other.part, part));
        let shared = match found {
            Some(shared) => shared,
            None => {
                let message = ServerMessage::Plan(part.clone()).encode()?;
                let shared = Arc::new(Encoded { part: part.clone(), message });
                encoded.push(Arc::downgrade(&shared));
                shared
            }
        };
        Ok(Bytes::from_owner(Share(shared)))
    }
}

/// Whether two parts are one by their addresses; plans are not compared byte by byte.
fn is_same(a: &PublicPart, b: &PublicPart) -> bool {
    let place = |part: &PublicPart| (part.plan.0.as_ptr(), part.plan.0.len());
    place(a) == place(b) && a.signature == b.signature
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::message::PlanBytes;

    fn part(plan: &Arc<[u8]>) -> PublicPart {
        let plan = PlanBytes(Bytes::from_owner(Arc::clone(plan)));
        PublicPart { plan, signature: None }
    }

    #[test]
    fn connections_that_send_one_plan_share_its_bytes() {
        let plan: Arc<[u8]> = vec![7; 1 << 20].into();
        let messages = PlanMessages::default();
        let first = messages.encode(&part(&plan)).unwrap();
        let second = messages.encode(&part(&plan)).unwrap();
        assert_eq!(first.as_ptr(), second.as_ptr());
        assert_eq!(first, ServerMessage::Plan(part(&plan)).encode().unwrap());
        let copy: Arc<[u8]> = plan.to_vec().into();
        assert_ne!(messages.encode(&part(&copy)).unwrap().as_ptr(), first.as_ptr());
    }

    #[test]
    fn what_nobody_sends_any_more_is_not_kept() {
        let plan: Arc<[u8]> = vec![7; 100].into();
        let messages = PlanMessages::default();
        drop(messages.encode(&part(&plan)).unwrap());
        assert_eq!(Arc::strong_count(&plan), 1);
        let other: Arc<[u8]> = vec![8; 100].into();
        let _sending = messages.encode(&part(&other)).unwrap();
        assert_eq!(messages.encoded.lock().unwrap().len(), 1);
    }
}
