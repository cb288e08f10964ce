//! Fingerprints of plans: as canaries of encrypted batches, and against encrypted servers.

use std::sync::Arc;

use fingerprint::endpoint::{Endpoint as _, EndpointError, IntegerEndpoint};
use fingerprint::{
    AuditError, AuditOutcome, ComparisonRule, Error, Fingerprint, Repetition, Verdict, audit,
};
use ndarray::Axis;
use nn_poly::integer::IntegerMatrix;
use nn_poly::plan::{ActivationSide, Plan};
use protocol::client::Endpoint;
use protocol::endpoint::EncryptedEndpoint;
use protocol::server::service::PlanHost;
use protocol::session::{ClientPlan, SessionError};
use rand::SeedableRng;
use rand::rngs::StdRng;
use securedl_tests::batch::{self, Outcome};
use securedl_tests::dishonest::{Cheat, DishonestHost, Victims};
use securedl_tests::fingerprints::fingerprint_of;
use securedl_tests::loopback::{impatient, server, shelf};
use securedl_tests::models::{TinyModel, samples, session_options};

use crate::kernels::passes_under_all;

/// A fingerprint of random samples.
fn fingerprint(plan: &Plan, n: usize, seed: u64) -> Fingerprint {
    fingerprint_of(plan, &samples(plan, n, seed), seed)
}

/// Canaries read from a file are those an evaluation of the network would give.
#[test]
fn stored_integers_are_those_of_the_network_at_every_segment() {
    for model in TinyModel::zoo() {
        for side in [ActivationSide::Server, ActivationSide::Client] {
            if !model.suits(side) {
                continue;
            }
            let plan = model.plan(side, 40);
            let fingerprint = fingerprint(&plan, 5, 9);
            let inputs = samples(&plan, 5, 9);
            assert_eq!(fingerprint.plan_inputs(&plan).unwrap(), inputs);
            let positions = [3, 0, 3];
            let canaries = fingerprint.canaries(&plan, &positions).unwrap();
            let trace = plan.simulate_trace(&inputs).unwrap();
            for (index, segment) in plan.public().segments.iter().enumerate() {
                let stage = segment.stage as usize;
                let arriving =
                    plan.network().gather_inputs(stage, &inputs, &trace.refreshed).unwrap();
                let leaving = plan.evaluate_segment(index, &arriving).unwrap();
                for (neuron, row) in arriving.rows().into_iter().enumerate() {
                    let expected: Vec<i64> = positions.iter().map(|&p| row[p].into()).collect();
                    assert_eq!(canaries.inputs(index, neuron).unwrap(), expected, "{}", model.name);
                }
                for (neuron, row) in leaving.rows().into_iter().enumerate() {
                    let expected: Vec<i64> = positions.iter().map(|&p| row[p]).collect();
                    assert_eq!(
                        canaries.outputs(index, neuron).unwrap(),
                        expected,
                        "{}",
                        model.name
                    );
                }
            }
        }
    }
}

fn client_plan(plan: &Plan, fingerprint: &Fingerprint) -> Result<Arc<ClientPlan>, SessionError> {
    let mut rng = StdRng::seed_from_u64(1);
    ClientPlan::with_fingerprint(plan.clone(), session_options(4, 1), fingerprint, &mut rng)
}

fn run(plan: &Plan, fingerprint: &Fingerprint, host: Arc<dyn PlanHost>) -> Outcome {
    let client = client_plan(plan, fingerprint).unwrap();
    batch::run_batch(&client, &samples(plan, 6, 2), host, 3).unwrap()
}

#[test]
fn a_batch_with_a_fingerprint_is_intact_on_an_honest_server_and_exact() {
    for n in [1, 4, 9] {
        let plan = TinyModel::conv_pool_square().plan(ActivationSide::Server, 40);
        let fingerprint = fingerprint(&plan, n, 5);
        match run(&plan, &fingerprint, shelf(&plan)) {
            Outcome::Verified(result) => {
                let expected = plan.simulate(&samples(&plan, 6, 2)).unwrap().scores;
                assert_eq!(result.scores, expected);
                assert!(result.verdict.is_intact());
            }
            Outcome::Rejected { verdict, .. } => panic!("{n}: {verdict}"),
        }
    }
}

#[test]
fn a_weight_off_by_one_is_caught_by_stored_integers() {
    let plan = TinyModel::conv_pool_square().plan(ActivationSide::Server, 40);
    let fingerprint = fingerprint(&plan, 4, 5);
    for segment in 0..plan.public().segments.len() {
        let cheat = Cheat::Weight { index: 0, by: 1 };
        let host = DishonestHost::new(&plan, segment, cheat, Victims::All);
        match run(&plan, &fingerprint, host) {
            Outcome::Rejected {
                verdict: Verdict::ModelModified { segment: found, .. }, ..
            } => {
                assert_eq!(found as usize, segment);
            }
            Outcome::Rejected { verdict, .. } => panic!("{segment}: {verdict}"),
            Outcome::Verified(_) => panic!("segment {segment}: not noticed"),
        }
    }
}

