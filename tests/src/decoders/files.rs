//! Decoders of files, and samples for them.

use std::cell::OnceCell;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fingerprint::{Soundness, Verdict};
use nn_poly::Shape;
use nn_poly::import::onnx::parse_onnx;
use nn_poly::import::{
    DataOptions, Dataset, ReadOptions, SampleStream, Split, SplitSpec, read_network,
};
use nn_poly::integer::{IntegerMatrix, ScoreMatrix};
use protocol::client::reply_queue;
use protocol::evidence;
use protocol::journal::{Journal, Task};
use protocol::session::{BatchResult, Lane, Tally};
use tempfile::TempDir;

use super::corpus::PLAN;
use crate::batch::seeded_session;
use crate::loopback::{in_process, runtime, server, shelf};
use crate::models::{client_plan, samples, session_options};

/// Write a file into a folder of this thread.
fn file(name: &str, bytes: &[u8]) -> PathBuf {
    thread_local!(static FOLDER: OnceCell<TempDir> = const { OnceCell::new() });
    FOLDER.with(|folder| {
        let folder = folder.get_or_init(|| tempfile::tempdir().expect("a temporary folder"));
        let path = folder.path().join(name);
        fs::write(&path, bytes).expect("a file can be written");
        path
    })
}

// ---- what a run leaves --------------------------------------------------------------------------

pub(super) fn honest_evidence() -> Vec<Vec<u8>> {
    let owner = client_plan(&PLAN, session_options(3, 1));
    let session = Arc::new(seeded_session(&owner, &samples(&PLAN, 9, 1), 5).expect("a session"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().to_owned();
    runtime().block_on(async {
        let block = session.prepare(0).expect("a block");
        let request = block.request().clone();
        let (sink, stream) = reply_queue(1);
        let opening = tokio::task::spawn_blocking(move || {
            session.open_recorded(block, stream, &Lane::default(), Some(&path))
        });
        let remote = in_process(server(shelf(&PLAN)));
        let mut ignore = |_: &_| ControlFlow::Continue(());
        remote.evaluate_streaming(&request, sink, &mut ignore).await.expect("a reply");
        let mut opened = opening.await.expect("no panic").expect("it opens").expect("a block");
        let kept = opened.take_record().expect("a record").keep().expect("a file");
        vec![fs::read(kept).expect("it can be read")]
    })
}

pub(super) fn seal_evidence(bytes: &mut [u8]) {
    if let Some(end) = bytes.len().checked_sub(32) {
        let mut hasher = blake3::Hasher::new_derive_key("securedl evidence 1");
        hasher.update(&bytes[..end]);
        bytes[end..].copy_from_slice(hasher.finalize().as_bytes());
    }
}

pub(super) fn decode_evidence(bytes: &[u8]) {
    let path = file("a.evidence", bytes);
    if let Ok(report) = evidence::verify(&path, &PLAN) {
        let is_proven = matches!(report.finding, evidence::Finding::ProvenFault { .. });
        assert!(!is_proven, "nobody signed a wrong reply");
    }
}

fn journal_task() -> Task {
    Task { n_scores: 3, samples_per_batch: 4, description: "part: test\nsamples: 10\n".to_owned() }
}

pub(super) fn honest_journal() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("a.journal");
    let mut journal = Journal::create(&path, journal_task()).expect("a journal");
    let mut files = vec![fs::read(&path).expect("it can be read")];
    for n in [4, 4, 2] {
        let result = BatchResult {
            scores: ScoreMatrix::from_shape_fn((3, n), |(i, j)| (i * 7 + j) as i64 - 4),
            out_of_calibration: vec![false; n],
            verdict: Verdict::Intact { soundness: Soundness::unchecked() },
            tally: Tally { rounds: 2, blocks: 3, ..Tally::default() },
        };
        journal.append(&IntegerMatrix::ones((5, n)), &result).expect("it can be written");
        files.push(fs::read(&path).expect("it can be read"));
    }
    files
}

pub(super) fn decode_journal(bytes: &[u8]) {
    let path = file("a.journal", bytes);
    if let Ok((mut journal, recovered)) = Journal::open(&path, journal_task()) {
        for batch in 0..recovered.batches {
            let kept = journal.read(batch).expect("what was recovered can be read");
            assert!(kept.scores.ncols() <= 4 && kept.scores.nrows() == 3);
        }
    }
}

// ---- imports ------------------------------------------------------------------------------------

pub(super) fn onnx() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nn-poly/tests/fixtures/onnx");
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .expect("the fixtures")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "onnx"))
        .collect();
    files.sort();
    files.iter().map(|path| fs::read(path).expect("a fixture")).collect()
}

pub(super) fn decode_onnx(bytes: &[u8]) {
    let _ = parse_onnx(bytes, None);
}

