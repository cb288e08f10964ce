//! `SECURITY.md` names the test that holds each promise: the tests exist, and so do the fuzz targets.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use securedl_tests::decoders::decoders;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// Names of all functions in the Rust sources of the workspace, and of the tests in Python.
fn functions() -> BTreeSet<String> {
    let crates = ["he-core", "nn-poly", "fingerprint", "protocol", "cli", "python/tests", "tests"];
    let mut folders: Vec<PathBuf> = crates.iter().map(|name| root().join(name)).collect();
    let mut names = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let keyword = match path.extension().and_then(|ending| ending.to_str()) {
                Some("rs") => "fn ",
                Some("py") => "def ",
                _ => continue,
            };
            let text = fs::read_to_string(&path).expect("UTF-8");
            for line in text.lines() {
                let Some((_, rest)) = line.split_once(keyword) else { continue };
                let name = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next();
                names.extend(name.map(str::to_owned));
            }
        }
    }
    names
}

/// What stands between backticks in a text.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

fn is_test_name(text: &str) -> bool {
    let text = text.trim_end_matches('…');
    text.matches('_').count() >= 3
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

#[test]
fn every_test_that_the_security_page_names_exists() {
    let page = fs::read_to_string(root().join("SECURITY.md")).expect("the page");
    let functions = functions();
    // Figures of reports look like names of tests.
    let figures =
        ["every_slot_change_bits", "one_percent_bits", "one_sample_bits", "reply_word_bits"];
    let names: BTreeSet<&str> =
        quoted(&page).into_iter().filter(|name| is_test_name(name)).collect();
    assert!(names.len() > 60, "only {} tests are named", names.len());
    for name in names.into_iter().filter(|name| !figures.contains(name)) {
        let exists = match name.strip_suffix('…') {
            Some(beginning) => functions.iter().any(|function| function.starts_with(beginning)),
            None => functions.contains(name),
        };
        assert!(exists, "SECURITY.md names `{name}`, which does not exist");
    }
}

#[test]
fn every_file_that_the_security_page_names_exists() {
    let page = fs::read_to_string(root().join("SECURITY.md")).expect("the page");
    let files =
        quoted(&page).into_iter().filter(|name| name.contains('/') && name.ends_with(".rs"));
    let files: BTreeSet<&str> = files.collect();
    assert!(files.len() > 15);
    for file in files {
        assert!(root().join(file).is_file(), "SECURITY.md names `{file}`, which does not exist");
    }
}

#[test]
fn every_row_of_promises_says_what_it_assumes_and_what_holds_it() {
    let page = fs::read_to_string(root().join("SECURITY.md")).expect("the page");
    let (_, after) = page.split_once("## What is promised").expect("the section");
    let table = after.lines().skip_while(|line| !line.starts_with("| Promise"));
    let rows: Vec<&str> = table.skip(2).take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() >= 25, "{} promises", rows.len());
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), 4, "promise, against whom, assumption, what holds it: {row}");
        assert!(cells.iter().all(|cell| !cell.is_empty()), "{row}");
    }
}

/// The leakage table says of every row what each setting shows, and which test holds it, or that none does.
#[test]
fn every_row_of_the_leakage_table_names_what_holds_it() {
    let page = fs::read_to_string(root().join("SECURITY.md")).expect("the page");
    let table = page.lines().skip_while(|line| !line.starts_with("| Who learns what"));
    let rows: Vec<&str> = table.skip(2).take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() >= 15, "{} rows", rows.len());
    for party in ["client", "server", "owner", "network", "other clients", "readers of files"] {
        let start = format!("| **{party}");
        assert!(rows.iter().any(|row| row.starts_with(&start)), "nothing is said of the {party}");
    }
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), 5, "who, three settings, what holds it: {row}");
        assert!(cells.iter().all(|cell| !cell.is_empty()), "{row}");
        let held = cells[4];
        let is_tested = quoted(held).into_iter().any(is_test_name);
        let is_marked = ["*assumption*", "by construction", "– ("].iter().any(|m| held.contains(m));
        assert!(is_tested || is_marked, "neither a test nor an assumption: {row}");
    }
}

#[test]
fn every_decoder_has_its_fuzz_target() {
    let folder = root().join("fuzz/fuzz_targets");
    let targets: BTreeSet<String> = fs::read_dir(&folder)
        .expect("the targets")
        .map(|entry| entry.expect("an entry").path())
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    let manifest = fs::read_to_string(root().join("fuzz/Cargo.toml")).expect("the manifest");
    let names: BTreeSet<String> =
        decoders().iter().map(|decoder| decoder.name.to_owned()).collect();
    assert_eq!(targets, names);
    for name in &names {
        let text = fs::read_to_string(folder.join(format!("{name}.rs"))).expect("a target");
        assert!(text.contains(&format!("run(\"{name}\", ")), "{name}: {text}");
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is no binary");
    }
}
