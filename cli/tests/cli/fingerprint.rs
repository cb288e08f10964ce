//! Fingerprints as people use them: made, shown, checked against services and servers.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nn_poly::layer::Layer;
use nn_poly::model::Model;
use nn_poly::plan::Plan;
use nn_poly::{Network, Predictor};
use securedl_tests::http::{HttpReply, HttpRequest, HttpServer};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::cheating::{serve, tampered};
use super::fixture::{Served, fixture, folder, run, securedl, succeed, text, wait};

/// One fingerprint of the model and one of the plan with squares.
pub(crate) struct Made {
    pub(crate) model: PathBuf,
    pub(crate) plan: PathBuf,
}

pub(crate) fn made() -> &'static Made {
    static MADE: OnceLock<Made> = OnceLock::new();
    MADE.get_or_init(|| {
        let fixture = fixture();
        let folder = folder("fingerprints");
        let made = Made { model: folder.join("model.fp"), plan: folder.join("plan.fp") };
        let data = ["--data", text(&fixture.data), "--bag", "12", "--count", "5"];
        let of_model =
            ["fingerprint", "generate", text(&fixture.model), "--out", text(&made.model)];
        succeed(&[&of_model[..], &data].concat());
        let of_plan = [
            "fingerprint",
            "generate",
            text(&fixture.squares),
            "--model",
            text(&fixture.model),
            "--out",
            text(&made.plan),
        ];
        succeed(&[&of_plan[..], &data].concat());
        made
    })
}

/// A copy that a test may count uses in.
pub(crate) fn copy(path: &Path, folder: &Path) -> PathBuf {
    let copy = folder.join("copy.fp");
    fs::copy(path, &copy).unwrap();
    copy
}

/// A service that answers logits of `network` to preprocessed inputs.
pub(crate) fn service(
    network: Network<f32>,
) -> impl Fn(&HttpRequest) -> HttpReply + Send + Sync + 'static {
    move |request| HttpReply::rows("y", &network.scores(&request.rows("x")).unwrap())
}

/// The network with one bias of the last layer moved.
fn modified(network: &Network<f32>) -> Network<f32> {
    let mut layers = network.clone().into_layers();
    for layer in layers.iter_mut().rev() {
        if let Layer::Dense(dense) = layer {
            dense.bias[0] += 1.0;
            break;
        }
    }
    Network::new(network.input_shape().clone(), layers).unwrap()
}