/// A dense layer of two inputs whose weights are in `FILE`.
const DESCRIPTION: &str = "weights = \"FILE\"\ninput = [2]\n\n[[layers]]\nkind = \"dense\"\n\
                           weights = \"d.w\"\nbias = \"d.b\"\n\n[[layers]]\nkind = \"square\"\n";

fn weights() -> [(&'static str, Vec<usize>, Vec<f32>); 2] {
    [("d.w", vec![3, 2], vec![1.0, -0.5, 0.25, 2.0, 0.0, -1.0]), ("d.b", vec![3], vec![0.5; 3])]
}

fn le_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

pub(super) fn safetensors() -> Vec<Vec<u8>> {
    let (mut header, mut data) = (String::from("{"), Vec::new());
    for (name, shape, values) in weights() {
        let bytes = le_bytes(&values);
        let (start, end) = (data.len(), data.len() + bytes.len());
        let comma = if start == 0 { "" } else { "," };
        header += &format!(
            "{comma}\"{name}\":{{\"dtype\":\"F32\",\"shape\":{shape:?},\"data_offsets\":[{start},{end}]}}"
        );
        data.extend(bytes);
    }
    header.push('}');
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    vec![bytes]
}

fn decode_weights(name: &str, bytes: &[u8]) {
    file(name, bytes);
    let description = file(&format!("{name}.toml"), DESCRIPTION.replace("FILE", name).as_bytes());
    let _ = read_network(&description, &ReadOptions::default());
}

pub(super) fn decode_safetensors(bytes: &[u8]) {
    decode_weights("w.safetensors", bytes);
}

pub(super) fn npz() -> Vec<Vec<u8>> {
    let arrays = weights().map(|(name, shape, values)| {
        (format!("{name}.npy"), npy_bytes("<f4", &shape, &le_bytes(&values)))
    });
    vec![stored_zip(&arrays)]
}

pub(super) fn decode_npz(bytes: &[u8]) {
    decode_weights("w.npz", bytes);
}

pub(super) fn descriptions() -> Vec<Vec<u8>> {
    vec![DESCRIPTION.replace("FILE", "w.safetensors").into_bytes()]
}

pub(super) fn decode_description(bytes: &[u8]) {
    file("w.safetensors", &safetensors()[0]);
    let _ = read_network(&file("d.toml", bytes), &ReadOptions::default());
}

// ---- data ---------------------------------------------------------------------------------------

/// Load a data file in both ways; both accept it or neither, and they agree.
fn load(path: &Path, shape: &Shape) {
    let (spec, options) = (SplitSpec::default(), DataOptions::default());
    let loaded = Dataset::load_with(path, Split::All, &spec, &options);
    let Ok(mut stream) = SampleStream::open(path, Split::All, &spec, &options, shape) else {
        return;
    };
    let loaded = loaded.expect("what can be streamed can be loaded");
    let mut start = 0;
    while let Some(part) = stream.next_features(2).expect("the file did not change") {
        let end = start + part.nrows();
        assert_eq!(part, loaded.features().slice_axis(ndarray::Axis(0), (start..end).into()));
        start = end;
    }
    assert_eq!(start, loaded.n_samples());
}

pub(super) fn idx() -> Vec<Vec<u8>> {
    let words = [0x803_u32, 3, 2, 2].iter().flat_map(|word| word.to_be_bytes());
    vec![words.chain(0..12).collect()]
}

pub(super) fn decode_idx(bytes: &[u8]) {
    let path = file("t-images-idx3-ubyte", bytes);
    load(&path, &Shape::image(2, 2, 1).expect("a shape"));
}

fn npy_bytes(kind: &str, shape: &[usize], data: &[u8]) -> Vec<u8> {
    let shape: String = shape.iter().map(|n| format!("{n},")).collect();
    let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape}), }}");
    let padded = format!("{header:<117}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((padded.len() as u16).to_le_bytes());
    bytes.extend(padded.as_bytes());
    bytes.extend(data);
    bytes
}

pub(super) fn npy() -> Vec<Vec<u8>> {
    vec![
        npy_bytes("<f4", &[3, 2], &le_bytes(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])),
        npy_bytes("|u1", &[3, 2], &[1, 2, 3, 4, 5, 6]),
        npy_bytes("<f8", &[1, 2], &[0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 0, 0, 0, 0, 0, 0, 0, 0x40]),
    ]
}

pub(super) fn decode_npy(bytes: &[u8]) {
    load(&file("features.npy", bytes), &Shape::vector(2).expect("a shape"));
}

pub(super) fn records() -> Vec<Vec<u8>> {
    vec![(0..2 * 3073_u32).map(|i| if i % 3073 == 0 { 1 } else { i as u8 }).collect()]
}

pub(super) fn decode_records(bytes: &[u8]) {
    load(&file("a_test.bin", bytes), &Shape::image(32, 32, 3).expect("a shape"));
}

