//! Every decoder of bytes from outside, with samples of what it accepts.
//!
//! | group | decoders |
//! |---|---|
//! | wire | frames, client and server messages, ciphertexts of requests and replies, keys |
//! | plans and models | plan, public part of a plan, model, fingerprint |
//! | owners and operators | signature, access list, token, evidence, journal |
//! | imports | ONNX, safetensors, NPZ, network description |
//! | data | IDX, NPY, CIFAR records, CSV, gzip, PNG |
//!
//! Used by `tests/mutations` (deterministic mutants, counted memory) and by the targets in `fuzz/`
//! (coverage-guided, on nightly).

mod corpus;
mod files;

use std::fmt;
use std::sync::{Arc, LazyLock, Mutex};

/// Something that turns bytes into a value or an error.
#[derive(Clone, Copy)]
pub struct Decoder {
    /// Its name: that of its fuzz target, too.
    pub name: &'static str,
    make_corpus: fn() -> Vec<Vec<u8>>,
    /// Decode, and check what must hold of a value that was accepted.
    pub decode: fn(&[u8]),
    /// Makes digests and lengths right again, so that mutants reach what lies behind them.
    pub seal: Option<fn(&mut [u8])>,
    /// Bytes of memory that decoding may take at a time, whatever the bytes say, besides 64 times their
    /// number.
    pub memory_bytes: usize,
}

/// What messages, texts and small files may take: tables and buffers of fixed size.
const SMALL: usize = 4 << 20;
/// What plans, ciphertexts and weights of the kit's tiny models may take.
const MEDIUM: usize = 16 << 20;
/// What an import may take: its budget is the size of its files plus 2^24 values.
const IMPORT: usize = 128 << 20;

/// All decoders.
#[must_use]
pub fn decoders() -> Vec<Decoder> {
    let plain = |name, make_corpus, decode: fn(&[u8]), memory_bytes| Decoder {
        name,
        make_corpus,
        decode,
        seal: None,
        memory_bytes,
    };
    let sealed = |name, make_corpus, decode, seal: fn(&mut [u8])| Decoder {
        seal: Some(seal),
        ..plain(name, make_corpus, decode, MEDIUM)
    };
    let artifact =
        |name, make_corpus, decode| sealed(name, make_corpus, decode, corpus::seal_artifact);
    vec![
        plain("frames", corpus::frames, corpus::decode_frames, SMALL),
        plain("client_message", corpus::client_messages, corpus::decode_client_message, SMALL),
        plain("server_message", corpus::server_messages, corpus::decode_server_message, SMALL),
        plain("request_ciphertexts", corpus::requests, corpus::decode_request, MEDIUM),
        plain("reply_ciphertexts", corpus::replies, corpus::decode_reply, MEDIUM),
        plain("public_key", corpus::public_keys, corpus::decode_public_key, MEDIUM),
        plain("evaluation_keys", corpus::evaluation_keys, corpus::decode_evaluation_keys, MEDIUM),
        artifact("plan", corpus::plans, corpus::decode_plan),
        artifact("public_plan", corpus::public_plans, corpus::decode_public_plan),
        artifact("model", corpus::models, corpus::decode_model),
        artifact("fingerprint", corpus::fingerprints, corpus::decode_fingerprint),
        artifact("canary_pack", corpus::canary_packs, corpus::decode_canary_pack),
        plain("signature", corpus::signatures, corpus::decode_signature, SMALL),
        plain("access_list", corpus::access_lists, corpus::decode_access_list, SMALL),
        plain("token", corpus::tokens, corpus::decode_token, SMALL),
        sealed("evidence", corpus::evidence, files::decode_evidence, files::seal_evidence),
        plain("journal", corpus::journals, files::decode_journal, MEDIUM),
        plain("onnx", files::onnx, files::decode_onnx, IMPORT),
        plain("safetensors", files::safetensors, files::decode_safetensors, IMPORT),
        plain("npz", files::npz, files::decode_npz, IMPORT),
        plain("description", files::descriptions, files::decode_description, IMPORT),
        plain("idx", files::idx, files::decode_idx, IMPORT),
        plain("npy", files::npy, files::decode_npy, IMPORT),
        plain("records", files::records, files::decode_records, IMPORT),
        plain("csv", files::csv, files::decode_csv, IMPORT),
        plain("png", files::png, files::decode_png, IMPORT),
    ]
}

/// Run one decoder, as a fuzz target does.
///
/// # Panics
/// If there is no decoder of this name, or if it fails.
pub fn run(name: &str, bytes: &[u8]) {
    let decoder = decoders().into_iter().find(|decoder| decoder.name == name);
    (decoder.expect("a decoder of this name").decode)(bytes);
}

impl Decoder {
    /// Samples of what it accepts; made once.
    #[must_use]
    pub fn corpus(&self) -> Arc<Vec<Vec<u8>>> {
        type Made = Vec<(&'static str, Arc<Vec<Vec<u8>>>)>;
        static MADE: LazyLock<Mutex<Made>> = LazyLock::new(Mutex::default);
        let mut made = MADE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((_, corpus)) = made.iter().find(|(name, _)| *name == self.name) {
            return Arc::clone(corpus);
        }
        let corpus = Arc::new((self.make_corpus)());
        made.push((self.name, Arc::clone(&corpus)));
        corpus
    }
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").field("name", &self.name).finish_non_exhaustive()
    }
}
