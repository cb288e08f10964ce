#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "tests"
)]
use std::fs;

use fingerprint::Verdict;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

fn task() -> Task {
    Task { n_scores: 3, samples_per_batch: 4, description: "plan: ab\nsplit: test\n".to_owned() }
}

fn inputs(batch: usize, n: usize) -> IntegerMatrix {
    IntegerMatrix::from_shape_fn((5, n), |(i, j)| i32::try_from(batch * 100 + i * 10 + j).unwrap())
}

fn result(batch: usize, n: usize) -> BatchResult {
    let scores = ScoreMatrix::from_shape_fn((3, n), |(i, j)| {
        i64::try_from(batch * 1000 + i * 10 + j).unwrap() - 500
    });
    let soundness = Soundness { one_sample_bits: Some(3.5), ..Soundness::unchecked() };
    let tally = Tally { rounds: 2, blocks: 7, bytes_up: 99, n_clamped: 1, ..Tally::default() };
    let out_of_calibration = (0..n).map(|j| j % 2 == 1).collect();
    BatchResult { scores, out_of_calibration, verdict: Verdict::Intact { soundness }, tally }
}

/// A journal of two full batches and a last one of two samples.
fn journal() -> (TempDir, PathBuf, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.journal");
    let mut journal = Journal::create(&path, task()).unwrap();
    for (batch, n) in [(0, 4), (1, 4), (2, 2)] {
        journal.append(&inputs(batch, n), &result(batch, n)).unwrap();
    }
    drop(journal);
    let bytes = fs::read(&path).unwrap();
    (folder, path, bytes)
}

#[test]
fn what_was_kept_is_read_again() {
    let (_folder, path, _) = journal();
    let (mut journal, recovered) = Journal::open(&path, task()).unwrap();
    assert_eq!(recovered, Recovered { batches: 3, samples: 10, dropped_bytes: 0 });
    for (batch, n) in [(0, 4), (1, 4), (2, 2)] {
        let (kept, expected) = (journal.read(batch).unwrap(), result(batch, n));
        assert_eq!(kept.scores, expected.scores);
        assert_eq!(kept.out_of_calibration, expected.out_of_calibration);
        assert_eq!(kept.tally, expected.tally);
        assert_eq!(expected.verdict, Verdict::Intact { soundness: kept.soundness });
        journal.check_inputs(batch, &inputs(batch, n)).unwrap();
        let other = journal.check_inputs(batch, &inputs(batch + 7, n)).unwrap_err();
        assert!(matches!(other, JournalError::OtherInputs { .. }), "{other}");
    }
    assert!(journal.read(3).is_err());
    journal.remove().unwrap();
    assert!(!path.exists());
}

#[test]
fn a_journal_has_its_published_bytes() {
    let (_folder, _, bytes) = journal();
    assert_eq!(&bytes[..12], b"SDLJRNL\0\x01\0\0\0");
    assert_eq!(bytes[12..28], [3, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 21, 0, 0, 0]);
    assert_eq!(&bytes[28..49], b"plan: ab\nsplit: test\n");
    assert_eq!(bytes.len(), 28 + 21 + 32 + 3 * (44 + 68 + 32) + 10 * 25);
    let digest = blake3::hash(&bytes).to_hex().to_string();
    assert_eq!(digest, GOLDEN, "a change of the bytes is a new version");
}

const GOLDEN: &str = "caead5ac8a8bbf85d26aa2ffb50f90574d6fcfb500b03fc41d24db8a499522c1";

