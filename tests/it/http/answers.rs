//! Services that answer rounded probabilities, or in another way than described.

use fingerprint::ComparisonRule;
use fingerprint::endpoint::{Answers, ScoreKind};
use fingerprint::fingerprint::sift_for_model;
use nn_poly::layer::Layer;

use super::*;

/// The model with scores so close that classes tie in two decimals, everywhere.
fn close_model() -> Model {
    let mut spec = model(1).spec().clone();
    let mut layers = spec.network.clone().into_layers();
    let Some(Layer::Dense(last)) = layers.last_mut() else { panic!("a dense layer") };
    last.weights.mapv_inplace(|weight| 1e-3 * weight);
    last.bias.assign(&ndarray::array![0.0, 1e-3, 2e-3, 3e-3]);
    spec.network = Network::new(spec.network.input_shape().clone(), layers).unwrap();
    Model::new(spec).unwrap()
}

/// A fingerprint of random samples that keep the margin.
fn steady_fingerprint(model: &Model) -> Fingerprint {
    let bag = bag_of(&fingerprint(model));
    let bag = sift_for_model(&model.spec().network, &bag, &InputGrid::bytes(), 1e-5).unwrap().bag;
    of_bag(model, &bag, None)
}

/// A service that gives probabilities of preprocessed inputs, rounded to so many decimals.
fn rounding_service(
    network: Network<f32>,
    decimals: i32,
) -> impl Fn(&HttpRequest) -> HttpReply + Send + Sync + 'static {
    let per_unit = 10_f64.powi(decimals);
    move |request| {
        let values = network.scores(&request.rows("inputs")).unwrap();
        let answers = Answers::Scores { values, kind: ScoreKind::Logits };
        let rounded = answers.probabilities().unwrap().mapv(|p| (p * per_unit).round() / per_unit);
        HttpReply::rows("outputs", &rounded)
    }
}

#[test]
fn a_service_that_rounds_its_probabilities_is_not_accused() {
    let honest = close_model();
    let fingerprint = steady_fingerprint(&honest);
    let n = fingerprint.n_samples();
    assert_eq!(n, N_SAMPLES);
    let mut layers = honest.spec().network.clone().into_layers();
    let Some(Layer::Dense(last)) = layers.last_mut() else { panic!("a dense layer") };
    last.bias[0] += 4.0;
    let flat = honest.spec().network.input_shape().clone();
    let modified = Network::new(flat, layers).unwrap();
    for decimals in [1, 2, 4, 12] {
        let ask = |network: &Network<f32>, rule: Option<ComparisonRule>| {
            let server = HttpServer::start(rounding_service(network.clone(), decimals));
            let mut spec = spec(server.url("/"));
            spec.answers = AnswerForm::Probabilities;
            spec.units = InputUnits::Preprocessed;
            let mut endpoint = endpoint(spec, &fingerprint);
            audit(&mut endpoint, &fingerprint, rule, Repetition::Twice).unwrap()
        };
        let found = ask(&honest.spec().network, None);
        let expected = if found.n_tied == n { AuditOutcome::Undecided } else { AuditOutcome::Same };
        assert_eq!(found.outcome, expected, "{decimals} decimals");
        assert_eq!(found.n_tied == n, decimals <= 2, "{decimals} decimals");
        // What the audit advises does not accuse it either.
        let advised = ComparisonRule::strictest_for(&found.answers);
        let again = ask(&honest.spec().network, Some(advised)).outcome;
        assert_eq!(again, AuditOutcome::Same, "{decimals} decimals, {advised}");
        for rule in [None, Some(advised)] {
            let outcome = ask(&modified, rule).outcome;
            assert!(matches!(outcome, AuditOutcome::Different { .. }), "{decimals}: {outcome:?}");
        }
    }
}

/// A service that is asked in another way than it expects gets natural samples wrong, too.
#[test]
fn a_wrong_description_is_no_verdict() {
    let honest = model(1);
    let network = honest.spec().network.clone();
    let natural = fingerprint(&honest).inputs().mapv(|x| 1.0 - x);
    let fingerprint = of_bag(&honest, &bag_of(&fingerprint(&honest)), Some(&natural));
    let shifted = move |by: usize| {
        let network = network.clone();
        HttpServer::start(move |request| {
            let classes = predictions(&scores(&network, request));
            let labels: Vec<usize> = classes.into_iter().map(|class| (class + by) % 5).collect();
            HttpReply::ok(json!({"outputs": labels}).to_string())
        })
    };
    let ask = |server: &HttpServer, first_label: u32| {
        let mut spec = spec(server.url("/"));
        (spec.answers, spec.first_label) = (AnswerForm::Labels, first_label);
        run(spec, &fingerprint)
    };
    assert_eq!(ask(&shifted(0), 0).unwrap(), AuditOutcome::Same);
    let counts_from_one = shifted(1);
    assert_eq!(ask(&counts_from_one, 1).unwrap(), AuditOutcome::Same);
    match ask(&counts_from_one, 0) {
        Ok(outcome) => {
            assert!(matches!(outcome, AuditOutcome::DoesNotFit { .. }), "{outcome:?}");
            assert_eq!(outcome.exit_code(), 2);
        }
        // The last class has no number that counts from 0.
        Err(error) => assert!(error.to_string().contains("counted from 0"), "{error}"),
    }
    let permuted = honest.spec().network.clone();
    let server = HttpServer::start(move |request| {
        let classes = predictions(&scores(&permuted, request));
        let labels: Vec<usize> = classes.into_iter().map(|class| 3 - class).collect();
        HttpReply::ok(json!({"outputs": labels}).to_string())
    });
    let expected = AuditOutcome::DoesNotFit { n_disagreeing: N_SAMPLES, n_originals: N_SAMPLES };
    assert_eq!(ask(&server, 0).unwrap(), expected);
}
