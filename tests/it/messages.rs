//! Messages altered, dropped, repeated or reordered on the way: an error or the right scores, never
//! a verdict about an innocent model, never other scores.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nn_poly::integer::IntegerMatrix;
use nn_poly::plan::{ActivationSide, Plan};
use protocol::error::{Error, LinkError, PeerFault, ResourceError};
use protocol::frame::{Frame, PayloadFrame};
use protocol::identifiers::Digest;
use protocol::message::ServerMessage;
use protocol::session::{ClientPlan, Result, SessionError};
use securedl_tests::batch::{Outcome, run_on};
use securedl_tests::loopback::{impatient, runtime, server, shelf};
use securedl_tests::models::{TinyModel, client_plan, samples, session_options};
use securedl_tests::relay::{Passing, Relay, Toward};

/// What is done to one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meddling {
    /// One byte is another.
    Alter,
    /// It never arrives.
    Drop,
    /// It arrives twice.
    Repeat,
    /// It arrives after the next one of its direction.
    Delay,
}

const MEDDLINGS: [Meddling; 4] =
    [Meddling::Alter, Meddling::Drop, Meddling::Repeat, Meddling::Delay];

/// Patience with a server that says nothing, where it may be busy.
const SILENCE: Duration = Duration::from_secs(5);
/// The same where a message is missing for certain.
const SHORT_SILENCE: Duration = Duration::from_millis(200);

struct Bench {
    plan: Plan,
    owner: Arc<ClientPlan>,
    inputs: IntegerMatrix,
}

impl Bench {
    fn new(side: ActivationSide) -> Self {
        let plan = TinyModel::dense_quadratic().plan(side, 100);
        let owner = client_plan(&plan, session_options(3, 1));
        let inputs = samples(&plan, 25, 4);
        Self { plan, owner, inputs }
    }

    fn run(&self, meddle: impl FnMut(Passing) -> Vec<Frame> + Send + 'static) -> Result<Outcome> {
        self.run_patiently(meddle, SILENCE)
    }

    fn run_patiently(
        &self,
        meddle: impl FnMut(Passing) -> Vec<Frame> + Send + 'static,
        silence: Duration,
    ) -> Result<Outcome> {
        let mut options = impatient();
        options.timeouts.silence = silence;
        runtime().block_on(async {
            let remote = Relay::new(server(shelf(&self.plan)), meddle).client(options);
            run_on(&self.owner, &self.inputs, &remote, 11).await
        })
    }

    /// The names of all frames of an honest run, by direction.
    fn transcript(&self) -> Vec<(Toward, usize, &'static str)> {
        let log = Arc::new(std::sync::Mutex::new(Vec::new()));
        let writer = Arc::clone(&log);
        let outcome = self.run(move |passing| {
            writer.lock().unwrap().push((passing.toward, passing.index, passing.name()));
            vec![passing.frame]
        });
        self.expect_right_scores(&outcome, "honest");
        let frames = log.lock().unwrap().clone();
        assert!(frames.iter().any(|frame| frame.2 == "payload"));
        // Signs of life come as time passes: they are not there every time.
        let frames: Vec<_> = frames.into_iter().filter(|frame| frame.2 != "Progress").collect();
        frames
    }

    fn expect_right_scores(&self, outcome: &Result<Outcome>, context: &str) {
        let Ok(Outcome::Verified(result)) = outcome else { panic!("{context}: {outcome:?}") };
        assert_eq!(result.scores, self.plan.simulate(&self.inputs).unwrap().scores, "{context}");
    }
}

fn altered(frame: &Frame, position: usize) -> Frame {
    let flip = |bytes: &Bytes| {
        let mut bytes = bytes.to_vec();
        let position = position % bytes.len();
        bytes[position] ^= 1 << (position % 8);
        Bytes::from(bytes)
    };
    match frame {
        Frame::Control(bytes) => Frame::Control(flip(bytes)),
        Frame::Payload(payload) => {
            Frame::Payload(PayloadFrame { data: flip(&payload.data), ..payload.clone() })
        }
    }
}

/// A meddler that does one thing to frame number `index` of one direction.
fn meddler(
    toward: Toward,
    index: usize,
    meddling: Meddling,
) -> impl FnMut(Passing) -> Vec<Frame> + Send + 'static {
    let mut held: Option<Frame> = None;
    move |passing| {
        if passing.toward != toward {
            return vec![passing.frame];
        }
        if passing.index != index {
            let mut frames = vec![passing.frame];
            frames.extend(held.take());
            return frames;
        }
        match meddling {
            Meddling::Alter => vec![altered(&passing.frame, 7 * index + 5)],
            Meddling::Drop => Vec::new(),
            Meddling::Repeat => vec![passing.frame.clone(), passing.frame],
            Meddling::Delay => {
                held = Some(passing.frame);
                Vec::new()
            }
        }
    }
}

