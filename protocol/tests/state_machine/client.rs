//! The client against servers that send something else than an honest one.

use bytes::Bytes;
use proptest::prelude::*;
use protocol::client::{Exchange, PreparedRequest, Stage};
use protocol::error::{Error, PeerFault, ResourceError};
use protocol::frame::{Frame, PayloadFrame};
use protocol::identifiers::RequestId;
use protocol::message::{ReplyHeader, ServerMessage};

use crate::fixture::{
    CHUNK, ID, REQUEST_BYTES, SHAPE, body, chunk, control, converse, header, honest_reply,
    identity, is_progress, progress, reply, request,
};

#[test]
fn an_honest_reply_is_accepted() {
    let accepted = converse(honest_reply()).unwrap().unwrap();
    assert_eq!(accepted.bytes, reply());
    assert_eq!(accepted.receipt.receipt().evaluate_micros, 77);
}

#[test]
fn the_client_names_what_is_wrong() {
    type Alter = fn(&mut Vec<Frame>);
    type Expect = fn(&PeerFault) -> bool;
    let cases: [(&str, Alter, Expect); 12] = [
        ("no admission", |f| drop(f.remove(0)), |e| matches!(e, PeerFault::Unexpected { .. })),
        (
            "admitted twice",
            |f| f.insert(1, f[0].clone()),
            |e| matches!(e, PeerFault::Unexpected { message: "Admitted", .. }),
        ),
        (
            "no header",
            |f| drop(f.remove(2)),
            |e| matches!(e, PeerFault::Unexpected { message: "payload", .. }),
        ),
        (
            "another size",
            |f| {
                f[2] = control(&ServerMessage::ReplyHeader(ReplyHeader {
                    request_id: ID,
                    n_ciphertexts: 3,
                    payload_bytes: 699,
                }));
            },
            |e| matches!(e, PeerFault::WrongReplySize { actual_bytes: 699, .. }),
        ),
        (
            "another request",
            |f| {
                f[0] = control(&ServerMessage::Admitted { request_id: RequestId([9; 16]) });
            },
            |e| matches!(e, PeerFault::WrongRequest { .. }),
        ),
        (
            "another tag",
            |f| {
                let data = Bytes::from_static(b"x");
                f[3] =
                    Frame::Payload(PayloadFrame { tag: RequestId([9; 16]).tag(), offset: 0, data });
            },
            |e| matches!(e, PeerFault::WrongTag { .. }),
        ),
        (
            "chunk lost",
            |f| drop(f.remove(3)),
            |e| matches!(e, PeerFault::WrongOffset { expected: 0, actual: 256 }),
        ),
        (
            "chunk repeated",
            |f| f.insert(4, f[3].clone()),
            |e| matches!(e, PeerFault::WrongOffset { expected: 256, actual: 0 }),
        ),
        (
            "too long",
            |f| f[5] = chunk(512, &[0; 189]),
            |e| matches!(e, PeerFault::PayloadTooLong { announced: 700 }),
        ),
        (
            "payload after the end",
            |f| f.insert(6, chunk(700, &[0])),
            |e| matches!(e, PeerFault::Unexpected { message: "payload", .. }),
        ),
        (
            "progress backwards",
            |f| f[6] = progress(9),
            |e| matches!(e, PeerFault::ImpossibleProgress { done: 9, .. }),
        ),
        (
            "altered payload",
            |f| f[5] = chunk(512, &[0; 188]),
            |e| matches!(e, PeerFault::ReceiptMismatch { field: "reply hash" }),
        ),
    ];
    for (name, alter, expected) in cases {
        let mut frames = honest_reply();
        alter(&mut frames);
        match converse(frames) {
            Err(Error::Peer(fault)) => assert!(expected(&fault), "{name}: {fault}"),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn every_bit_of_a_receipt_matters() {
    let honest = honest_reply();
    let (last, before) = honest.split_last().unwrap();
    let bytes = body(last);
    for bit in 0..bytes.len() * 8 {
        let mut altered = bytes.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        let Ok(frame) = Frame::from_body(altered.freeze()) else { continue };
        let outcome = converse(before.iter().cloned().chain([frame]));
        assert!(outcome.is_err(), "bit {bit}: {outcome:?}");
    }
}

/// Frames that do nothing but show that the server is alive.
fn essential(frames: &[Frame]) -> Vec<Frame> {
    frames.iter().filter(|frame| !is_progress(frame)).cloned().collect()
}

#[test]
fn every_frame_missing_repeated_early_or_cut_ends_without_another_reply() {
    let honest = honest_reply();
    let n = honest.len();
    let mut streams = Vec::new();
    for i in 0..n {
        let mut missing = honest.clone();
        missing.remove(i);
        streams.push((format!("{i} is missing"), missing));
        for at in 0..=n {
            let mut repeated = honest.clone();
            repeated.insert(at, honest[i].clone());
            streams.push((format!("{i} is repeated at {at}"), repeated));
        }
        for j in 0..i {
            let mut swapped = honest.clone();
            swapped.swap(i, j);
            streams.push((format!("{i} and {j} change places"), swapped));
        }
        let bytes = body(&honest[i]).freeze();
        for end in 0..bytes.len() {
            let Ok(frame) = Frame::from_body(bytes.slice(..end)) else { continue };
            let mut cut = honest.clone();
            cut[i] = frame;
            streams.push((format!("{i} ends at {end}"), cut));
        }
        streams.push((format!("the stream ends at {i}"), honest[..i].to_vec()));
    }
    for (what, frames) in streams {
        if frames.is_empty() {
            continue;
        }
        // Only what comes too late, or says nothing, may be passed over.
        if let Ok(Some(accepted)) = converse(frames.iter().cloned()) {
            assert_eq!(accepted.bytes, reply(), "{what}");
            assert!(essential(&frames).starts_with(&essential(&honest)), "{what}");
        }
    }
}

/// One thing a dishonest or broken server may do to its stream of frames.
#[derive(Debug, Clone)]
enum Alteration {
    Drop(prop::sample::Index),
    Repeat(prop::sample::Index, prop::sample::Index),
    Swap(prop::sample::Index, prop::sample::Index),
    Flip(prop::sample::Index, prop::sample::Index, u8),
    Cut(prop::sample::Index, prop::sample::Index),
    End(prop::sample::Index),
}

fn alteration() -> impl Strategy<Value = Alteration> {
    use prop::sample::Index;
    prop_oneof![
        any::<Index>().prop_map(Alteration::Drop),
        any::<(Index, Index)>().prop_map(|(i, j)| Alteration::Repeat(i, j)),
        any::<(Index, Index)>().prop_map(|(i, j)| Alteration::Swap(i, j)),
        (any::<Index>(), any::<Index>(), 0..8u8).prop_map(|(i, j, b)| Alteration::Flip(i, j, b)),
        any::<(Index, Index)>().prop_map(|(i, j)| Alteration::Cut(i, j)),
        any::<Index>().prop_map(Alteration::End),
    ]
}

/// The altered frames; `None` if the alteration makes something that is no frame.
fn alter(mut frames: Vec<Frame>, alteration: &Alteration) -> Option<Vec<Frame>> {
    let n = frames.len();
    match alteration {
        Alteration::Drop(i) => drop(frames.remove(i.index(n))),
        Alteration::Repeat(i, at) => frames.insert(at.index(n), frames[i.index(n)].clone()),
        Alteration::Swap(i, j) => frames.swap(i.index(n), j.index(n)),
        Alteration::Flip(i, at, bit) => {
            let mut bytes = body(&frames[i.index(n)]);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            frames[i.index(n)] = Frame::from_body(bytes.freeze()).ok()?;
        }
        Alteration::Cut(i, at) => {
            let bytes = body(&frames[i.index(n)]).freeze();
            let bytes = bytes.slice(..at.index(bytes.len()));
            frames[i.index(n)] = Frame::from_body(bytes).ok()?;
        }
        Alteration::End(i) => frames.truncate(i.index(n)),
    }
    Some(frames)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever is done to the frames: the client ends with the honest reply or with none.
    #[test]
    fn no_altered_stream_gives_another_reply(alterations in prop::collection::vec(alteration(), 1..4)) {
        let mut frames = honest_reply();
        for alteration in &alterations {
            let Some(altered) = alter(frames, alteration) else { return Ok(()) };
            frames = altered;
            if frames.is_empty() {
                return Ok(());
            }
        }
        let outcome = converse(frames.iter().cloned());
        if let Ok(Some(accepted)) = &outcome {
            prop_assert_eq!(&accepted.bytes, &reply());
            // What was accepted begins with the honest frames, signs of life aside.
            let (honest, altered) = (essential(&honest_reply()), essential(&frames));
            prop_assert!(altered.starts_with(&honest));
        }
    }
}

/// The frames of a client whose payload exists up to each of these positions, one after the other.
fn upload_of(positions: &[usize]) -> Vec<Frame> {
    let whole = request();
    let bytes = whole.payload().to_bytes().unwrap();
    let (growing, mut writer) = PreparedRequest::growing(header(), SHAPE).unwrap();
    let mut exchange = Exchange::new(growing, identity().public(), CHUNK);
    let mut frames = vec![exchange.next_frame().unwrap().unwrap()];
    exchange.receive(control(&ServerMessage::Admitted { request_id: ID })).unwrap();
    let mut sent = 0;
    for end in positions.iter().copied().chain([REQUEST_BYTES]) {
        let start = writer.missing_bytes() as usize;
        writer.append(bytes.slice(REQUEST_BYTES - start..end)).unwrap();
        while let Some(frame) = exchange.next_frame().unwrap() {
            sent += frame.body_bytes() - 17;
            frames.push(frame);
        }
        // It waits for what is missing of its next chunk, and for nothing else.
        let awaited = (sent < REQUEST_BYTES).then(|| (sent + CHUNK).min(REQUEST_BYTES) as u64);
        assert_eq!(exchange.awaited_payload(), awaited);
        assert!(awaited.is_none_or(|awaited| awaited > end as u64));
        assert_eq!(exchange.progress().sent_bytes, sent as u64);
    }
    assert_eq!(exchange.stage(), Stage::Evaluating);
    frames
}

proptest! {
    /// However the payload grows, the frames on the wire are those of a payload that was complete.
    #[test]
    fn a_growing_payload_sends_the_frames_of_a_complete_one(
        mut positions in prop::collection::vec(0..REQUEST_BYTES, 0..8),
    ) {
        positions.sort_unstable();
        prop_assert_eq!(upload_of(&positions), upload_of(&[]));
    }
}

#[test]
fn an_abandoned_payload_ends_the_request_where_its_bytes_end() {
    for (n_bytes, n_frames) in [(0, 0), (CHUNK - 1, 0), (CHUNK, 1), (REQUEST_BYTES - 1, 3)] {
        let (growing, mut writer) = PreparedRequest::growing(header(), SHAPE).unwrap();
        let mut exchange = Exchange::new(growing, identity().public(), CHUNK);
        exchange.next_frame().unwrap().unwrap();
        exchange.receive(control(&ServerMessage::Admitted { request_id: ID })).unwrap();
        writer.append(request().payload().to_bytes().unwrap().slice(..n_bytes)).unwrap();
        drop(writer);
        for _ in 0..n_frames {
            assert!(exchange.next_frame().unwrap().is_some());
        }
        let error = exchange.next_frame().unwrap_err();
        let Error::Resource(ResourceError::PayloadAbandoned { expected, available }) = error else {
            panic!("{error}");
        };
        assert_eq!((expected, available), (REQUEST_BYTES as u64, n_bytes as u64));
    }
}

#[test]
fn a_reply_before_the_end_of_the_upload_is_refused() {
    let (growing, mut writer) = PreparedRequest::growing(header(), SHAPE).unwrap();
    let mut exchange = Exchange::new(growing, identity().public(), CHUNK);
    exchange.next_frame().unwrap().unwrap();
    exchange.receive(control(&ServerMessage::Admitted { request_id: ID })).unwrap();
    writer.append(request().payload().to_bytes().unwrap().slice(..CHUNK)).unwrap();
    while exchange.next_frame().unwrap().is_some() {}
    let frame = honest_reply().remove(2);
    assert!(matches!(
        exchange.receive(frame),
        Err(Error::Peer(PeerFault::Unexpected { message: "ReplyHeader", .. }))
    ));
}
