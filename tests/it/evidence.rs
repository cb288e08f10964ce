//! What a failed run keeps convicts the server that signed it, and never one that was right.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nn_poly::integer::IntegerMatrix;
use nn_poly::plan::{ActivationSide, Plan};
use proptest::prelude::*;
use protocol::client::{RemoteEvaluator, reply_queue};
use protocol::evidence::{EvidenceError, Finding, Report, verify};
use protocol::identity::Identity;
use protocol::runner::{RunOptions, RunOutcome, Silent, run_recorded};
use protocol::server::service::PlanHost;
use protocol::session::{BatchSession, ClientPlan, Lane, Result, SessionError};
use securedl_tests::batch::{answer, seeded_session};
use securedl_tests::chains::relinearized_plan;
use securedl_tests::dishonest::{Cheat, DishonestHost, Strength, Victims};
use securedl_tests::loopback::{in_process, runtime, server, shelf};
use securedl_tests::models::{TinyModel, client_plan, samples, session_options};
use tempfile::TempDir;

/// Fields of a file, in the order of its description.
const HEAD: usize = 120;
const TRAILER: usize = 168;
const DIGEST: usize = 32;

struct Setting {
    plan: Plan,
    owner: Arc<ClientPlan>,
    folder: TempDir,
}

impl Setting {
    fn new(side: ActivationSide) -> Self {
        Self::of(TinyModel::conv_pool_square().plan(side, 100))
    }

    fn of(plan: Plan) -> Self {
        let owner = client_plan(&plan, session_options(4, 1));
        Self { plan, owner, folder: tempfile::tempdir().unwrap() }
    }

    fn inputs(&self, n: usize) -> IntegerMatrix {
        samples(&self.plan, n, 31)
    }

    /// Samples that fill more than two blocks of a segment.
    fn three_blocks(&self, segment: usize) -> IntegerMatrix {
        let per_block = self.owner.samples_per_block()[segment];
        self.inputs(2 * per_block + 1)
    }

    fn run(&self, host: Arc<dyn PlanHost>, inputs: &IntegerMatrix) -> Result<RunOutcome> {
        let options = RunOptions::for_plan(&self.owner);
        let progress: Arc<dyn protocol::runner::RunProgress> = Arc::new(Silent);
        let remote = in_process(server(host));
        let folder = Some(self.folder.path());
        runtime().block_on(async {
            run_recorded(&self.owner, inputs, &remote, &options, &progress, folder).await
        })
    }

