//! The bytes of a reply that wait for its word check.

use bytes::{Bytes, BytesMut};

/// Pieces shorter than this are joined to one at least as long.
const MIN_BYTES: usize = 256 << 10;

/// A reply in the pieces in which it came.
///
/// The server decides how it cuts a reply, down to single bytes, and a piece costs a hundred of them
/// besides its own: short ones are copied together, so that a reply occupies at most about twice its
/// length however it is cut.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    whole: Vec<Bytes>,
    /// Short pieces that came last.
    open: BytesMut,
}

impl Pieces {
    /// Keeps the next bytes.
    pub(super) fn push(&mut self, piece: Bytes) {
        if piece.len() < MIN_BYTES {
            self.open.extend_from_slice(&piece);
            if self.open.len() < MIN_BYTES {
                return;
            }
            self.close();
        } else {
            self.close();
            self.whole.push(piece);
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The bytes in order, in pieces.
    pub(super) fn into_list(mut self) -> Vec<Bytes> {
        self.close();
        self.whole
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.whole.push(std::mem::take(&mut self.open).freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(n: usize) -> Bytes {
        (0..=250).cycle().take(n).collect()
    }

    fn kept(lengths: &[usize]) -> (Vec<Bytes>, Bytes) {
        let whole = text(lengths.iter().sum());
        let (mut pieces, mut rest) = (Pieces::default(), whole.clone());
        lengths.iter().for_each(|&length| pieces.push(rest.split_to(length)));
        (pieces.into_list(), whole)
    }

    proptest! {
        #[test]
        fn the_bytes_are_those_that_came(
            lengths in prop::collection::vec(
                prop_oneof![1..100_usize, MIN_BYTES - 2..MIN_BYTES + 2],
                0..12,
            ),
        ) {
            let (pieces, whole) = kept(&lengths);
            prop_assert_eq!(pieces.concat(), whole.to_vec());
        }
    }

    #[test]
    fn a_reply_cut_into_single_bytes_is_a_few_pieces() {
        let (pieces, whole) = kept(&vec![1; 3 * MIN_BYTES + 1]);
        assert_eq!(pieces.len(), 4);
        assert_eq!(pieces.concat(), whole);
        let occupied: usize =
            pieces.into_iter().map(|piece| BytesMut::from(piece).capacity()).sum();
        assert!(occupied <= 2 * whole.len(), "{occupied} bytes");
    }

    #[test]
    fn long_pieces_are_not_copied() {
        let piece = text(MIN_BYTES);
        let mut pieces = Pieces::default();
        pieces.push(text(3));
        pieces.push(piece.clone());
        let list = pieces.into_list();
        assert_eq!(list.last().map(|last| last.as_ptr()), Some(piece.as_ptr()));
    }
}
