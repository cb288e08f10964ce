//! Known-answer vectors: what every build, machine and kernel must reproduce bit for bit.
//!
//! `vectors/README.md` says what each file fixes. A change of any value is a change of the wire
//! format (or, for `ciphertext`, of sampling): bump its version and write files of the new version
//! with `cargo test -p securedl-he-core --test vectors -- --ignored`.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_wrap,
    clippy::disallowed_methods,
    reason = "tests"
)]

use std::io::Write as _;
use std::path::PathBuf;

use he_core::{
    Backend, BlockEncryptor, CiphertextBlock, CoefficientEncoder, LinearMap, Params, ParamsSpec,
    Plaintext, PublicSeed, SecretKey, SlotEncoder, bytes,
};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use serde_json::{Value, json};

/// Computes the content of one file.
type Compute = fn(Backend) -> Value;

const FILES: [(&str, Compute); 5] = [
    ("params", parameters),
    ("transform", transforms),
    ("expansion", expansions),
    ("packing", packings),
    ("ciphertext", ciphertexts),
];

#[test]
fn every_backend_reproduces_the_vectors() {
    for backend in Backend::ALL {
        if !backend.is_available() {
            // Not by a macro: what a passing test prints is not shown.
            let _ = writeln!(std::io::stderr(), "SKIPPED: this machine has no {}", backend.name());
            continue;
        }
        for (name, compute) in FILES {
            let text = std::fs::read_to_string(path(name)).unwrap();
            let expected: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(compute(backend), expected, "{name} with {}", backend.name());
        }
    }
}

#[test]
#[ignore = "rewrites the vectors: only together with a new format version"]
fn regenerate() {
    for (name, compute) in FILES {
        let text = serde_json::to_string_pretty(&compute(Backend::Scalar)).unwrap();
        std::fs::write(path(name), text + "\n").unwrap();
    }
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors").join(format!("{name}_v1.json"))
}

/// Parameters under a backend; toy sizes are allowed.
fn params(ring_degree: usize, t: u128, moduli: &[u64], backend: Backend) -> Params {
    let spec = ParamsSpec { ring_degree, plaintext_modulus: t, moduli: moduli.to_vec() };
    Params::insecure_new(spec).unwrap().with_backend(backend).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// BLAKE3 of words in little-endian order.
fn digest(words: &[u64]) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    blake3::hash(&bytes).to_hex().to_string()
}

/// Ring degrees and primes: every digit class, draw width and transform size in use. The largest
/// prime of its size where no value is given.
fn rings() -> Vec<(usize, u64)> {
    let largest = |n, bits| (n, ParamsSpec::with_bits(n, 2, &[bits]).unwrap().moduli[0]);
    vec![
        largest(32, 11),
        (2048, 0x3FFF_4001),
        largest(2048, 47),
        (4096, 0x3FFF_FFF8_4001),
        (4096, 0x7FFF_7FFD_6001),
        largest(8192, 41),
    ]
}

fn parameters(backend: Backend) -> Value {
    let case = |n: usize, t: u128, moduli: &[u64]| {
        let digest = hex(&params(n, t, moduli, backend).digest());
        json!({ "ring_degree": n, "plaintext_modulus": t.to_string(), "moduli": moduli, "digest": digest })
    };
    json!([
        case(2048, 40_961, &[0x3FFF_4001]),
        case(2048, 1 << 16, &[0x3FFF_4001]),
        case(4096, 1_073_692_673, &[0x3FFF_FFF8_4001, 0x7FFF_7FFD_6001]),
        case(4096, 1 << 80, &[0x7FFF_7FFD_6001, 0x3FFF_FFF8_4001]),
    ])
}

/// The words of a plaintext in evaluation form: a bias of 1 on a zero ciphertext.
fn evaluations(unit: &Plaintext) -> CiphertextBlock {
    let params = unit.params();
    let zero = CiphertextBlock::zeros(params, 1, 1, params.moduli().len()).unwrap();
    LinearMap::dense(1, 1, &[0], &[1]).unwrap().with_unit(unit).apply(&zero).unwrap()
}

fn transforms(backend: Backend) -> Value {
    let cases = rings().into_iter().map(|(n, q)| {
        let params = params(n, 1 << 16, &[q], backend);
        let encoder = CoefficientEncoder::new(&params, 16, 1).unwrap();
        let mut x = vec![0; n];
        x[1] = 1;
        // The transform of X starts with the root itself.
        let psi = evaluations(&encoder.encode(&x).unwrap()).limb(0)[0];
        let ramp: Vec<i64> = (0..n as i64).map(|i| i * i % 65_536 - i).collect();
        let words = evaluations(&encoder.encode(&ramp).unwrap());
        let words = &words.limb(0)[..n];
        json!({ "ring_degree": n, "modulus": q, "psi": psi, "first": words[..4], "digest": digest(words) })
    });
    let slots = [(2048, 40_961_u64), (2048, 65_537), (4096, 1_073_692_673)].map(|(n, t)| {
        let params = params(n, u128::from(t), &[0x3FFF_FFF8_4001], backend);
        let ramp: Vec<i64> = (0..n as i64).collect();
        let words = evaluations(&SlotEncoder::new(&params).unwrap().encode(&ramp).unwrap());
        json!({ "ring_degree": n, "plaintext_modulus": t, "digest": digest(&words.limb(0)[..n]) })
    });
    json!({ "coefficients": cases.collect::<Vec<_>>(), "slots": slots })
}