    /// What is in the folder, which is emptied.
    fn kept(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// The records of all blocks of the first round with an honest server.
    fn honest(&self, inputs: &IntegerMatrix) -> Vec<PathBuf> {
        let session = Arc::new(seeded_session(&self.owner, inputs, 5).unwrap());
        let remote = in_process(server(shelf(&self.plan)));
        runtime().block_on(async {
            let mut files = Vec::new();
            for index in 0..session.n_blocks() {
                files.push(record(&session, index, &remote, self.folder.path()).await);
            }
            files
        })
    }
}

async fn record(
    session: &Arc<BatchSession>,
    index: usize,
    remote: &RemoteEvaluator,
    folder: &Path,
) -> PathBuf {
    let block = session.prepare(index).unwrap();
    let request = block.request().clone();
    let (sink, stream) = reply_queue(1);
    let (session, folder) = (Arc::clone(session), folder.to_owned());
    let opening = tokio::task::spawn_blocking(move || {
        session.open_recorded(block, stream, &Lane::default(), Some(&folder))
    });
    let mut ignore = |_: &_| ControlFlow::Continue(());
    remote.evaluate_streaming(&request, sink, &mut ignore).await.unwrap();
    let mut opened = opening.await.unwrap().unwrap().unwrap();
    opened.take_record().expect("every block is recorded").keep().unwrap()
}

/// The identity of the kit's server.
fn identity() -> protocol::identity::PublicIdentity {
    Identity::from_seed(&[9; 32]).public()
}

fn is_proven(report: &Report) -> bool {
    matches!(report.finding, Finding::ProvenFault { .. })
}

/// Cheats with a reply of the right length.
fn cheats(plan: &Plan, segment: usize) -> Vec<Cheat> {
    let (_, weights) = plan.network().stage(segment).unwrap();
    let mut swapped = weights.clone();
    swapped.weights.reverse();
    vec![
        Cheat::Weight { index: 0, by: 1 },
        Cheat::Bias { channel: 0, by: -1 },
        Cheat::SwappedModel { weights: swapped },
        Cheat::SlotChange { output: 0, slots: vec![0, 1000, 1500, 2000, 2001], by: 1 },
        Cheat::FlippedWord { output: 0, word: 77 },
        Cheat::PermutedOutputs { first: 0, second: 1 },
        Cheat::DroppedNeuron { output: 1 },
        Cheat::ReturnedInput,
        Cheat::Noise { output: 0, strength: Strength::Overwhelming },
    ]
}

#[test]
fn every_cheat_is_proven_by_what_the_run_has_kept() {
    for side in [ActivationSide::Client, ActivationSide::Server] {
        for cheat in cheats(&Setting::new(side).plan, 0) {
            let setting = Setting::new(side);
            let host = DishonestHost::new(&setting.plan, 0, cheat.clone(), Victims::All);
            let outcome = setting.run(host, &setting.inputs(3)).unwrap();
            let RunOutcome::Rejected { evidence, .. } = outcome else {
                panic!("{cheat:?} was not noticed")
            };
            assert_eq!(evidence.len(), 1, "{cheat:?}: one block");
            assert_eq!(setting.kept(), evidence, "{cheat:?}: nothing else is left");
            let report = verify(&evidence[0], &setting.plan).unwrap();
            assert!(is_proven(&report), "{cheat:?}: {report:?}");
            assert_eq!((report.identity, report.segment), (identity(), 0), "{cheat:?}");
            assert_eq!(report.plan.0, setting.plan.digest().0);
        }
    }
}

/// Requests that begin with a relinearization key are evaluated again like others.
#[test]
fn replies_to_requests_with_a_key_are_judged_like_others() {
    for cheat in [
        Cheat::Weight { index: 0, by: 1 },
        Cheat::Bias { channel: 0, by: -1 },
        Cheat::SlotChange { output: 0, slots: vec![0, 1000, 1500, 2000, 2001], by: 1 },
        Cheat::FlippedWord { output: 0, word: 77 },
        Cheat::PermutedOutputs { first: 0, second: 1 },
        Cheat::DroppedNeuron { output: 1 },
        Cheat::Trigger,
        Cheat::Noise { output: 0, strength: Strength::Overwhelming },
    ] {
        let setting = Setting::of(relinearized_plan());
        let host = DishonestHost::new(&setting.plan, 0, cheat.clone(), Victims::All);
        // Enough samples that altered slots meet one that is checked.
        let outcome = setting.run(host, &setting.inputs(3)).unwrap();
        let RunOutcome::Rejected { evidence, .. } = outcome else {
            panic!("{cheat:?} was not noticed")
        };
        assert!(is_proven(&verify(&evidence[0], &setting.plan).unwrap()), "{cheat:?}");
    }
    let setting = Setting::of(relinearized_plan());
    for file in setting.honest(&setting.inputs(3)) {
        assert_eq!(verify(&file, &setting.plan).unwrap().finding, Finding::ServerWasRight);
    }
}

#[test]
fn the_finding_says_where_the_reply_differs() {
    let setting = Setting::new(ActivationSide::Client);
    let cheat = Cheat::DroppedNeuron { output: 1 };
    let host = DishonestHost::new(&setting.plan, 0, cheat, Victims::All);
    let outcome = setting.run(host, &setting.inputs(3)).unwrap();
    let RunOutcome::Rejected { evidence, .. } = outcome else { panic!("not noticed") };
    let bytes = fs::read(&evidence[0]).unwrap();
    let reply_bytes = u64::from_le_bytes(bytes[112..120].try_into().unwrap());
    let n_outputs = u32::from_le_bytes(bytes[108..112].try_into().unwrap());
    let per_ciphertext = reply_bytes / u64::from(n_outputs);
    let report = verify(&evidence[0], &setting.plan).unwrap();
    let Finding::ProvenFault { first_byte, n_ciphertexts } = report.finding else {
        panic!("{report:?}")
    };
    assert_eq!((first_byte / per_ciphertext, n_ciphertexts), (1, 1));
}

#[test]
fn one_wrong_reply_among_right_ones_is_the_one_that_is_kept() {
    let setting = Setting::new(ActivationSide::Client);
    let inputs = setting.three_blocks(0);
    let cheat = Cheat::FlippedWord { output: 0, word: 5 };
    let host = DishonestHost::new(&setting.plan, 0, cheat, Victims::Only(1));
    let outcome = setting.run(host, &inputs).unwrap();
    let RunOutcome::Rejected { evidence, .. } = outcome else { panic!("not noticed") };
    assert_eq!(evidence.len(), 1);
    assert_eq!(setting.kept(), evidence);
    assert!(is_proven(&verify(&evidence[0], &setting.plan).unwrap()));
}

#[test]
fn a_signed_reply_that_is_none_is_kept_and_proven_although_nothing_was_judged() {
    for side in [ActivationSide::Client, ActivationSide::Server] {
        let setting = Setting::new(side);
        let host = DishonestHost::new(&setting.plan, 0, Cheat::ResidueOutOfRange, Victims::All);
        let error = setting.run(host, &setting.inputs(3)).unwrap_err();
        assert!(matches!(error, SessionError::Encrypted(_)), "{error:?}");
        let kept = setting.kept();
        assert_eq!(kept.len(), 1);
        assert!(is_proven(&verify(&kept[0], &setting.plan).unwrap()));
    }
}

#[test]
fn a_run_without_a_fault_leaves_nothing() {
    let setting = Setting::new(ActivationSide::Server);
    let outcome = setting.run(shelf(&setting.plan), &setting.inputs(3)).unwrap();
    assert!(matches!(outcome, RunOutcome::Verified(_)));
    assert_eq!(setting.kept(), Vec::<PathBuf>::new());
}

#[test]
fn a_record_has_its_published_bytes() {
    let setting = Setting::new(ActivationSide::Client);
    let session = Arc::new(seeded_session(&setting.owner, &setting.inputs(3), 5).unwrap());
    let remote = in_process(server(shelf(&setting.plan)));
    let block = session.prepare(0).unwrap();
    let request = block.request().clone();
    let (sink, stream) = reply_queue(1);
    let folder = setting.folder.path().to_owned();
    let (file, receipt) = runtime().block_on(async {
        let opening = tokio::task::spawn_blocking(move || {
            session.open_recorded(block, stream, &Lane::default(), Some(&folder))
        });
        let mut ignore = |_: &_| ControlFlow::Continue(());
        let delivery = remote.evaluate_streaming(&request, sink, &mut ignore).await.unwrap();
        let mut opened = opening.await.unwrap().unwrap().unwrap();
        (opened.take_record().unwrap().keep().unwrap(), delivery.receipt.receipt().clone())
    });
    let (asked, payload) = (request.header(), request.payload().to_bytes().unwrap());
    let reply = answer(&*shelf(&setting.plan), &request);
    let n_outputs = setting.plan.public().segments[0].n_outputs;

    let question: &[&[u8]] = &[
        &setting.plan.digest().0,
        &0_u32.to_le_bytes(),
        &asked.request_id.0,
        &asked.seed,
        &asked.n_ciphertexts.to_le_bytes(),
        &(payload.len() as u64).to_le_bytes(),
    ];
    let shape: &[&[u8]] = &[&n_outputs.to_le_bytes(), &(reply.len() as u64).to_le_bytes()];
    let version: &[u8] = &2_u16.to_le_bytes();
    let hash = |context: &str, parts: &[&[u8]]| blake3::derive_key(context, &parts.concat());
    let request_hash =
        hash("securedl protocol 1 request", &[version, &question.concat(), &payload]);
    let reply_hash = hash("securedl protocol 1 reply", &[&request_hash, &shape.concat(), &reply]);
    let mut expected = [
        &b"SDLEVID\0"[..],
        &1_u16.to_le_bytes(),
        version,
        &question.concat(),
        &shape.concat(),
        &payload,
        &reply,
        &identity().0,
        &request_hash,
        &reply_hash,
        &receipt.evaluate_micros.to_le_bytes(),
        &receipt.signature.to_bytes(),
    ]
    .concat();
    expected.extend(hash("securedl evidence 1", &[&expected]));
    assert!(fs::read(file).unwrap() == expected);
}

#[test]
fn whoever_was_right_is_found_right() {
    for side in [ActivationSide::Client, ActivationSide::Server] {
        let setting = Setting::new(side);
        for file in setting.honest(&setting.inputs(3)) {
            let report = verify(&file, &setting.plan).unwrap();
            assert_eq!((report.finding, report.identity), (Finding::ServerWasRight, identity()));
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt;
                assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
            }
            // With another plan there is nothing to recompute.
            let other = TinyModel::conv_pool_square().with_seed(99).plan(side, 100);
            assert!(matches!(verify(&file, &other), Err(EvidenceError::OtherPlan { .. })));
        }
    }
}

