//! Instructions of each primitive, counted by valgrind: the same on a busy machine and an idle one.
//!
//! ```sh
//! cargo bench -p securedl-he-core --bench instructions                        # count
//! cargo bench -p securedl-he-core --bench instructions -- --save before.txt   # and keep
//! cargo bench -p securedl-he-core --bench instructions -- --against before.txt
//! ```
//! Every case runs this program again under callgrind, which counts only inside [`measured`].
//! `--against` fails when a case takes over 2 % more instructions than in the file. Needs `valgrind`
//! in the path; without it the cases are skipped, aloud. Valgrind knows no AVX-512, and programs under
//! it do not find any: counts are those of the backends up to AVX2. `-- --test` only runs each case.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    reason = "benchmarks"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::process::{Command, ExitCode};

use he_core::{
    Backend, BlockEncryptor, CiphertextBlock, Decryptor, LinearMap, Params, ParamsSpec, Plaintext,
    PublicSeed, SecretKey, SlotEncoder, WordCheck, bytes,
};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

/// Set in the programs that callgrind runs: the case to run.
const CASE: &str = "SECUREDL_BENCH_CASE";
/// How many more instructions than before are still the same.
const TOLERANCE: f64 = 0.02;
/// Ciphertexts of a block.
const COUNT: usize = 4;

/// What callgrind counts.
#[inline(never)]
fn measured(work: &mut dyn FnMut()) {
    black_box(work)();
}

/// One case: prepares, then calls [`measured`] once.
type Case = (String, Box<dyn Fn() + Send + Sync>);

fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for (ring, degree, bits) in [("2048x30", 2048, &[30][..]), ("4096x46+47", 4096, &[46, 47])] {
        let spec = ParamsSpec::with_bits(degree, 65_537, bits).unwrap();
        let params = Params::new(spec).unwrap();
        let mut add = |name: &str, case: fn(&Params)| {
            let params = params.clone();
            cases.push((format!("{name}/{ring}"), Box::new(move || case(&params))));
        };
        add("forward transform", |params| transform(params, Params::forward_transform));
        add("inverse transform", |params| transform(params, Params::inverse_transform));
        add("encode", encode);
        add("encrypt 4", encrypt);
        add("decrypt and decode", decrypt);
        add("write reply 4", write_reply);
        add("read request 4", read_request);
        add("word check 4", word_check);
        if bits.len() > 1 {
            add("square 4", |params| {
                let input = block(params);
                measured(&mut || drop(black_box(input.square().unwrap())));
            });
            add("modulus switch 4", |params| {
                let square = block(params).square().unwrap();
                measured(&mut || drop(black_box(square.mod_switch_down().unwrap())));
            });
        }
        for backend in Backend::ALL {
            let params = params.clone();
            let name = format!("linear 10x40 {}/{ring}", backend.name());
            cases.push((name, Box::new(move || linear(&params, backend))));
        }
    }
    cases
}

fn rng() -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(1)
}

fn block(params: &Params) -> CiphertextBlock {
    let mut block = CiphertextBlock::zeros(params, COUNT, 1, params.moduli().len()).unwrap();
    let request = vec![0; COUNT * bytes::request_bytes(params)];
    bytes::read_request_into(&mut block, 0, PublicSeed([1; 32]), &request).unwrap();
    block
}

fn plaintext(params: &Params) -> (SlotEncoder, Plaintext) {
    let encoder = SlotEncoder::new(params).unwrap();
    let values: Vec<i64> = (0..).take(params.ring_degree()).collect();
    let plaintext = encoder.encode(&values).unwrap();
    (encoder, plaintext)
}

fn transform(params: &Params, run: fn(&Params, usize, &mut [u64]) -> he_core::Result<()>) {
    let mut words: Vec<u64> = (0..params.ring_degree() as u64).collect();
    measured(&mut || run(params, 0, black_box(&mut words)).unwrap());
}

fn encode(params: &Params) {
    let encoder = SlotEncoder::new(params).unwrap();
    let values: Vec<i64> = (0..).take(params.ring_degree()).collect();
    measured(&mut || drop(black_box(encoder.encode(&values).unwrap())));
}

fn encrypt(params: &Params) {
    let mut rng = rng();
    let key = SecretKey::generate(params, &mut rng);
    let plaintexts: Vec<Plaintext> = (0..COUNT).map(|_| plaintext(params).1).collect();
    let mut encryptor = BlockEncryptor::new(&key, &mut rng);
    measured(&mut || drop(black_box(encryptor.encrypt_next(&plaintexts).unwrap())));
}

