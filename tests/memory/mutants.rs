//! Mutants of every kind of bytes: no panic, and no memory beyond the decoder's limit.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use securedl_tests::decoders::{Decoder, decoders};
use securedl_tests::mutation::mutant;

use crate::allocator::peak_of;
use crate::turn;

/// Mutants in all, unless SECUREDL_MUTATIONS says otherwise.
const N_MUTANTS: u64 = 20_000;
/// Where the mutants begin, unless SECUREDL_FIRST_MUTATION says otherwise: other numbers, other bytes.
const FIRST: u64 = 0;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// Decode, and compare what it took with what it may.
fn check(decoder: &Decoder, bytes: &[u8]) -> Result<usize, String> {
    let mut panicked = false;
    let peak = peak_of(|| {
        panicked = catch_unwind(AssertUnwindSafe(|| (decoder.decode)(bytes))).is_err();
    });
    let limit = decoder.memory_bytes + 64 * bytes.len();
    if panicked {
        return Err("it panics".to_owned());
    }
    if peak > limit {
        return Err(format!("it takes {peak} bytes, {limit} are allowed"));
    }
    Ok(peak)
}

#[test]
fn no_mutant_panics_or_takes_memory_beyond_its_limit() {
    let _turn = turn();
    let decoders = decoders();
    let n_each = setting("SECUREDL_MUTATIONS", N_MUTANTS).div_ceil(decoders.len() as u64);
    let first = setting("SECUREDL_FIRST_MUTATION", FIRST);
    for decoder in &decoders {
        // Made, and everything a decoder prepares once, before memory is counted.
        let corpus = decoder.corpus();
        assert!(!corpus.is_empty(), "{decoder:?} has samples");
        for sample in corpus.iter() {
            (decoder.decode)(sample);
        }
        let mut highest = 0;
        for number in first..first + n_each {
            let bytes = mutant(decoder, number);
            match check(decoder, &bytes) {
                Ok(peak) => highest = highest.max(peak),
                Err(reason) => {
                    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(decoder.name);
                    std::fs::write(&path, &bytes).unwrap();
                    panic!("mutant {number} of {}: {reason}; see {}", decoder.name, path.display());
                }
            }
        }
        eprintln!("{:<20} {n_each} mutants, at most {highest} bytes", decoder.name);
    }
}

#[test]
fn mutants_are_functions_of_their_number_and_differ() {
    let _turn = turn();
    for decoder in decoders() {
        let batch: Vec<_> = (0..40).map(|number| mutant(&decoder, number)).collect();
        assert_eq!(batch, (0..40).map(|number| mutant(&decoder, number)).collect::<Vec<_>>());
        let mut distinct = batch.clone();
        distinct.sort();
        distinct.dedup();
        assert!(distinct.len() > 20, "{}: {} of 40 differ", decoder.name, distinct.len());
        let corpus = decoder.corpus();
        let altered = batch.iter().filter(|bytes| !corpus.contains(bytes)).count();
        assert!(altered > 20, "{}: {altered} of 40 are altered", decoder.name);
    }
}

/// A decoder that breaks each rule is found out: the test above can fail.
#[test]
fn a_bad_decoder_is_found_out() {
    let _turn = turn();
    let template = decoders().remove(0);
    let mut greedy = template;
    greedy.decode = |_| drop(std::hint::black_box(vec![1_u8; 64 << 20]));
    let reason = check(&greedy, &[0; 8]).unwrap_err();
    assert!(reason.contains("are allowed"), "{reason}");
    let mut fragile = template;
    fragile.decode = |bytes| assert!(bytes.len() > 9);
    assert_eq!(check(&fragile, &[0; 8]).unwrap_err(), "it panics");
}

/// Writes `fuzz/corpus/NAME/…`, where the targets in `fuzz/` begin.
#[test]
#[ignore = "writes files for cargo-fuzz"]
fn write_the_corpus() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for decoder in decoders() {
        let folder = root.join(decoder.name);
        std::fs::create_dir_all(&folder).unwrap();
        for (number, bytes) in decoder.corpus().iter().enumerate() {
            std::fs::write(folder.join(format!("sample-{number}")), bytes).unwrap();
        }
    }
}
