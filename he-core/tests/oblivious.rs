//! Work on secrets takes the same path whatever the secrets are.
//!
//! Runs encryption, decryption and encoding under valgrind, once for each of several keys and messages,
//! and compares exact counts: instructions, reads, writes and conditional branches. They do not depend on
//! the machine or its load. How often a simulated predictor guesses a branch wrongly is compared, too, but
//! not exactly: what the predictor learned before the measured region (drawing a key rejects candidates,
//! which is allowed to depend on them) moves it by a few. Skipped, aloud, where valgrind is missing.
//!
//! What it shows: for these keys and messages no branch and no loop depends on them, in the code paths
//! that valgrind's processor selects (it has AVX2 and no AVX-512). What it does not show: that no address
//! depends on them, that no instruction takes longer for some operands, or anything about other
//! parameters. The timing test below ([`timing_of_decryption`], by command) looks at this machine's real
//! paths instead.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    reason = "tests"
)]

use std::collections::HashMap;
use std::hint::black_box;
use std::io::Write as _;
use std::process::Command;
use std::time::Instant;

use he_core::{
    BlockEncryptor, CiphertextBlock, Decryptor, Params, ParamsSpec, SecretKey, SlotEncoder,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;

const REGION: &str = "SECUREDL_OBLIVIOUS_REGION";
const SECRET: &str = "SECUREDL_OBLIVIOUS_SECRET";
/// Ring degree.
const N: usize = 1024;
const REGIONS: [&str; 4] = ["encoding", "encryption", "decryption", "decoding"];
/// Keys and messages that are compared.
const SECRETS: [u64; 4] = [0, 1, 2, 3];

struct Setting {
    encoder: SlotEncoder,
    key: SecretKey,
    values: Vec<i64>,
    block: CiphertextBlock,
}

/// Everything a secret number decides: the key and the message. Messages 0 and 1 are all the lowest and
/// all the highest values.
fn setting(secret: u64) -> Setting {
    // Small, so that valgrind is soon done: paths do not depend on the ring degree.
    let t = ParamsSpec::smallest_slot_modulus(N, 1 << 16).unwrap();
    let spec = ParamsSpec::with_bits(N, t.into(), &[40, 40]).unwrap();
    let params = Params::insecure_new(spec).unwrap();
    let mut rng = ChaCha20Rng::seed_from_u64(secret);
    let key = SecretKey::generate(&params, &mut rng);
    let half = i64::try_from(t).unwrap() / 2;
    let values: Vec<i64> = match secret {
        0 => vec![-half; N],
        1 => vec![half; N],
        _ => (0..N).map(|_| rng.random_range(-half..=half)).collect(),
    };
    let encoder = SlotEncoder::new(&params).unwrap();
    let plaintext = encoder.encode(&values).unwrap();
    // Public seed and errors are the same: what is compared are key and message.
    let mut public = ChaCha20Rng::seed_from_u64(77);
    let block = BlockEncryptor::new(&key, &mut public).encrypt_next(&[plaintext]).unwrap();
    Setting { encoder, key, values, block }
}

/// What valgrind counts, and nothing else.
#[inline(never)]
fn measured_region<T>(work: impl FnOnce() -> T) -> T {
    black_box(work())
}

fn run_region(region: &str, secret: u64) {
    let setting = setting(secret);
    let plaintext = setting.encoder.encode(&setting.values).unwrap();
    let message = Decryptor::new(&setting.key).decrypt(&setting.block, 0).unwrap();
    match region {
        "encoding" => drop(measured_region(|| setting.encoder.encode(&setting.values))),
        "encryption" => {
            let mut public = ChaCha20Rng::seed_from_u64(77);
            let mut encryptor = BlockEncryptor::new(&setting.key, &mut public);
            drop(measured_region(|| encryptor.encrypt_next(&[plaintext])));
        }
        "decryption" => {
            drop(measured_region(|| Decryptor::new(&setting.key).decrypt(&setting.block, 0)));
        }
        "decoding" => drop(measured_region(|| setting.encoder.decode(&message))),
        // What the test must notice: one branch on a secret.
        "leak" => {
            let sum = measured_region(|| {
                let mut sum = 0_i64;
                for &value in &setting.values {
                    if black_box(value) > 0 {
                        sum = black_box(sum + value);
                    }
                }
                sum
            });
            black_box(sum);
        }
        // The same for arms that cost the same, so that only the predictor sees it.
        "equal arms" => {
            let counts = measured_region(|| {
                let mut counts = [0_u64; 2];
                for &value in &setting.values {
                    if black_box(value) > 0 {
                        counts[0] = black_box(counts[0] + 1);
                    } else {
                        counts[1] = black_box(counts[1] + 1);
                    }
                }
                counts
            });
            black_box(counts);
        }
        other => panic!("no region {other}"),
    }
}

/// Runs one region in this process; called by the test below under valgrind.
#[test]
#[ignore = "a part of no_branch_depends_on_keys_or_messages"]
fn worker() {
    let Ok(region) = std::env::var(REGION) else { return };
    let secret = std::env::var(SECRET).unwrap().parse().unwrap();
    // On this thread alone: another one would not be counted.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build().unwrap();
    pool.install(|| run_region(&region, secret));
}

/// What one run of a region came to.
#[derive(Debug)]
struct Counts {
    /// Instructions, reads, writes and conditional branches, by the names callgrind gives them.
    exact: Vec<(String, u64)>,
    /// Conditional branches that the simulated predictor guessed wrongly.
    mispredicted: u64,
}

impl Counts {
    fn instructions(&self) -> u64 {
        self.exact[0].1
    }

    /// Whether a branch on a secret can be excluded. One whose arms are equally long shows only in the
    /// predictor: guessed wrongly for every second of `N` random coefficients.
    fn agrees_with(&self, other: &Self) -> bool {
        self.exact == other.exact && self.mispredicted.abs_diff(other.mispredicted) < N as u64 / 8
    }
}

fn counts(region: &str, secret: u64) -> Counts {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = folder.join(format!("callgrind-{region}-{secret}-{}", std::process::id()));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no", "--cache-sim=yes", "--branch-sim=yes"])
        .arg("--toggle-collect=*measured_region*")
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "worker", "--ignored", "--test-threads=1"])
        .env(REGION, region)
        .env(SECRET, secret.to_string())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let line = |start: &str| -> Vec<String> {
        let line = text.lines().find_map(|line| line.strip_prefix(start)).expect("a result");
        line.split_whitespace().map(str::to_owned).collect()
    };
    let mut all: HashMap<String, u64> = line("events:")
        .into_iter()
        .zip(line("totals:").iter().map(|count| count.parse().unwrap()))
        .collect();
    // Misses of a simulated cache depend on where memory happens to lie.
    let mut take = |name: &str| all.remove(name).expect("an event of callgrind");
    let exact = ["Ir", "Dr", "Dw", "Bc"].map(|name| (name.to_owned(), take(name))).to_vec();
    Counts { exact, mispredicted: take("Bcm") }
}

