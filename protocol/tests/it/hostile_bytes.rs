//! Decoders against bytes that nobody honest sent.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use protocol::error::{Error, Malformed};
use protocol::frame::{Frame, FrameCodec};
use protocol::limits::{MAX_CLIENT_MESSAGE_BYTES, MAX_FRAME_BYTES};
use protocol::message::{ClientMessage, PROTOCOL_VERSION, ServerMessage};
use tokio_util::codec::Decoder;

use crate::golden_wire::{client_messages, server_messages};

/// Every message of either direction, encoded.
fn samples() -> Vec<Bytes> {
    let client = client_messages().into_iter().map(|(message, _)| message.encode().unwrap());
    let server = server_messages().into_iter().map(|(message, _)| message.encode().unwrap());
    client.chain(server).collect()
}

/// Decode in both directions; what is accepted must have exactly these bytes.
fn decode_both(bytes: &[u8]) -> (bool, bool) {
    let client = ClientMessage::decode(bytes);
    if let Ok(message) = &client {
        assert_eq!(message.encode().unwrap(), bytes, "one message, one encoding");
    }
    let server = ServerMessage::decode(bytes);
    if let Ok(message) = &server {
        assert_eq!(message.encode().unwrap(), bytes, "one message, one encoding");
    }
    (client.is_ok(), server.is_ok())
}

#[test]
fn every_truncation_and_every_extension_is_rejected() {
    for bytes in samples() {
        let (client, server) = decode_both(&bytes);
        for end in 0..bytes.len() {
            let (cut_client, cut_server) = decode_both(&bytes[..end]);
            let accepted = (client && cut_client) || (server && cut_server);
            assert!(!accepted, "{end} of {bytes:?}");
        }
        let longer = [&bytes[..], &[0]].concat();
        for error in [ClientMessage::decode(&longer).err(), ServerMessage::decode(&longer).err()] {
            let error = error.expect("a byte too many");
            assert!(matches!(error, Error::Malformed(_)), "{error}");
        }
    }
}

#[test]
fn false_lengths_are_rejected_whatever_they_claim() {
    // Hello, Models, and Plan have a length right after the variant number.
    let claims = [2u64, 1 << 10, 1 << 20, (1 << 22) - 20, 1 << 32, 1 << 62, u64::MAX];
    for (variant, client) in [(0u32, true), (1, false), (2, false)] {
        for claim in claims {
            let mut bytes = vec![2, 0];
            bytes.extend_from_slice(&variant.to_le_bytes());
            bytes.extend_from_slice(&claim.to_le_bytes());
            bytes.push(b'x');
            let rejected = if client {
                ClientMessage::decode(&bytes).is_err()
            } else {
                ServerMessage::decode(&bytes).is_err()
            };
            assert!(rejected, "variant {variant}, length {claim}");
        }
    }
}

#[test]
fn a_client_message_above_its_limit_is_rejected_before_it_is_read() {
    let mut bytes = vec![1; 2 + MAX_CLIENT_MESSAGE_BYTES + 1];
    bytes[..2].copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
    let error = ClientMessage::decode(&bytes).unwrap_err();
    assert!(matches!(error, Error::Malformed(Malformed::FrameTooLong { .. })), "{error}");
}

#[test]
fn names_with_control_characters_are_rejected() {
    let mut bytes = vec![2, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, b'a', b'b', 0];
    assert!(ClientMessage::decode(&bytes).is_ok());
    bytes[14] = 0x1b;
    assert!(ClientMessage::decode(&bytes).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn mutated_messages_never_panic(
        which in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let samples = samples();
        let mut bytes = samples[which.index(samples.len())].to_vec();
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        decode_both(&bytes);
    }

    #[test]
    fn random_messages_never_panic(variant in 0..16u32, tail in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut bytes = vec![2, 0];
        bytes.extend_from_slice(&variant.to_le_bytes());
        bytes.extend_from_slice(&tail);
        decode_both(&bytes);
    }

    #[test]
    fn random_streams_never_panic_and_never_reserve_more_than_the_limit(
        limit in 0..5000usize,
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        small_prefix in any::<bool>(),
    ) {
        let mut input = BytesMut::from(&bytes[..]);
        if small_prefix && input.len() >= 4 {
            input[2] = 0;
            input[3] = 0;
        }
        let mut codec = FrameCodec::new(limit);
        while let Ok(Some(frame)) = codec.decode(&mut input) {
            prop_assert!(frame.body_bytes() <= limit.min(MAX_FRAME_BYTES));
            if let Frame::Control(message) = frame {
                decode_both(&message);
            }
        }
        prop_assert!(input.capacity() <= 2 * (limit + 300));
        let _ = codec.decode_eof(&mut input);
    }
}
