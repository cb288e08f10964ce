//! A look at the structure of a file before it is decoded, so that decoding cannot need much memory.
//!
//! A decoded message takes hundreds of bytes where its encoding takes two. The walk below counts, without
//! allocating, every field of every message that [`super::proto`] declares, and every byte of packed
//! integers (each may become eight); packed floating-point numbers and raw bytes take no more memory than
//! the file does.

use super::super::ImportError;

/// Most fields and packed integers of a file: some hundred per layer, times a thousand layers.
pub(super) const MAX_ELEMENTS: usize = 1 << 17;

/// The messages that are decoded.
#[derive(Clone, Copy)]
enum Message {
    Model,
    OperatorSet,
    Function,
    Graph,
    Node,
    Attribute,
    Tensor,
    Entry,
    ValueInfo,
    Type,
    TensorType,
    Shape,
    Dimension,
}

impl Message {
    /// The message in field `field`, if it is one.
    const fn child(self, field: u64) -> Option<Self> {
        Some(match (self, field) {
            (Self::Model, 7) => Self::Graph,
            (Self::Model, 8) => Self::OperatorSet,
            (Self::Model, 25) => Self::Function,
            (Self::Graph, 1) => Self::Node,
            (Self::Graph, 5) | (Self::Attribute, 5) => Self::Tensor,
            (Self::Graph, 11 | 12) => Self::ValueInfo,
            (Self::Node, 5) => Self::Attribute,
            (Self::Tensor, 13) => Self::Entry,
            (Self::ValueInfo, 2) => Self::Type,
            (Self::Type, 1) => Self::TensorType,
            (Self::TensorType, 2) => Self::Shape,
            (Self::Shape, 1) => Self::Dimension,
            _ => return None,
        })
    }

    /// Whether field `field` holds integers that grow when they are decoded.
    const fn has_packed_integers(self, field: u64) -> bool {
        matches!((self, field), (Self::Attribute, 8) | (Self::Tensor, 1 | 5 | 7))
    }
}

/// Count what decoding `bytes` would create.
///
/// # Errors
/// - [`ImportError::TooManyElements`] beyond [`MAX_ELEMENTS`].
/// - [`ImportError::NotOnnx`] where the bytes are no messages.
pub(super) fn check(bytes: &[u8]) -> Result<(), ImportError> {
    let mut n_elements = 0;
    walk(Message::Model, bytes, &mut n_elements)
}

/// The nesting is that of [`Message::child`], which has no cycle: recursion is at most seven deep.
fn walk(message: Message, mut bytes: &[u8], n_elements: &mut usize) -> Result<(), ImportError> {
    let malformed = || ImportError::NotOnnx { cause: "it is not made of protobuf messages".into() };
    while !bytes.is_empty() {
        let key = varint(&mut bytes).ok_or_else(malformed)?;
        add(n_elements, 1)?;
        let (field, wire_type) = (key >> 3, key & 7);
        match wire_type {
            0 => {
                varint(&mut bytes).ok_or_else(malformed)?;
            }
            1 => bytes = bytes.get(8..).ok_or_else(malformed)?,
            2 => {
                let len = varint(&mut bytes).and_then(|len| usize::try_from(len).ok());
                let (content, rest) =
                    len.and_then(|len| bytes.split_at_checked(len)).ok_or_else(malformed)?;
                bytes = rest;
                if let Some(child) = message.child(field) {
                    walk(child, content, n_elements)?;
                } else if message.has_packed_integers(field) {
                    add(n_elements, content.len())?;
                }
            }
            5 => bytes = bytes.get(4..).ok_or_else(malformed)?,
            _ => return Err(malformed()),
        }
    }
    Ok(())
}

fn add(n_elements: &mut usize, more: usize) -> Result<(), ImportError> {
    *n_elements = n_elements.saturating_add(more);
    if *n_elements > MAX_ELEMENTS {
        return Err(ImportError::TooManyElements { limit: MAX_ELEMENTS });
    }
    Ok(())
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for position in 0..10 {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(7 * position)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_file_that_claims_many_messages_is_refused() {
        // Field 7 (graph) holding fields 1 (nodes) of length zero.
        let file = |n_nodes: usize| {
            let nodes = [0x0a, 0x00].repeat(n_nodes);
            let mut len = u64::try_from(nodes.len()).unwrap();
            let mut file = vec![0x3a];
            while len >= 0x80 {
                file.push(u8::try_from(len & 0x7f).unwrap() | 0x80);
                len >>= 7;
            }
            file.push(u8::try_from(len).unwrap());
            file.extend(nodes);
            file
        };
        assert!(check(&file(MAX_ELEMENTS - 1)).is_ok());
        let error = check(&file(MAX_ELEMENTS));
        assert!(matches!(error, Err(ImportError::TooManyElements { .. })));
    }

    #[test]
    fn what_is_not_protobuf_is_refused() {
        for bytes in [&[0xff; 12][..], &[0x3a, 0x05, 0x00], &[0x0f], &[0x09, 0, 0], &[0x08]] {
            assert!(matches!(check(bytes), Err(ImportError::NotOnnx { .. })), "{bytes:?}");
        }
        assert!(check(&[]).is_ok());
    }
}