/// The first, the second and the last frame of every kind in each direction.
fn chosen(transcript: &[(Toward, usize, &'static str)]) -> Vec<(Toward, usize, &'static str)> {
    let mut by_kind = BTreeMap::<_, Vec<_>>::new();
    for &frame in transcript {
        by_kind.entry((frame.0 == Toward::Client, frame.2)).or_default().push(frame);
    }
    let mut chosen = Vec::new();
    for frames in by_kind.values() {
        chosen.extend(frames.iter().take(2));
        chosen.extend(frames.iter().skip(2).last());
    }
    chosen
}

#[test]
fn whatever_happens_to_one_message_there_is_no_wrong_verdict() {
    let bench = Bench::new(ActivationSide::Server);
    let (mut n_errors, mut n_right) = (0, 0);
    for (toward, index, name) in chosen(&bench.transcript()) {
        for meddling in MEDDLINGS {
            let context = format!("{meddling:?} {name} {index} toward {toward:?}");
            let silence = match meddling {
                Meddling::Alter | Meddling::Repeat => SILENCE,
                Meddling::Drop | Meddling::Delay => SHORT_SILENCE,
            };
            match bench.run_patiently(meddler(toward, index, meddling), silence) {
                Err(SessionError::Protocol(_)) => n_errors += 1,
                Err(error) => panic!("{context}: {error:?}"),
                Ok(Outcome::Rejected { verdict, .. }) => panic!("{context}: {verdict:?}"),
                outcome @ Ok(Outcome::Verified(_)) => {
                    bench.expect_right_scores(&outcome, &context);
                    n_right += 1;
                    // Signs of life, names for people, what follows a finished request, and a
                    // request that got no place on an old connection: it is sent on a new one.
                    let is_lost = matches!(meddling, Meddling::Drop | Meddling::Delay);
                    let harmless = ["Progress", "Goodbye"].contains(&name)
                        || ["Evaluate", "Admitted"].contains(&name) && is_lost
                        || ["Hello", "Welcome"].contains(&name) && meddling == Meddling::Alter
                        || name == "Receipt" && meddling == Meddling::Repeat;
                    assert!(harmless, "{context} went unnoticed");
                }
            }
        }
    }
    println!("{n_errors} runs ended in an error, {n_right} with the right scores");
    assert!(n_errors > 40);
}

/// Runs with every frame of one kind changed by `alter`, and returns the error.
fn error_of(
    side: ActivationSide,
    name: &'static str,
    toward: Toward,
    silence: Duration,
    mut alter: impl FnMut(Frame) -> Vec<Frame> + Send + 'static,
) -> Error {
    let meddle = move |passing: Passing| {
        if passing.toward == toward && passing.name() == name {
            alter(passing.frame)
        } else {
            vec![passing.frame]
        }
    };
    let outcome = Bench::new(side).run_patiently(meddle, silence);
    match outcome {
        Err(SessionError::Protocol(Error::Resource(ResourceError::GaveUp { last, .. }))) => *last,
        Err(SessionError::Protocol(error)) => error,
        other => panic!("{name}: {other:?}"),
    }
}

fn receipt(frame: &Frame, alter: impl FnOnce(&mut protocol::message::Receipt)) -> Vec<Frame> {
    let Frame::Control(bytes) = frame else { panic!("a control message") };
    let ServerMessage::Receipt(mut receipt) = ServerMessage::decode(bytes).unwrap() else {
        panic!("a receipt");
    };
    alter(&mut receipt);
    vec![Frame::Control(ServerMessage::Receipt(receipt).encode().unwrap())]
}

fn payload(frame: Frame) -> PayloadFrame {
    match frame {
        Frame::Payload(payload) => payload,
        Frame::Control(_) => panic!("a payload frame"),
    }
}

#[test]
fn a_receipt_for_another_reply_is_refused_before_anything_is_opened() {
    for side in [ActivationSide::Server, ActivationSide::Client] {
        let error = error_of(side, "Receipt", Toward::Client, SILENCE, |frame| {
            receipt(&frame, |receipt| receipt.reply_hash = Digest([7; 32]))
        });
        assert!(
            matches!(error, Error::Peer(PeerFault::ReceiptMismatch { field: "reply hash" })),
            "{error:?}"
        );
        let error = error_of(side, "Receipt", Toward::Client, SILENCE, |frame| {
            receipt(&frame, |receipt| receipt.evaluate_micros += 1)
        });
        assert!(matches!(error, Error::Peer(PeerFault::ReceiptSignature)), "{error:?}");
    }
}

#[test]
fn payload_changed_on_the_way_up_or_down_is_noticed_by_the_receipt() {
    for (toward, field) in [(Toward::Server, "request hash"), (Toward::Client, "reply hash")] {
        let error = error_of(ActivationSide::Server, "payload", toward, SILENCE, |frame| {
            let mut payload = payload(frame);
            let mut data = payload.data.to_vec();
            // The lowest bit of the first residue.
            data[0] ^= 1;
            payload.data = data.into();
            vec![Frame::Payload(payload)]
        });
        let Error::Peer(PeerFault::ReceiptMismatch { field: actual }) = error else {
            panic!("{error:?}");
        };
        assert_eq!(actual, field);
    }
}

#[test]
fn a_reply_too_long_or_out_of_order_is_refused_at_once() {
    let error = error_of(ActivationSide::Client, "payload", Toward::Client, SILENCE, |frame| {
        let mut payload = payload(frame);
        payload.data = [payload.data.as_ref(), &[0; 1 << 20]].concat().into();
        vec![Frame::Payload(payload)]
    });
    assert!(matches!(error, Error::Peer(PeerFault::PayloadTooLong { .. })), "{error:?}");
    let error = error_of(ActivationSide::Client, "payload", Toward::Client, SILENCE, |frame| {
        let mut payload = payload(frame);
        payload.offset += 1;
        vec![Frame::Payload(payload)]
    });
    assert!(matches!(error, Error::Peer(PeerFault::WrongOffset { .. })), "{error:?}");
}

#[test]
fn a_truncated_reply_is_a_timeout_not_a_verdict() {
    let error =
        error_of(ActivationSide::Client, "Receipt", Toward::Client, SHORT_SILENCE, |_| Vec::new());
    assert!(matches!(error, Error::Link(LinkError::TimedOut { .. })), "{error:?}");
}