fn expansions(backend: Backend) -> Value {
    let seed: [u8; 32] = std::array::from_fn(|i| u8::try_from(i).unwrap());
    let cases = rings().into_iter().flat_map(|(n, q)| {
        // A second limb shows that limb number and modulus both enter.
        let other = if q == 0x3FFF_4001 { 0x7FFF_7FFD_6001 } else { 0x3FFF_4001 };
        let other = if n > 2048 { 0x3FFF_FFF8_4001 } else { other };
        let moduli = if other == q { vec![q] } else { vec![q, other] };
        let params = params(n, 2, &moduli, backend);
        let mut block = CiphertextBlock::zeros(&params, 2, 1, moduli.len()).unwrap();
        let zeros = vec![0; 2 * bytes::request_bytes(&params)];
        bytes::read_request_into(&mut block, 0, PublicSeed(seed), &zeros).unwrap();
        let mut cases = Vec::new();
        for (limb, modulus) in moduli.iter().enumerate() {
            for index in 0..2 {
                let c1 = &block.limb(limb)[(2 * index + 1) * n..(2 * index + 2) * n];
                cases.push(json!({
                    "ring_degree": n, "modulus": modulus, "limb": limb, "index": index,
                    "first": c1[..4], "digest": digest(c1),
                }));
            }
        }
        cases
    });
    json!({ "seed": hex(&seed), "polynomials": cases.collect::<Vec<_>>() })
}

/// A block whose c_1 are expanded from a fixed seed and whose c_0 are their images under a map.
fn fixed_block(params: &Params) -> CiphertextBlock {
    let mut block = CiphertextBlock::zeros(params, 3, 1, params.moduli().len()).unwrap();
    let zeros = vec![0; 3 * bytes::request_bytes(params)];
    bytes::read_request_into(&mut block, 0, PublicSeed([7; 32]), &zeros).unwrap();
    let weights = [1, -2, 32_767, -32_767, 5, 0];
    LinearMap::dense(2, 3, &weights, &[-1, 1 << 40]).unwrap().apply(&block).unwrap()
}

fn packings(backend: Backend) -> Value {
    let cases = rings().into_iter().map(|(n, q)| {
        let block = fixed_block(&params(n, 2, &[q], backend));
        let mut out = Vec::new();
        bytes::write_reply(&block, &mut out);
        json!({
            "ring_degree": n, "modulus": q, "bytes": out.len(),
            "first": hex(&out[..16]), "digest": blake3::hash(&out).to_hex().as_str(),
        })
    });
    json!(cases.collect::<Vec<_>>())
}

fn ciphertexts(backend: Backend) -> Value {
    let params = params(4096, 1_073_692_673, &[0x3FFF_FFF8_4001, 0x7FFF_7FFD_6001], backend);
    let mut rng = ChaCha20Rng::seed_from_u64(2024);
    let key = SecretKey::generate(&params, &mut rng);
    let encoder = SlotEncoder::new(&params).unwrap();
    let plaintexts: Vec<_> = (0..3)
        .map(|i| encoder.encode(&(0..4096).map(|x| x * i - 2048).collect::<Vec<_>>()).unwrap())
        .collect();
    let mut encryptor = BlockEncryptor::new(&key, &mut rng);
    let block = encryptor.encrypt_next(&plaintexts).unwrap();
    let map = LinearMap::dense(2, 3, &[7, -7, 1, 0, 32_767, -1], &[3, -4]).unwrap();
    let linear = map.apply(&block).unwrap();
    let square = linear.square().unwrap();
    let switched = square.mod_switch_down().unwrap();
    let digest = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        write(&mut out);
        blake3::hash(&out).to_hex().to_string()
    };
    json!({
        "generator": "ChaCha20Rng::seed_from_u64(2024)",
        "public_seed": hex(&encryptor.seed().0),
        "request": digest(&|out| bytes::write_request(&block, out)),
        "linear": digest(&|out| bytes::write_reply(&linear, out)),
        "square": digest(&|out| bytes::write_reply(&square, out)),
        "switched": digest(&|out| bytes::write_reply(&switched, out)),
    })
}