fn decrypt(params: &Params) {
    let mut rng = rng();
    let key = SecretKey::generate(params, &mut rng);
    let (encoder, plaintext) = plaintext(params);
    let block = BlockEncryptor::new(&key, &mut rng).encrypt_next(&[plaintext]).unwrap();
    let decryptor = Decryptor::new(&key);
    measured(&mut || {
        let message = decryptor.decrypt(&block, 0).unwrap();
        drop(black_box(encoder.decode(&message).unwrap()));
    });
}

fn write_reply(params: &Params) {
    let block = block(params);
    let mut out = Vec::with_capacity(COUNT * bytes::reply_bytes(params, 1, params.moduli().len()));
    measured(&mut || bytes::write_reply(&block, black_box(&mut out)));
}

fn read_request(params: &Params) {
    let mut block = block(params);
    let request = vec![0; COUNT * bytes::request_bytes(params)];
    measured(&mut || {
        bytes::read_request_into(&mut block, 0, PublicSeed([2; 32]), &request).unwrap();
    });
}

fn word_check(params: &Params) {
    let block = block(params);
    let map = LinearMap::dense(1, COUNT, &[3; COUNT], &[1]).unwrap();
    let mut check = WordCheck::new(&map, params, 2, &mut rng()).unwrap();
    measured(&mut || check.absorb_input(0, &block).unwrap());
}

fn linear(params: &Params, backend: Backend) {
    let params = params.with_backend(backend).unwrap();
    let input = block(&params).select(&[0, 1, 2, 3].repeat(10)).unwrap();
    let weights: Vec<i32> = (0..400).map(|i| i % 15 - 7).collect();
    let map = LinearMap::dense(10, 40, &weights, &[1; 10]).unwrap();
    measured(&mut || drop(black_box(map.apply(&input).unwrap())));
}

/// Instructions of one case, or `None` where its backend cannot run under valgrind.
fn count(name: &str) -> Option<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"])
        .arg("--toggle-collect=instructions::measured*")
        .arg(std::env::current_exe().unwrap())
        .env(CASE, name)
        .env_remove("HE_BACKEND")
        .output()
        .unwrap();
    if output.status.code() == Some(i32::from(SKIPPED)) {
        return None;
    }
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {text}");
    let line = text.lines().find(|line| line.contains("Collected :"));
    let count = line.and_then(|line| line.rsplit(':').next()?.trim().parse().ok());
    Some(count.filter(|&n| n > 0).unwrap_or_else(|| panic!("{name}: nothing counted\n{text}")))
}

/// Exit code of a case whose backend is not there.
const SKIPPED: u8 = 77;

/// Run one case in a pool of one thread, so that all of its work is inside [`measured`].
fn run_case(name: &str) -> ExitCode {
    let cases = cases();
    let (_, case) = cases.iter().find(|(found, _)| found == name).unwrap();
    let backend = Backend::ALL.into_iter().find(|b| name.contains(&format!(" {}/", b.name())));
    if backend.is_some_and(|backend| !backend.is_available()) {
        return ExitCode::from(SKIPPED);
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    pool.install(case);
    ExitCode::SUCCESS
}

fn main() -> ExitCode {
    if let Ok(name) = std::env::var(CASE) {
        return run_case(&name);
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|a| a == "--test") {
        for (name, _) in cases() {
            let outcome = run_case(&name);
            println!("{name}: {}", if outcome == ExitCode::SUCCESS { "ok" } else { "SKIPPED" });
        }
        return ExitCode::SUCCESS;
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("SKIPPED: valgrind is not installed; no instructions are counted");
        return ExitCode::SUCCESS;
    }
    let file = |flag: &str| {
        let position = arguments.iter().position(|a| a == flag)?;
        Some(arguments.get(position + 1).expect("a file name after the flag"))
    };
    let before: BTreeMap<String, u64> = file("--against").map(|f| load(f)).unwrap_or_default();
    let (mut table, mut is_worse) = (String::new(), false);
    println!("{:<40} {:>14} {:>9}", "case", "instructions", "change");
    for (name, _) in cases() {
        let Some(count) = count(&name) else {
            println!("{name:<40} {:>14}", "SKIPPED");
            continue;
        };
        let change = before.get(&name).map(|&n| count as f64 / n as f64 - 1.0);
        is_worse |= change.is_some_and(|change| change > TOLERANCE);
        let shown = change.map_or_else(String::new, |c| format!("{:+.1} %", 100.0 * c));
        println!("{name:<40} {count:>14} {shown:>9}");
        writeln!(table, "{count}\t{name}").unwrap();
    }
    if let Some(path) = file("--save") {
        std::fs::write(path, table).unwrap();
    }
    if is_worse {
        eprintln!("some case takes over {:.0} % more instructions than before", 100.0 * TOLERANCE);
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn load(path: &str) -> BTreeMap<String, u64> {
    let text = std::fs::read_to_string(path).unwrap();
    let line = |line: &str| {
        let (count, name) = line.split_once('\t')?;
        Some((name.to_owned(), count.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}