/// Puts the digest at the end right again, as somebody would who knows the format.
fn repair(bytes: &mut [u8]) {
    let end = bytes.len() - DIGEST;
    let digest = blake3::derive_key("securedl evidence 1", &bytes[..end]);
    bytes[end..].copy_from_slice(&digest);
}

/// Judges altered bytes: nothing may be held against the server, and if the digest was not repaired,
/// the file must be found altered.
fn is_harmless(folder: &Path, plan: &Plan, bytes: &[u8], is_repaired: bool) {
    let file = folder.join("altered");
    fs::write(&file, bytes).unwrap();
    match verify(&file, plan) {
        Ok(Report { finding: Finding::Altered, .. })
        | Err(EvidenceError::NotEvidence { .. } | EvidenceError::Version { .. }) => {}
        Ok(Report { finding: Finding::ReceiptMismatch { .. }, .. }) => assert!(is_repaired),
        outcome => panic!("{outcome:?}"),
    }
}

#[test]
fn no_altered_byte_of_an_honest_record_frames_the_server() {
    let setting = Setting::new(ActivationSide::Client);
    let file = setting.honest(&setting.inputs(3)).remove(0);
    let honest = fs::read(file).unwrap();
    let end = honest.len();
    // Every byte of every field, and payload bytes at even distances.
    let fields = (0..HEAD).chain(end - TRAILER - DIGEST..end);
    let payload = (HEAD..end - TRAILER - DIGEST).step_by(end / 150);
    for position in fields.chain(payload) {
        let mut altered = honest.clone();
        altered[position] ^= 1 << (position % 8);
        is_harmless(setting.folder.path(), &setting.plan, &altered, false);
        if position < end - DIGEST {
            repair(&mut altered);
            is_harmless(setting.folder.path(), &setting.plan, &altered, true);
        }
    }
    let lengths = (0..HEAD + 2).chain([end / 2, end - DIGEST, end - 1]);
    for length in lengths {
        is_harmless(setting.folder.path(), &setting.plan, &honest[..length], false);
    }
    let longer = [&honest[..], &[0]].concat();
    is_harmless(setting.folder.path(), &setting.plan, &longer, false);
}