#[test]
fn a_fingerprint_of_another_plan_is_refused() {
    let model = TinyModel::conv_pool_square();
    let plan = model.plan(ActivationSide::Server, 40);
    let other = model.with_seed(77).plan(ActivationSide::Server, 40);
    let fingerprint = fingerprint(&other, 4, 5);
    let error = client_plan(&plan, &fingerprint).unwrap_err();
    let is_foreign =
        matches!(error, SessionError::Fingerprint(Error::ForeignFingerprint { what: "plan", .. }));
    assert!(is_foreign, "{error}");
    assert!(fingerprint.check_plan(&other).is_ok());
}

fn encrypted(plan: &Plan, fingerprint: &Fingerprint, host: Arc<dyn PlanHost>) -> EncryptedEndpoint {
    let client = client_plan(plan, fingerprint).unwrap();
    EncryptedEndpoint::new(client, vec![Endpoint::in_process(server(host))], impatient()).unwrap()
}

#[test]
fn an_encrypted_server_answers_like_the_exact_network() {
    for side in [ActivationSide::Server, ActivationSide::Client] {
        let plan = TinyModel::conv_pool_square().plan(side, 40);
        let fingerprint = fingerprint(&plan, 5, 5);
        let mut remote = encrypted(&plan, &fingerprint, shelf(&plan));
        let mut local = IntegerEndpoint::new(plan.network()).unwrap();
        let inputs = fingerprint.inputs();
        assert_eq!(remote.query(&inputs).unwrap(), local.query(&inputs).unwrap());
        assert!(remote.verdict().is_some_and(Verdict::is_intact));
        let audit = audit(&mut remote, &fingerprint, None, Repetition::Once).unwrap();
        assert_eq!(audit.outcome, AuditOutcome::Same);
    }
}

/// Of many random samples those whose two largest scores are closest, ties first.
fn narrow_samples(plan: &Plan, n: usize) -> (IntegerMatrix, i64) {
    let many = samples(plan, 3000, 8);
    let scores = plan.simulate(&many).unwrap().scores;
    let margin = |column: usize| {
        let mut column = scores.column(column).to_vec();
        column.sort_unstable();
        column.iter().rev().take(2).copied().reduce(|first, second| first - second).unwrap()
    };
    let mut order: Vec<usize> = (0..many.ncols()).collect();
    order.sort_by_key(|&column| margin(column));
    order.truncate(n);
    (many.select(Axis(1), &order), margin(order[0]))
}

/// Samples an honest server must not be accused with: the ones that any other arithmetic would flip.
#[test]
fn an_honest_exact_endpoint_never_differs() {
    let mut narrowest = i64::MAX;
    for model in TinyModel::zoo() {
        for side in [ActivationSide::Server, ActivationSide::Client] {
            if !model.suits(side) {
                continue;
            }
            let plan = model.plan(side, 40);
            let (inputs, margin) = narrow_samples(&plan, 12);
            narrowest = narrowest.min(margin);
            let fingerprint = fingerprint_of(&plan, &inputs, 8);
            let mut remote = encrypted(&plan, &fingerprint, shelf(&plan));
            let mut local = IntegerEndpoint::new(plan.network()).unwrap();
            let answers = remote.query(&fingerprint.inputs()).unwrap();
            assert!(remote.verdict().is_some_and(Verdict::is_intact));
            assert_eq!(answers, local.query(&fingerprint.inputs()).unwrap(), "{}", model.name);
            for rule in ["top-1", "top-2", "exact"] {
                let rule: ComparisonRule = rule.parse().unwrap();
                let differs = rule.differs(&fingerprint.reference(), &answers).unwrap();
                assert_eq!(differs, [false; 12], "{}, {rule}", model.name);
            }
            let audit = audit(&mut remote, &fingerprint, None, Repetition::Twice).unwrap();
            assert_eq!(audit.outcome, AuditOutcome::Same, "{}", model.name);
        }
    }
    assert_eq!(narrowest, 0, "an exact tie is among the samples");
}

#[test]
fn an_honest_exact_endpoint_never_differs_under_any_kernel_set() {
    passes_under_all("fingerprint::an_honest_exact_endpoint_never_differs");
}

#[test]
fn a_modified_encrypted_server_is_rejected_before_it_answers() {
    for side in [ActivationSide::Server, ActivationSide::Client] {
        let plan = TinyModel::conv_pool_square().plan(side, 40);
        let fingerprint = fingerprint(&plan, 5, 5);
        let cheat = Cheat::Weight { index: 0, by: 1 };
        let host = DishonestHost::new(&plan, 0, cheat, Victims::All);
        let mut remote = encrypted(&plan, &fingerprint, host);
        let error = audit(&mut remote, &fingerprint, None, Repetition::Once).unwrap_err();
        let AuditError::Endpoint(EndpointError::Rejected { verdict }) = error else {
            panic!("{error}")
        };
        assert_eq!(verdict.exit_code(), 1);
    }
}
