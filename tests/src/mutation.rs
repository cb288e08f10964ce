//! Bytes that nobody honest wrote, made from bytes that somebody did.
//!
//! Mutant `i` of a decoder is a function of the decoder's name and `i` alone: a failure is repeated by
//! its number, on any machine, with any number of others before it.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::decoders::Decoder;

/// Most changes to one mutant.
const MAX_CHANGES: usize = 6;
/// Longest mutant, in multiples of the longest sample.
const MAX_GROWTH: usize = 2;

/// Mutant `number` of a decoder.
#[must_use]
pub fn mutant(decoder: &Decoder, number: u64) -> Vec<u8> {
    let corpus = decoder.corpus();
    let mut seed = [0; 32];
    let name = decoder.name.as_bytes();
    let n = name.len().min(24);
    seed[..n].copy_from_slice(&name[..n]);
    seed[24..].copy_from_slice(&number.to_le_bytes());
    let mut rng = ChaCha8Rng::from_seed(seed);
    let mut bytes = changed(&corpus, &mut rng);
    // Behind a digest, or in front of it: both have to hold.
    if let Some(seal) = decoder.seal
        && rng.random_range(0..4) > 0
    {
        seal(&mut bytes);
    }
    bytes
}

/// Mutant `number` of bytes that no [`Decoder`] stands for, such as the body of a request.
#[must_use]
pub fn mutant_of(corpus: &[Vec<u8>], number: u64) -> Vec<u8> {
    changed(corpus, &mut ChaCha8Rng::seed_from_u64(number))
}

/// One of the samples with a few changes.
fn changed(corpus: &[Vec<u8>], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let limit = corpus.iter().map(Vec::len).max().unwrap_or(0) * MAX_GROWTH + 64;
    let mut bytes = corpus[rng.random_range(0..corpus.len())].clone();
    for _ in 0..rng.random_range(1..=MAX_CHANGES) {
        change(&mut bytes, corpus, rng);
        bytes.truncate(limit);
    }
    bytes
}

/// One change.
fn change(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], rng: &mut ChaCha8Rng) {
    if bytes.is_empty() {
        bytes.push(rng.random());
        return;
    }
    let at = position(bytes, rng);
    match rng.random_range(0..10) {
        0 | 1 => bytes[at] ^= 1 << rng.random_range(0..8),
        2 => bytes[at] = rng.random(),
        3 => overwrite(bytes, at, rng),
        4 => number_as_text(bytes, at, rng),
        5 => bytes.truncate(at),
        6 => {
            let end = (at + rng.random_range(1..32)).min(bytes.len());
            bytes.drain(at..end);
        }
        7 => {
            let end = (at + rng.random_range(1..64)).min(bytes.len());
            let piece = bytes[at..end].to_vec();
            let to = position(bytes, rng);
            bytes.splice(to..to, piece);
        }
        8 => {
            let other = &corpus[rng.random_range(0..corpus.len())];
            if !other.is_empty() {
                let from = rng.random_range(0..other.len());
                let end = (from + rng.random_range(1..256)).min(other.len());
                let replaced = at..(at + end - from).min(bytes.len());
                bytes.splice(replaced, other[from..end].iter().copied());
            }
        }
        _ => {
            let extra = rng.random_range(1..40);
            bytes.extend((0..extra).map(|_| rng.random::<u8>()));
        }
    }
}

/// Anywhere, and in the first bytes more often: that is where lengths stand.
fn position(bytes: &[u8], rng: &mut ChaCha8Rng) -> usize {
    let end = if rng.random() { bytes.len() } else { bytes.len().min(128) };
    rng.random_range(0..end)
}

/// A number that lengths and counts stumble over, in any width and byte order.
fn overwrite(bytes: &mut [u8], at: usize, rng: &mut ChaCha8Rng) {
    let length = bytes.len() as u64;
    let interesting = [
        0,
        1,
        length,
        length - 1,
        length + 1,
        0x7f,
        0xff,
        0x7fff,
        0xffff,
        0x7fff_ffff,
        0xffff_ffff,
        1 << 20,
        1 << 30,
        1 << 40,
        1 << 62,
        i64::MAX as u64,
        u64::MAX - 7,
        u64::MAX,
    ];
    let number = interesting[rng.random_range(0..interesting.len())];
    let width = [1, 2, 4, 8][rng.random_range(0..4)];
    let mut encoded = number.to_le_bytes()[..width].to_vec();
    if rng.random() {
        encoded.reverse();
    }
    for (target, byte) in bytes[at..].iter_mut().zip(encoded) {
        *target = byte;
    }
}

/// Another number where a text has one.
fn number_as_text(bytes: &mut Vec<u8>, at: usize, rng: &mut ChaCha8Rng) {
    let Some(start) = bytes[at..].iter().position(u8::is_ascii_digit).map(|i| at + i) else {
        return;
    };
    let digits = bytes[start..].iter().take_while(|b| b.is_ascii_digit()).count();
    let numbers: [&[u8]; 8] = [
        b"0",
        b"-1",
        b"4294967296",
        b"9223372036854775807",
        b"18446744073709551616",
        b"1e309",
        b"nan",
        b"999999999999999999999999999999",
    ];
    let number = numbers[rng.random_range(0..numbers.len())];
    bytes.splice(start..start + digits, number.iter().copied());
}