pub(crate) fn verify<'a>(url: &'a str, fingerprint: &'a Path) -> Vec<&'a str> {
    let mut arguments = vec!["verify", "--endpoint", url, "--fingerprint", text(fingerprint)];
    arguments.extend(["--request", r#"{"x": "{{inputs}}"}"#, "--response", "/y"]);
    arguments.extend(["--answers", "logits", "--units", "preprocessed"]);
    arguments
}

#[test]
fn a_service_is_told_apart_from_a_modified_one_and_uses_are_counted() {
    let folder = folder("verify-http");
    let fingerprint = copy(&made().model, &folder);
    let honest = Model::load(&fixture().model).unwrap().network().clone();
    let other = modified(&honest);
    let report = folder.join("report.json");
    for (network, code, outcome) in [(honest, 0, "same"), (other, 1, "different")] {
        let server = HttpServer::start(service(network));
        let url = server.url("/");
        let mut arguments = verify(&url, &fingerprint);
        arguments.extend(["--rule", "tolerance-1e-4", "--json", text(&report)]);
        let finished = run(&arguments);
        assert_eq!(finished.code, Some(code), "{}\n{}", finished.stdout, finished.stderr);
        let report: Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
        assert_eq!(report["outcome"], outcome);
        assert_eq!(report["uses_in_clear"], u64::from(code == 1) + 1);
    }
    let shown = succeed(&["fingerprint", "show", text(&fingerprint)]).stdout;
    assert!(shown.contains("2: endpoints may know the samples"), "{shown}");
}

#[test]
fn an_unsteady_service_is_no_verdict_and_trouble_is_an_error() {
    let folder = folder("verify-trouble");
    let fingerprint = copy(&made().model, &folder);
    let honest = Model::load(&fixture().model).unwrap().network().clone();
    let (first, second) = (service(honest.clone()), service(modified(&honest)));
    let server = HttpServer::start(move |request| {
        if request.number.is_multiple_of(2) { first(request) } else { second(request) }
    });
    let url = server.url("/");
    let mut arguments = verify(&url, &fingerprint);
    arguments.extend(["--rule", "tolerance-1e-5"]);
    let finished = run(&arguments);
    assert_eq!(finished.code, Some(2), "{}", finished.stdout);
    assert!(finished.stdout.contains("not a sign of tampering"), "{}", finished.stdout);

    let down = {
        let server = HttpServer::start(|_| HttpReply::ok(""));
        server.url("/")
    };
    let babbling = HttpServer::start(|_| HttpReply::ok(r#"{"y": "busy"}"#));
    let babble = babbling.url("/");
    for (url, extra, expected) in [
        (&down, &[][..], "cannot be reached"),
        (&babble, &[], "no list at `/y`"),
        (&url, &["--answers", "labels"], "none of the 3 classes"),
        (&url, &["--response", "/z"], "nothing at `/z`"),
        (&url, &["--request", "{}"], "placeholder"),
        (&url, &["--header", "nonsense"], "Name: value"),
        (&url, &["--rule", "top-9"], "top-9"),
        (&url, &["--rule", "exact"], "finer than the arithmetic of a float model"),
        (&url, &["--rule", "decimals-5"], "finer than the arithmetic of a float model"),
        (&url, &["--layout", "chw"], "channels first is for images"),
        (&url, &["--first-label", "2"], "first-label"),
        (&url, &["--proxy", "socks"], "the proxy's address"),
    ] {
        let mut arguments = verify(url, &fingerprint);
        // A flag given twice is refused by the parser: the case's own replaces the usual one.
        if let Some(usual) = arguments.iter().position(|argument| extra.first() == Some(argument)) {
            arguments.drain(usual..usual + 2);
        }
        arguments.extend(extra);
        let finished = run(&arguments);
        assert_eq!(finished.code, Some(2), "{extra:?}: {}", finished.stdout);
        assert!(finished.stderr.contains(expected), "{extra:?}: {}", finished.stderr);
    }
}

/// As a service whose classes are in another order.
#[test]
fn a_description_that_does_not_fit_is_no_verdict() {
    let folder = folder("verify-fit");
    let fingerprint = copy(&made().model, &folder);
    let honest = service(Model::load(&fixture().model).unwrap().network().clone());
    let server = HttpServer::start(move |request| {
        let reply: Value = serde_json::from_slice(&honest(request).body).unwrap();
        let rows = reply["y"].as_array().unwrap().iter();
        let rotated: Vec<Value> = rows.map(|row| json!([row[2], row[0], row[1]])).collect();
        HttpReply::ok(json!({ "y": rotated }).to_string())
    });
    let (url, report) = (server.url("/"), folder.join("report.json"));
    let finished = run(&[&verify(&url, &fingerprint)[..], &["--json", text(&report)]].concat());
    assert_eq!(finished.code, Some(2), "{}\n{}", finished.stdout, finished.stderr);
    for expected in ["does not fit", "--first-label", "--units", "--layout"] {
        assert!(finished.stdout.contains(expected), "`{expected}` in {}", finished.stdout);
    }
    let report: Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    assert_eq!(report["outcome"], "does-not-fit");
    assert_eq!(report["control"]["n_asked"], 5);
    assert!(report["control"]["n_disagreeing"].as_u64().unwrap() >= 3);
}

#[test]
fn proxies_of_the_environment_are_not_used_and_named_ones_are() {
    let folder = folder("verify-proxy");
    let fingerprint = copy(&made().model, &folder);
    let honest = Model::load(&fixture().model).unwrap().network().clone();
    let server = HttpServer::start(service(honest));
    let proxy = HttpServer::start(|_| HttpReply::status(403, "no"));
    let (url, proxy_url) = (server.url("/"), proxy.url(""));
    let base = [&verify(&url, &fingerprint)[..], &["--rule", "tolerance-1e-4"]].concat();
    let with_environment = |arguments: &[&str]| {
        let mut command = securedl(arguments);
        for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
            command.env(name, &proxy_url);
        }
        wait(command.env_remove("NO_PROXY").env_remove("no_proxy").spawn().unwrap())
    };
    let finished = with_environment(&base);
    assert_eq!(finished.code, Some(0), "{}\n{}", finished.stdout, finished.stderr);
    assert!(proxy.requests().is_empty());
    let finished = with_environment(&[&base[..], &["--proxy", &proxy_url]].concat());
    assert_eq!(finished.code, Some(2), "{}", finished.stdout);
    assert!(proxy.requests()[0].target.starts_with("CONNECT "));
}

#[test]
fn credentials_stay_off_the_screen_and_off_plain_http() {
    let folder = folder("verify-credentials");
    let fingerprint = copy(&made().model, &folder);
    let honest = Model::load(&fixture().model).unwrap().network().clone();
    let server = HttpServer::start(service(honest));
    let (url, report) = (server.url("/?token=S3CRET&v=1"), folder.join("report.json"));
    let base = ["--rule", "tolerance-1e-4", "--header", "Authorization: S3CRET"];
    let finished =
        succeed(&[&verify(&url, &fingerprint)[..], &base, &["--json", text(&report)]].concat());
    let report = fs::read_to_string(&report).unwrap();
    for said in [&finished.stdout, &finished.stderr, &report] {
        assert!(!said.contains("S3CRET"), "{said}");
    }
    assert!(report.contains("token=…&v=…"), "{report}");
    assert!(server.requests()[0].target.contains("token=S3CRET"), "but it is sent");

    // Names that no server has: nothing leaves this machine.
    for (url, extra, expected) in [
        ("https://me:S3CRET@host.invalid/", &[][..], "--header @FILE"),
        ("http://host.invalid/", &base[2..], "--insecure-headers-over-http"),
        ("http://host.invalid/", &[], "cannot be reached"),
    ] {
        let finished = run(&[&verify(url, &fingerprint)[..], extra].concat());
        assert_eq!(finished.code, Some(2), "{}", finished.stdout);
        assert!(finished.stderr.contains(expected), "`{expected}` in {}", finished.stderr);
        assert!(!finished.stdout.contains("S3CRET") && !finished.stderr.contains("S3CRET"));
        let warns = finished.stdout.contains("everybody on the way reads the samples");
        assert_eq!(warns, url.starts_with("http:"), "{}", finished.stdout);
    }
}

#[test]
fn every_optimizer_can_be_chosen_where_there_is_something_to_climb() {
    let fixture = fixture();
    let folder = folder("fingerprint-optimizer");
    let make = |generator: &str, optimizer: &str| {
        let out = folder.join(format!("{generator}-{optimizer}.fp"));
        let base = ["fingerprint", "generate", text(&fixture.model), "--data", text(&fixture.data)];
        let sizes = ["--bag", "6", "--count", "2", "--generator", generator];
        let chosen = ["--optimizer", optimizer, "--out", text(&out)];
        let finished = run(&[&base[..], &sizes, &chosen].concat());
        (finished, fs::read(out).ok())
    };
    let mut files = Vec::new();
    for optimizer in ["adam", "projected-gradient", "l-bfgs"] {
        let (finished, file) = make("boundary-entropy", optimizer);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        assert!(finished.stdout.contains("Left out"), "{}", finished.stdout);
        files.extend(file);
    }
    files.dedup();
    assert_eq!(files.len(), 3, "each goes its own way");
    for (generator, optimizer, expected) in [
        ("tie", "adam", "an optimizer is for"),
        ("ssf", "newton", "adam, projected-gradient or l-bfgs"),
    ] {
        let finished = make(generator, optimizer).0;
        assert_eq!(finished.code, Some(2));
        assert!(finished.stderr.contains(expected), "{}", finished.stderr);
    }
}

#[test]
fn files_of_the_first_version_are_refused_with_advice() {
    let folder = folder("fingerprint-version");
    let file = copy(&made().model, &folder);
    let mut bytes = fs::read(&file).unwrap();
    bytes[8] = 1;
    fs::write(&file, bytes).unwrap();
    let finished = run(&["fingerprint", "show", text(&file)]);
    assert_eq!(finished.code, Some(2));
    assert!(finished.stderr.contains("format version 1"), "{}", finished.stderr);
    assert!(finished.stderr.contains("make it again"), "{}", finished.stderr);
}

#[test]
fn plans_without_canaries_say_that_a_fingerprint_adds_nothing() {
    let (fixture, folder) = (fixture(), folder("fingerprint-linear"));
    let out = folder.join("linear.fp");
    let make = ["fingerprint", "generate", text(&fixture.linear), "--model", text(&fixture.model)];
    let data = ["--data", text(&fixture.data), "--bag", "4", "--count", "2", "--out", text(&out)];
    succeed(&[&make[..], &data].concat());
    let infer = ["infer", "--plan", text(&fixture.linear), "--data", text(&fixture.data)];
    let finished = succeed(&[&infer[..], &["--local", "--fingerprint", text(&out)]].concat());
    assert!(finished.stdout.contains("the fingerprint adds nothing"), "{}", finished.stdout);
}

#[test]
fn an_encrypted_server_is_checked_down_to_one_weight() {
    let (fixture, made) = (fixture(), made());
    let verify = |address: &str| {
        run(&[
            "verify",
            "--server",
            address,
            "--tls",
            text(&fixture.tls),
            "--plan",
            text(&fixture.squares),
            "--fingerprint",
            text(&made.plan),
        ])
    };
    let honest = Served::start(&fixture.plans, &fixture.tls, "127.0.0.1:0");
    let finished = verify(&honest.address);
    assert_eq!(finished.code, Some(0), "{}\n{}", finished.stdout, finished.stderr);
    assert!(finished.stdout.contains("Same model"), "{}", finished.stdout);

    let runtime = Runtime::new().unwrap();
    let plan = Plan::load(&fixture.squares).unwrap();
    let cheat = serve(&runtime, &plan, &tampered(&plan), &fixture.tls).to_string();
    let finished = verify(&cheat);
    assert_eq!(finished.code, Some(1), "{}\n{}", finished.stdout, finished.stderr);
}

#[test]
fn a_fingerprint_rides_in_ordinary_batches() {
    let (fixture, made) = (fixture(), made());
    let base =
        ["infer", "--plan", text(&fixture.squares), "--data", text(&fixture.data), "--local"];
    let finished = succeed(&[&base[..], &["--fingerprint", text(&made.plan)]].concat());
    assert!(finished.stdout.contains("every score equals"), "{}", finished.stdout);
    for (fingerprint, expected) in
        [(&made.model, "not of this plan"), (&fixture.model, "is a model, not a fingerprint")]
    {
        let finished = run(&[&base[..], &["--fingerprint", text(fingerprint)]].concat());
        assert_eq!(finished.code, Some(2));
        assert!(finished.stderr.contains(expected), "{}", finished.stderr);
    }
}

#[test]
fn the_same_seed_gives_the_same_file() {
    let fixture = fixture();
    let folder = folder("fingerprint-seed");
    let make = |name: &str, seed: &str| {
        let out = folder.join(name);
        succeed(&[
            "fingerprint",
            "generate",
            text(&fixture.model),
            "--data",
            text(&fixture.data),
            "--generator",
            "boundary-entropy",
            "--select",
            "manc",
            "--bag",
            "6",
            "--count",
            "3",
            "--seed",
            seed,
            "--out",
            text(&out),
        ]);
        fs::read(out).unwrap()
    };
    assert_eq!(make("a", "1"), make("b", "1"));
    assert_ne!(make("a", "1"), make("c", "2"));
}

#[test]
fn an_interrupted_generation_goes_on_and_ends_alike() {
    let fixture = fixture();
    let folder = folder("fingerprint-resume");
    let part = folder.join("bag.part");
    let arguments = |out: &str, extra: &[&str]| -> Vec<String> {
        let base = ["fingerprint", "generate", text(&fixture.model), "--data", text(&fixture.data)];
        let sizes = ["--bag", "400", "--count", "6", "--seed", "3", "--out"];
        let out = folder.join(out);
        let words = [&base[..], &sizes, &[text(&out)], extra].concat();
        words.into_iter().map(str::to_owned).collect()
    };
    let call =
        |arguments: &[String]| run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let kept = ["--checkpoint", text(&part), "--resume"];
    assert_eq!(call(&arguments("whole.fp", &[])).code, Some(0));

    // Killed as soon as there is something to go on from, or finished before that.
    let words = arguments("resumed.fp", &kept);
    let mut child =
        securedl(&words.iter().map(String::as_str).collect::<Vec<_>>()).spawn().unwrap();
    while child.try_wait().unwrap().is_none() && !part.exists() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    if part.exists() {
        let (model, plan) = (text(&fixture.model), text(&part));
        let inspected = run(&["inspect", plan]);
        assert!(inspected.stderr.contains("the checkpoint of a fingerprint"), "{inspected:?}");
        let other = ["fingerprint", "generate", model, "--data", text(&fixture.data)];
        let other = [&other[..], &["--bag", "400", "--seed", "4", "--out", "x.fp"], &kept].concat();
        let refused = run(&other);
        assert_eq!(refused.code, Some(2));
        assert!(refused.stderr.contains("belong to another generation"), "{}", refused.stderr);
    }
    assert_eq!(call(&words).code, Some(0));
    assert!(!part.exists(), "the samples are a secret");
    let bytes = |name: &str| fs::read(folder.join(name)).unwrap();
    assert_eq!(bytes("whole.fp"), bytes("resumed.fp"));
}

#[test]
fn a_report_says_what_a_fingerprint_holds_but_not_its_samples() {
    let made = made();
    for (path, segments) in [(&made.model, false), (&made.plan, true)] {
        let said = succeed(&["fingerprint", "show", text(path), "--json", "-"]).stdout;
        let report: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(report["samples"].as_array().unwrap().len(), 5);
        assert_eq!(report["generator"], "tie");
        assert_eq!(report["segments"].as_u64().unwrap() > 0, segments);
        assert_eq!(report["plan_digest"].is_string(), segments);
        assert_eq!(report["model_digest"].is_string(), !segments);
        assert!(report["samples"][0]["margin"].is_number());
        assert_eq!(report["margin"].as_f64().unwrap() > 0.0, !segments);
        assert_eq!(report["has_control"], true);
        assert!(!said.contains("inputs") && !said.contains("levels\": ["), "{said}");
    }
}

#[test]
fn a_service_over_https_is_verified_with_its_authority_only() {
    let fixture = fixture();
    let folder = folder("verify-https");
    let fingerprint = copy(&made().model, &folder);
    let honest = Model::load(&fixture.model).unwrap().network().clone();
    let server = HttpServer::start_tls(&fixture.tls, service(honest));
    let url = server.url("/");
    let other = folder.join("tls");
    succeed(&["tls", "init", text(&other)]);
    let (own, foreign) = (fixture.tls.join("ca.pem"), other.join("ca.pem"));
    let base = [&verify(&url, &fingerprint)[..], &["--rule", "tolerance-1e-4"]].concat();
    for (ca, code) in [(Some(&own), 0), (Some(&foreign), 2), (None, 2)] {
        let ca: &[&str] = &ca.map_or(vec![], |ca| vec!["--ca", text(ca)]);
        let finished = run(&[&base[..], ca].concat());
        assert_eq!(finished.code, Some(code), "{ca:?}: {}", finished.stderr);
        if code == 2 {
            assert!(finished.stderr.contains("TLS is not trusted"), "{}", finished.stderr);
            assert!(finished.stderr.contains("--ca"), "{}", finished.stderr);
        }
    }
}

#[test]
fn what_cannot_be_made_or_shown_says_why() {
    let (fixture, made) = (fixture(), made());
    let (model, data) = (text(&fixture.model), text(&fixture.data));
    let folder = folder("fingerprint-bad");
    let out = folder.join("out.fp");
    let out = text(&out);
    let generate = |extra: &[&str]| {
        let base = ["fingerprint", "generate"];
        run(&[&base[..], extra, &["--data", data, "--out", out]].concat())
    };
    for (finished, expected) in [
        (generate(&[text(&fixture.squares)]), "--model MODEL"),
        (generate(&[data]), "neither a model nor a plan"),
        (generate(&[model, "--bag", "3", "--count", "4"]), "allowed are 4 to"),
        (generate(&[model, "--generator", "magic"]), "magic"),
        (generate(&[model, "--margin", "0.5"]), "margin"),
        (generate(&[model, "--generator", "ssf", "--ball=-1"]), "ball"),
        (run(&["fingerprint", "show", model]), "is a model, not a fingerprint"),
        (run(&["fingerprint", "show", text(&made.model), "--out", out]), ".svg or .png"),
        (run(&["verify", "--fingerprint", text(&made.model)]), "--endpoint"),
    ] {
        assert_eq!(finished.code, Some(2), "{}", finished.stdout);
        assert!(finished.stderr.contains(expected), "`{expected}` in {}", finished.stderr);
    }
    let sheet = folder.join("sheet.png");
    let finished = run(&["fingerprint", "show", text(&made.model), "--out", text(&sheet)]);
    assert_eq!(finished.code, Some(2));
    assert!(finished.stderr.contains("no images"), "{}", finished.stderr);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0, "nothing is left behind");
}