pub(super) fn csv() -> Vec<Vec<u8>> {
    let named = "x,y,label\n1,2.5,ant\n-3e1,\"4\",bee\n5,6,ant\n";
    // The same as gzip, in one stored piece.
    let mut packed = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255, 1];
    let length = named.len() as u16;
    packed.extend(length.to_le_bytes());
    packed.extend((!length).to_le_bytes());
    packed.extend(named.as_bytes());
    packed.extend(crc32(named.as_bytes()).to_le_bytes());
    packed.extend((named.len() as u32).to_le_bytes());
    vec![named.into(), b"x,y,label\n1,2,0\n3,4,1\n".to_vec(), b"x,y\n1,2\n".to_vec(), packed]
}

pub(super) fn decode_csv(bytes: &[u8]) {
    load(&file("t.csv", bytes), &Shape::vector(2).expect("a shape"));
}

/// A gray image of 2×2 pixels, without compression.
pub(super) fn png() -> Vec<Vec<u8>> {
    let chunk = |kind: &[u8; 4], data: &[u8]| {
        let mut bytes = (data.len() as u32).to_be_bytes().to_vec();
        let body = [kind.as_slice(), data].concat();
        bytes.extend(&body);
        bytes.extend(crc32(&body).to_be_bytes());
        bytes
    };
    // Rows with filter 0, in one stored piece of zlib, and their Adler-32.
    let rows = [0, 10, 20, 0, 30, 40];
    let (a, b) = rows.iter().fold((1_u32, 0_u32), |(a, b), &x: &u8| {
        let a = (a + u32::from(x)) % 65521;
        (a, (b + a) % 65521)
    });
    let mut data = vec![0x78, 1, 1, 6, 0, 0xf9, 0xff];
    data.extend(rows);
    data.extend((b << 16 | a).to_be_bytes());
    let size = [0, 0, 0, 2, 0, 0, 0, 2, 8, 0, 0, 0, 0];
    let parts = [chunk(b"IHDR", &size), chunk(b"IDAT", &data), chunk(b"IEND", &[])];
    vec![[b"\x89PNG\r\n\x1a\n".to_vec(), parts.concat()].concat()]
}

pub(super) fn decode_png(bytes: &[u8]) {
    let path = file("one.png", bytes);
    // A folder with one image in it: this thread's other files are of other kinds.
    let folder = path.with_file_name("images");
    let _ = fs::create_dir(&folder);
    fs::rename(&path, folder.join("one.png")).expect("a file can be moved");
    let shape = Shape::image(2, 2, 1).expect("a shape");
    let (spec, options) = (SplitSpec::default(), DataOptions::default());
    if let Ok(mut stream) = SampleStream::open(&folder, Split::Test, &spec, &options, &shape) {
        let _ = stream.next_features(1);
    }
    let _ = Dataset::load(&folder, Split::Test, &spec);
}

/// CRC-32 as gzip, zip and PNG have it.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

/// An archive of uncompressed files.
fn stored_zip(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in files {
        let offset = bytes.len() as u32;
        let mut common = vec![20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0];
        common.extend(crc32(content).to_le_bytes());
        common.extend((content.len() as u32).to_le_bytes());
        common.extend((content.len() as u32).to_le_bytes());
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0, 0]);
        bytes.extend(b"PK\x03\x04");
        bytes.extend(&common);
        bytes.extend(name.as_bytes());
        bytes.extend(content);
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&common);
        directory.extend([0; 10]);
        directory.extend(offset.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let (start, n) = (bytes.len() as u32, files.len() as u16);
    bytes.extend(&directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend(n.to_le_bytes());
    bytes.extend(n.to_le_bytes());
    bytes.extend((directory.len() as u32).to_le_bytes());
    bytes.extend(start.to_le_bytes());
    bytes.extend([0, 0]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_made_by_hand_are_accepted() {
        file("w.safetensors", &safetensors()[0]);
        file("w.npz", &npz()[0]);
        for name in ["w.safetensors", "w.npz"] {
            let description = file("d.toml", DESCRIPTION.replace("FILE", name).as_bytes());
            read_network(&description, &ReadOptions::default()).expect(name);
        }
        let (all, options) = (Split::All, DataOptions::default());
        let cases: [(&str, Vec<Vec<u8>>); 4] = [
            ("t-images-idx3-ubyte", idx()),
            ("features.npy", npy()),
            ("a_test.bin", records()),
            ("t.csv", csv()),
        ];
        for (name, corpus) in cases {
            for bytes in corpus {
                let path = file(name, &bytes);
                Dataset::load_with(&path, all, &SplitSpec::default(), &options).expect(name);
            }
        }
        decode_png(&png()[0]);
        let folder = file("x", b"").with_file_name("images");
        Dataset::load(&folder, all, &SplitSpec::default()).expect("png");
        for bytes in onnx() {
            parse_onnx(&bytes, None).expect("onnx");
        }
    }
}
