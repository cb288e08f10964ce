//! Slots in the order in which rotations move them.

use zeroize::Zeroizing;

use super::{Plaintext, SlotEncoder, check_length};
use crate::{Message, Params, Result, galois::row_points};

/// Encodes N integers modulo a prime t into two rows of N/2 slots.
///
/// The first half of the values are the columns of row 0, the second half those of row 1.
/// [`crate::CiphertextBlock::rotate_rows`] moves both rows cyclically,
/// [`crate::CiphertextBlock::swap_rows`] swaps them. These are the slots of [`SlotEncoder`] in another
/// order.
#[derive(Debug, Clone)]
pub struct RowEncoder {
    slots: SlotEncoder,
    /// Slot of every value.
    places: Vec<u32>,
}

impl RowEncoder {
    /// Builds the encoder.
    ///
    /// # Errors
    /// As [`SlotEncoder::new`].
    pub fn new(params: &Params) -> Result<Self> {
        let slots = SlotEncoder::new(params)?;
        let places = row_points(params.ring_degree());
        Ok(Self { slots, places })
    }

    /// The parameters.
    #[must_use]
    pub fn params(&self) -> &Params {
        self.slots.params()
    }

    /// Number of slots: N.
    #[must_use]
    pub fn slot_count(&self) -> usize {
        self.slots.slot_count()
    }

    /// Columns of a row: N/2.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.slots.slot_count() / 2
    }

    /// Encodes one integer per slot, row 0 then row 1, each reduced modulo t.
    ///
    /// # Errors
    /// [`crate::Error::Length`] unless there are exactly N values.
    pub fn encode(&self, values: &[i64]) -> Result<Plaintext> {
        check_length("slot values", self.slot_count(), values.len())?;
        let mut slots = Zeroizing::new(vec![0; values.len()]);
        for (&place, &value) in self.places.iter().zip(values) {
            if let Some(slot) = slots.get_mut(place as usize) {
                *slot = value;
            }
        }
        self.slots.encode(&slots)
    }

    /// Encodes the same row twice, so that a rotation of rows rotates all that there is.
    ///
    /// # Errors
    /// [`crate::Error::Length`] unless there are exactly N/2 values.
    pub fn encode_row(&self, values: &[i64]) -> Result<Plaintext> {
        check_length("values of a row", self.columns(), values.len())?;
        let both = Zeroizing::new([values, values].concat());
        self.encode(&both)
    }

    /// Decodes to centred integers in `(-t/2, t/2)`, row 0 then row 1.
    ///
    /// # Errors
    /// As [`SlotEncoder::decode_from`].
    pub fn decode(&self, message: &Message) -> Result<Zeroizing<Vec<i64>>> {
        Ok(self.in_rows(&self.slots.decode(message)?))
    }

    /// Decodes to the integers congruent modulo t in `[low, low + t)`, row 0 then row 1.
    ///
    /// # Errors
    /// As [`SlotEncoder::decode_from`].
    pub fn decode_from(&self, message: &Message, low: i64) -> Result<Zeroizing<Vec<i64>>> {
        Ok(self.in_rows(&self.slots.decode_from(message, low)?))
    }

    fn in_rows(&self, slots: &[i64]) -> Zeroizing<Vec<i64>> {
        let value = |&place: &u32| slots.get(place as usize).copied().unwrap_or_default();
        Zeroizing::new(self.places.iter().map(value).collect())
    }
}