#[test]
fn parts_of_honest_records_do_not_make_a_false_one() {
    let setting = Setting::new(ActivationSide::Client);
    let files = setting.honest(&setting.three_blocks(0));
    let [one, other] = [&files[0], &files[1]].map(|file| fs::read(file).unwrap());
    assert_eq!(one.len(), other.len());
    let end = one.len();
    let request = u64::from_le_bytes(one[100..108].try_into().unwrap()) as usize;
    let bounds = [0, 44, 48, 64, 96, HEAD, HEAD + request, end - TRAILER - DIGEST, end - DIGEST];
    // Every field of one record, and every beginning, in the place of the other's.
    for (&from, &to) in bounds.iter().zip(&bounds[1..]) {
        for start in [0, from] {
            let mut mixed = one.clone();
            mixed[start..to].copy_from_slice(&other[start..to]);
            repair(&mut mixed);
            if mixed == one || mixed == other {
                continue;
            }
            is_harmless(setting.folder.path(), &setting.plan, &mixed, true);
        }
    }
}

#[test]
fn who_signs_a_wrong_reply_himself_accuses_nobody_else() {
    let setting = Setting::new(ActivationSide::Client);
    // A client that plays a server of its own, under an identity of its own.
    let cheat = Cheat::Weight { index: 0, by: 1 };
    let host = DishonestHost::new(&setting.plan, 0, cheat, Victims::All);
    let outcome = setting.run(host, &setting.inputs(3)).unwrap();
    let RunOutcome::Rejected { evidence, .. } = outcome else { panic!("not noticed") };
    let mut bytes = fs::read(&evidence[0]).unwrap();
    let start = bytes.len() - TRAILER - DIGEST;
    let accused = Identity::from_seed(&[77; 32]).public();
    bytes[start..start + 32].copy_from_slice(&accused.0);
    repair(&mut bytes);
    is_harmless(setting.folder.path(), &setting.plan, &bytes, true);
    // A key of small order verifies no signature, so it can be nobody's name.
    bytes[start..start + 32].fill(0);
    bytes[start] = 1;
    repair(&mut bytes);
    is_harmless(setting.folder.path(), &setting.plan, &bytes, true);
}