#[test]
fn a_journal_cut_off_anywhere_keeps_its_whole_batches() {
    let (_folder, path, bytes) = journal();
    let head = 28 + 21 + 32;
    let record = |n: usize| 44 + 68 + 25 * n + 32;
    let ends = [head, head + record(4), head + 2 * record(4), head + 2 * record(4) + record(2)];
    assert_eq!(ends[3], bytes.len());
    for length in 0..bytes.len() {
        fs::write(&path, &bytes[..length]).unwrap();
        let opened = Journal::open(&path, task());
        if length < head {
            assert!(opened.is_err(), "{length}");
            continue;
        }
        let (mut journal, recovered) = opened.unwrap();
        let whole = ends.iter().filter(|&&end| end <= length).count() - 1;
        assert_eq!(recovered.batches, whole, "{length}");
        assert_eq!(recovered.dropped_bytes as usize, length - ends[whole]);
        // And goes on from there.
        let n = if whole == 2 { 2 } else { 4 };
        journal.append(&inputs(whole, n), &result(whole, n)).unwrap();
        drop(journal);
        assert_eq!(fs::read(&path).unwrap(), bytes[..ends[whole + 1]]);
    }
}

#[test]
fn other_runs_are_refused_with_what_differs() {
    let (_folder, path, bytes) = journal();
    let other = |description: &str| Task { description: description.to_owned(), ..task() };
    let cases = [
        (other("plan: ab\nsplit: all\n"), "`split: test`, now `split: all`"),
        (other("plan: ab\n"), "`split: test`, now nothing of the kind"),
        (other("plan: ab\nsplit: test\nsamples: 9\n"), "nothing like `samples: 9`"),
        (Task { samples_per_batch: 5, ..task() }, "batches are cut in another way"),
        (Task { n_scores: 2, ..task() }, "batches are cut in another way"),
    ];
    for (task, expected) in cases {
        let error = Journal::open(&path, task).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert_eq!(fs::read(&path).unwrap(), bytes, "nothing was touched");
    let mut newer = bytes.clone();
    newer[8] = 2;
    let refusals = [
        (newer, "format version 2"),
        (b"index,prediction\n0,1\n".repeat(9), "is no journal"),
        (Vec::new(), "is no journal"),
        (bytes[..60].to_vec(), "is damaged"),
    ];
    for (bytes, expected) in refusals {
        fs::write(&path, bytes).unwrap();
        let error = Journal::open(&path, task()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_journal_has_one_writer_and_is_not_overwritten() {
    let (_folder, path, _) = journal();
    assert!(matches!(Journal::create(&path, task()), Err(JournalError::Exists { .. })));
    let (held, _) = Journal::open(&path, task()).unwrap();
    assert!(matches!(Journal::open(&path, task()), Err(JournalError::InUse { .. })));
    drop(held);
    Journal::open(&path, task()).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn results_of_another_shape_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = Journal::create(&folder.path().join("j"), task()).unwrap();
    for (n_inputs, n) in [(3, 4), (5, 5), (0, 0)] {
        let error = journal.append(&inputs(0, n_inputs), &result(0, n)).unwrap_err();
        assert!(matches!(error, JournalError::Task { .. }), "{error}");
    }
    assert_eq!(journal.n_batches(), 0);
    let wide = Task { description: "x".repeat(1 << 17), ..task() };
    assert!(Journal::create(&folder.path().join("k"), wide).is_err());
    assert!(!folder.path().join("k").exists());
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_told() {
    let full = OpenOptions::new().read(true).write(true).open("/dev/full").unwrap();
    let error = Journal::in_file(full, Path::new("here"), task()).unwrap_err();
    let JournalError::Io { source, .. } = error else { panic!("{error}") };
    assert_eq!(source.kind(), io::ErrorKind::StorageFull);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn altered_journals_keep_only_what_was_not_altered(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let (_folder, path, bytes) = journal();
        let mut altered = bytes.clone();
        for (at, value) in edits {
            let at = at.index(altered.len());
            altered[at] = value;
        }
        if let Some(cut) = cut {
            altered.truncate(cut.index(altered.len()));
        }
        let first = altered.iter().zip(&bytes).position(|(a, b)| a != b).unwrap_or(altered.len());
        fs::write(&path, &altered).unwrap();
        if let Ok((mut journal, recovered)) = Journal::open(&path, task()) {
            for batch in 0..recovered.batches {
                let entry = journal.batches[batch];
                prop_assert!(entry.offset as usize + 144 <= first, "an altered record counts");
                prop_assert_eq!(journal.read(batch).unwrap().scores, result(batch, entry.n_samples as usize).scores);
            }
        }
    }
}
