//! The exact bytes of plans, requests and replies, under every kernel set.
//!
//! A difference here is a new format version and an entry in the change log. `vectors/README.md` says
//! what the files hold and how to make them anew.

use std::collections::BTreeMap;
use std::path::PathBuf;

use nn_poly::integer::IntegerMatrix;
use nn_poly::plan::{ActivationSide, Packing, Plan, PublicPlan};
use protocol::session::ClientPlan;
use securedl_tests::batch::{answer, seeded_session};
use securedl_tests::loopback::shelf;
use securedl_tests::models::{TinyModel, session_options};
use serde_json::{Value, json};

use crate::kernels::passes_under_all;

/// Samples of the golden batch.
const N_SAMPLES: usize = 33;
/// Seed of the golden session's generator.
const SEED: u64 = 0x601D;

/// The golden plans.
const NAMES: [&str; 6] = ["slots", "coefficients", "packed", "tables", "chain", "relinearized"];

/// How a golden plan was compiled, once.
fn compiled(name: &str) -> Plan {
    let (model, side, expected_samples) = match name {
        "slots" => (TinyModel::dense_quadratic(), ActivationSide::Server, 100),
        "coefficients" => (TinyModel::conv_pool_square(), ActivationSide::Client, 100),
        "packed" => (TinyModel::conv_relu(), ActivationSide::Client, 8192),
        "tables" => (TinyModel::conv_table_maxima(), ActivationSide::Client, 100),
        "chain" => return securedl_tests::chains::plan(),
        _ => return securedl_tests::chains::relinearized_plan(),
    };
    model.plan(side, expected_samples)
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors")
}

fn plan_file(name: &str) -> PathBuf {
    folder().join(format!("{name}_v5.plan"))
}

fn table_file() -> PathBuf {
    folder().join("golden_wire_v3.json")
}

/// Samples by a formula, so that no generator's version matters.
fn formula(plan: &Plan, n: usize) -> IntegerMatrix {
    let n_values = plan.public().input.max() as usize + 1;
    let shape = (plan.network().n_inputs(), n);
    IntegerMatrix::from_shape_fn(shape, |(row, column)| {
        ((row * 7 + column * column * 3 + row * column) % n_values) as i32
    })
}

fn digest(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// Everything that is fixed about one plan: its encodings, and for its first segment the request of
/// the first block and the honest reply.
fn observe(plan: &Plan) -> Value {
    let options = session_options(3, 1);
    let owner = ClientPlan::new(plan.clone(), options, &formula(plan, 3)).unwrap();
    let session = seeded_session(&owner, &formula(plan, N_SAMPLES), SEED).unwrap();
    let block = session.prepare(0).unwrap();
    let header = block.request().header();
    let payload = block.request().payload().to_bytes().unwrap();
    let reply = answer(&*shelf(plan), block.request());
    let public = plan.public().to_bytes().unwrap();
    assert_eq!(PublicPlan::from_bytes(&public).unwrap(), *plan.public());
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    json!({
        "packing": plan.public().segments[0].packing.to_string(),
        "plan_file": digest(&plan.to_bytes().unwrap()),
        "public_part": digest(&public),
        "public_digest": plan.public_digest().to_string(),
        "private_digest": plan.private_digest().to_string(),
        "plan_digest": plan.digest().to_string(),
        "request_id": hex(&header.request_id.0),
        "request_seed": hex(&header.seed),
        "request_bytes": payload.len(),
        "request_payload": digest(&payload),
        "request_hash": block.request().hash().unwrap().to_string(),
        "reply_bytes": reply.len(),
        "reply_payload": digest(&reply),
    })
}

#[test]
fn plans_requests_and_replies_are_the_golden_bytes() {
    let text = std::fs::read_to_string(table_file()).unwrap();
    let golden: BTreeMap<String, Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(golden.len(), NAMES.len());
    let mut packings = Vec::new();
    for name in NAMES {
        let file = std::fs::read(plan_file(name)).unwrap();
        let plan = Plan::from_bytes(&file).unwrap();
        assert_eq!(plan.to_bytes().unwrap(), file, "{name}: the encoding is canonical");
        assert_eq!(observe(&plan), golden[name], "{name}");
        packings.push(plan.public().segments[0].packing);
    }
    assert!(packings.contains(&Packing::Slots));
    for packed in [false, true] {
        assert!(packings.iter().any(|packing| matches!(
            packing,
            Packing::Coefficients { samples_per_coefficient: k, .. } if (*k > 1) == packed
        )));
    }
}

#[test]
fn every_kernel_set_of_this_machine_gives_the_golden_bytes() {
    passes_under_all("golden_wire::plans_requests_and_replies_are_the_golden_bytes");
}

/// A plan compiled long ago computes today what its definition says.
#[test]
fn golden_plans_still_compute_what_they_computed() {
    for name in NAMES {
        let plan = Plan::load(&plan_file(name)).unwrap();
        let inputs = formula(&plan, 20);
        let scores = plan.simulate(&inputs).unwrap().scores;
        assert_eq!(scores, securedl_tests::oracle::scores(&plan, &inputs), "{name}");
    }
}

#[test]
#[ignore = "rewrites the golden files: only for a new format version"]
fn regenerate() {
    let mut table = BTreeMap::new();
    for name in NAMES {
        let plan = compiled(name);
        std::fs::write(plan_file(name), plan.to_bytes().unwrap()).unwrap();
        table.insert(name, observe(&plan));
    }
    let mut text = serde_json::to_string_pretty(&table).unwrap();
    text.push('\n');
    std::fs::write(table_file(), text).unwrap();
}
