//! Frames: what the byte stream is cut into, before anything knows what a message means.
//!
//! ```text
//! frame   = length u32 ‖ body                      (little-endian, at most 4 MiB)
//! body    = 1 ‖ version u16 ‖ message              control
//!         | 2 ‖ request tag 8 ‖ offset u64 ‖ data  payload, at least one byte of data
//! ```

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder, LengthDelimitedCodec};

use crate::error::{Malformed, Result};
use crate::identifiers::RequestTag;
use crate::limits::{FRAME_PREFIX_BYTES, MAX_FRAME_BYTES, PAYLOAD_HEADER_BYTES};

const CONTROL: u8 = 1;
const PAYLOAD: u8 = 2;

/// Control messages up to this length are copied behind their head, to be written at once; longer ones
/// (public plans, which connections share) are not.
const COPIED_MESSAGE_BYTES: usize = 4 << 10;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A control message, still encoded (version first).
    Control(Bytes),
    /// A piece of a payload.
    Payload(PayloadFrame),
}

/// A piece of a request's or of a reply's payload.
#[derive(Clone, PartialEq, Eq)]
pub struct PayloadFrame {
    /// The request it belongs to.
    pub tag: RequestTag,
    /// Position of the first byte in the payload.
    pub offset: u64,
    /// The bytes; never empty on the wire.
    pub data: Bytes,
}

impl std::fmt::Debug for PayloadFrame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PayloadFrame")
            .field("tag", &self.tag)
            .field("offset", &self.offset)
            .field("n_bytes", &self.data.len())
            .finish_non_exhaustive()
    }
}

impl Frame {
    /// Length of the body in bytes.
    #[must_use]
    pub fn body_bytes(&self) -> usize {
        match self {
            Self::Control(message) => 1 + message.len(),
            Self::Payload(payload) => PAYLOAD_HEADER_BYTES + payload.data.len(),
        }
    }

    /// Length on the wire in bytes, length prefix included.
    #[must_use]
    pub fn wire_bytes(&self) -> u64 {
        (FRAME_PREFIX_BYTES + self.body_bytes()) as u64
    }

    /// Read the body of a frame.
    ///
    /// Takes no copy: the data stays in the given buffer.
    ///
    /// # Errors
    /// - [`Malformed::FrameTooShort`]: shorter than the header of its kind.
    /// - [`Malformed::UnknownFrameKind`]: a first byte other than 1 and 2.
    /// - [`Malformed::EmptyChunk`]: a payload frame without data.
    pub fn from_body(mut body: Bytes) -> Result<Self, Malformed> {
        let too_short = Malformed::FrameTooShort { actual: body.len() };
        if body.is_empty() {
            return Err(too_short);
        }
        match body.get_u8() {
            CONTROL => Ok(Self::Control(body)),
            PAYLOAD if body.len() + 1 < PAYLOAD_HEADER_BYTES => Err(too_short),
            PAYLOAD => {
                let mut tag = [0; 8];
                body.copy_to_slice(&mut tag);
                let offset = body.get_u64_le();
                if body.is_empty() {
                    return Err(Malformed::EmptyChunk);
                }
                Ok(Self::Payload(PayloadFrame { tag: RequestTag(tag), offset, data: body }))
            }
            kind => Err(Malformed::UnknownFrameKind { kind }),
        }
    }

    /// The frame on the wire in two parts: everything before the data, and the data itself, which is
    /// not copied. Short control messages are in the first part.
    ///
    /// # Errors
    /// [`Malformed::FrameTooLong`]: longer than a frame may be.
    pub fn into_wire(self) -> Result<(Bytes, Bytes), Malformed> {
        let length = self.body_bytes();
        let prefix = u32::try_from(length).ok().filter(|_| length <= MAX_FRAME_BYTES);
        let Some(prefix) = prefix else {
            return Err(Malformed::FrameTooLong { actual: length as u64, limit: MAX_FRAME_BYTES });
        };
        Ok(match self {
            Self::Control(message) => {
                let is_short = message.len() <= COPIED_MESSAGE_BYTES;
                let data = if is_short { Bytes::new() } else { message.clone() };
                let copied = message.len() - data.len();
                let mut head = BytesMut::with_capacity(FRAME_PREFIX_BYTES + 1 + copied);
                head.put_u32_le(prefix);
                head.put_u8(CONTROL);
                if is_short {
                    head.extend_from_slice(&message);
                }
                (head.freeze(), data)
            }
            Self::Payload(payload) => {
                let mut head = BytesMut::with_capacity(FRAME_PREFIX_BYTES + PAYLOAD_HEADER_BYTES);
                head.put_u32_le(prefix);
                head.put_u8(PAYLOAD);
                head.extend_from_slice(&payload.tag.0);
                head.put_u64_le(payload.offset);
                (head.freeze(), payload.data)
            }
        })
    }
}

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The bytes are not a frame, or the frame is too long.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame")]
    Truncated,
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Cuts a byte stream into frames and back, with a limit that follows the state of the connection.
#[derive(Debug)]
pub struct FrameCodec {
    lengths: LengthDelimitedCodec,
    inside_frame: bool,
}