/// A file that claims these lengths, with `rest` behind its head.
fn claiming(plan: &Plan, lengths: [u64; 2], rest: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(b"SDLEVID\0");
    bytes.extend_from_slice(&1_u16.to_le_bytes());
    bytes.extend_from_slice(&protocol::message::PROTOCOL_VERSION.to_le_bytes());
    bytes.extend_from_slice(&plan.digest().0);
    bytes.extend_from_slice(&[0; 4 + 16 + 32]);
    for length in lengths {
        bytes.extend_from_slice(&1_u32.to_le_bytes());
        bytes.extend_from_slice(&length.to_le_bytes());
    }
    bytes.extend_from_slice(rest);
    bytes
}

#[test]
fn claimed_lengths_are_compared_with_the_file_before_anything_is_read() {
    let setting = Setting::new(ActivationSide::Client);
    for lengths in [[1, u64::MAX], [u64::MAX, 1], [1 << 40, 1 << 40], [0, 1], [1, 0], [5, 6]] {
        let bytes = claiming(&setting.plan, lengths, &[3; 300]);
        is_harmless(setting.folder.path(), &setting.plan, &bytes, false);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Any bytes: an answer or an error, never a fault.
    #[test]
    fn arbitrary_files_accuse_nobody(
        lengths in [0_u64..400, 0_u64..400],
        mut rest in prop::collection::vec(any::<u8>(), 0..800),
        fits in any::<bool>(),
        repaired in any::<bool>(),
    ) {
        let plan = plan();
        if fits {
            rest.resize((lengths[0] + lengths[1]) as usize + TRAILER + DIGEST, 9);
        }
        let mut bytes = claiming(plan, lengths, &rest);
        if repaired && bytes.len() > DIGEST {
            repair(&mut bytes);
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("any");
        fs::write(&file, &bytes).unwrap();
        let outcome = verify(&file, plan);
        prop_assert!(!outcome.is_ok_and(|report| is_proven(&report)
            || report.finding == Finding::ServerWasRight));
    }
}

fn plan() -> &'static Plan {
    static PLAN: std::sync::OnceLock<Plan> = std::sync::OnceLock::new();
    PLAN.get_or_init(|| TinyModel::dense_only().plan(ActivationSide::Client, 100))
}