#[test]
fn no_branch_depends_on_keys_or_messages() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        // Not by a macro: what a passing test prints is not shown.
        let _ = writeln!(std::io::stderr(), "SKIPPED: valgrind is not installed");
        return;
    }
    // The measurement notices a branch on a message, of arms of any length, and repeats itself exactly.
    let leak = counts("leak", 0);
    assert!(leak.instructions() > 1000, "nothing was measured: {leak:?}");
    assert_eq!(leak.exact, counts("leak", 0).exact);
    assert_ne!(leak.exact, counts("leak", 1).exact, "a leak is noticed");
    assert!(!counts("equal arms", 0).agrees_with(&counts("equal arms", 2)), "a leak is noticed");
    for region in REGIONS {
        let first = counts(region, SECRETS[0]);
        assert!(first.instructions() > 1000, "{region}: nothing was measured");
        eprintln!("{region}: {first:?}");
        for secret in &SECRETS[1..] {
            let other = counts(region, *secret);
            assert!(first.agrees_with(&other), "{region}, secret {secret}: {first:?}, {other:?}");
        }
    }
}

/// Welch's t of decryption times for two keys and messages, by command:
/// `cargo test -p securedl-he-core --test oblivious -- --ignored --nocapture timing`.
///
/// Above 4.5 something depends on them; below, this many measurements on this machine do not show it.
#[test]
#[ignore = "depends on the machine and its load; a measurement, not a check"]
fn timing_of_decryption() {
    const N_TIMES: usize = 20_000;
    let settings = [setting(0), setting(2)];
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let mut times: [Vec<f64>; 2] = Default::default();
    for _ in 0..N_TIMES {
        // In random order, so that a drift of the machine meets both alike.
        let which = usize::from(rng.random::<bool>());
        let Setting { key, block, .. } = &settings[which];
        let started = Instant::now();
        let _ = black_box(Decryptor::new(key).decrypt(block, 0));
        times[which].push(started.elapsed().as_secs_f64());
    }
    let [a, b] = times.map(|mut times| {
        // Interrupts are not the key's doing.
        times.sort_by(f64::total_cmp);
        times.truncate(times.len() * 9 / 10);
        let n = times.len() as f64;
        let mean = times.iter().sum::<f64>() / n;
        let variance = times.iter().map(|t| (t - mean).powi(2)).sum::<f64>() / (n - 1.0);
        (mean, variance / n)
    });
    let t = (a.0 - b.0) / (a.1 + b.1).sqrt();
    eprintln!("means {:.2} and {:.2} µs, t = {t:.2}", a.0 * 1e6, b.0 * 1e6);
}