impl FrameCodec {
    /// A codec that reads frame bodies of up to `limit` bytes (at most [`MAX_FRAME_BYTES`]).
    #[must_use]
    pub fn new(limit: usize) -> Self {
        let lengths = LengthDelimitedCodec::builder()
            .length_field_type::<u32>()
            .little_endian()
            .max_frame_length(limit.min(MAX_FRAME_BYTES))
            .new_codec();
        Self { lengths, inside_frame: false }
    }

    /// The longest frame body that is read.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.lengths.max_frame_length()
    }

    /// Change the limit, from the next frame on.
    pub fn set_limit(&mut self, limit: usize) {
        self.lengths.set_max_frame_length(limit.min(MAX_FRAME_BYTES));
    }

    fn too_long(&self, input: &BytesMut) -> Malformed {
        let actual = input
            .first_chunk::<FRAME_PREFIX_BYTES>()
            .map_or(0, |prefix| u64::from(u32::from_le_bytes(*prefix)));
        Malformed::FrameTooLong { actual, limit: self.lengths.max_frame_length() }
    }
}

impl Decoder for FrameCodec {
    type Item = Frame;
    type Error = FrameError;

    fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let before = input.len();
        match self.lengths.decode(input) {
            Ok(Some(body)) => {
                self.inside_frame = false;
                Ok(Some(Frame::from_body(body.freeze())?))
            }
            Ok(None) => {
                // The prefix is consumed as soon as it is known.
                self.inside_frame |= input.len() != before;
                Ok(None)
            }
            // The only error of the length codec is a prefix above the limit, left in place.
            Err(_) => Err(self.too_long(input).into()),
        }
    }

    fn decode_eof(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        match self.decode(input)? {
            Some(frame) => Ok(Some(frame)),
            None if self.inside_frame || !input.is_empty() => Err(FrameError::Truncated),
            None => Ok(None),
        }
    }
}

impl Encoder<Frame> for FrameCodec {
    type Error = FrameError;

    fn encode(&mut self, frame: Frame, output: &mut BytesMut) -> Result<(), FrameError> {
        let (head, data) = frame.into_wire()?;
        output.reserve(head.len() + data.len());
        output.extend_from_slice(&head);
        output.extend_from_slice(&data);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn payload(n: usize) -> Frame {
        let data = Bytes::from(vec![9; n]);
        Frame::Payload(PayloadFrame { tag: RequestTag([1; 8]), offset: 5, data })
    }

    fn encoded(frame: Frame) -> BytesMut {
        let mut bytes = BytesMut::new();
        FrameCodec::new(MAX_FRAME_BYTES).encode(frame, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn frames_survive_any_cut_of_the_stream() {
        let frames = [Frame::Control(Bytes::from_static(b"\x01\x00abc")), payload(3)];
        let stream: BytesMut = frames.iter().cloned().flat_map(encoded).collect();
        assert_eq!(stream.len() as u64, frames.iter().map(Frame::wire_bytes).sum::<u64>());
        for cut in 0..stream.len() {
            let mut codec = FrameCodec::new(MAX_FRAME_BYTES);
            let (mut input, mut read) = (BytesMut::new(), Vec::new());
            for part in [stream.get(..cut).unwrap(), stream.get(cut..).unwrap()] {
                input.extend_from_slice(part);
                while let Some(frame) = codec.decode(&mut input).unwrap() {
                    read.push(frame);
                }
            }
            assert_eq!(read, frames, "cut at {cut}");
            assert!(codec.decode_eof(&mut input).unwrap().is_none());
        }
    }

    #[test]
    fn a_stream_that_ends_inside_a_frame_is_truncated() {
        let stream = encoded(payload(3));
        for end in 1..stream.len() {
            let mut codec = FrameCodec::new(MAX_FRAME_BYTES);
            let mut input = BytesMut::from(stream.get(..end).unwrap());
            assert!(codec.decode(&mut input).unwrap().is_none());
            let error = codec.decode_eof(&mut input).unwrap_err();
            assert!(matches!(error, FrameError::Truncated), "end {end}: {error}");
        }
    }

    #[test]
    fn a_prefix_above_the_limit_is_rejected_before_its_body() {
        let mut codec = FrameCodec::new(100);
        let mut input = BytesMut::from(&101u32.to_le_bytes()[..]);
        let error = codec.decode(&mut input).unwrap_err();
        let FrameError::Malformed(Malformed::FrameTooLong { actual: 101, limit: 100 }) = error
        else {
            panic!("{error}");
        };
        assert!(input.capacity() < 100, "nothing is reserved for it");
        codec.set_limit(101);
        assert!(codec.decode(&mut input).unwrap().is_none());
    }

    #[test]
    fn bad_bodies_are_named() {
        let read = |body: &'static [u8]| Frame::from_body(Bytes::from_static(body));
        assert!(matches!(read(b""), Err(Malformed::FrameTooShort { actual: 0 })));
        assert!(matches!(read(&[0]), Err(Malformed::UnknownFrameKind { kind: 0 })));
        assert!(matches!(read(&[2; 16]), Err(Malformed::FrameTooShort { actual: 16 })));
        assert!(matches!(read(&[2; 17]), Err(Malformed::EmptyChunk)));
        assert!(read(&[2; 18]).is_ok());
        let mut output = BytesMut::new();
        let error = FrameCodec::new(1).encode(payload(MAX_FRAME_BYTES), &mut output).unwrap_err();
        assert!(matches!(error, FrameError::Malformed(Malformed::FrameTooLong { .. })), "{error}");
    }
}
