//! A server that runs another model than it says: exit code 1, and no predictions.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use nn_poly::plan::Plan;
use protocol::hosting::PlanShelf;
use protocol::identifiers::{Digest, Label};
use protocol::identity::Identity;
use protocol::server::{Server, ServerOptions};
use protocol::tls::ServerTls;
use serde_json::Value;
use tokio::runtime::Runtime;

use super::fixture::{fixture, folder, run, text};

/// `plan` with one weight of its second segment one unit nearer to zero.
pub(crate) fn tampered(plan: &Plan) -> Plan {
    let mut weights = plan.network().weights().to_vec();
    let weight = weights[1].weights.iter_mut().find(|weight| **weight != 0).unwrap();
    *weight -= weight.signum();
    Plan::new(plan.public().clone(), weights).unwrap()
}

/// Serve `actual` as if it were `claimed`, for as long as the runtime lives.
pub(crate) fn serve(runtime: &Runtime, claimed: &Plan, actual: &Plan, tls: &Path) -> SocketAddr {
    let mut shelf = PlanShelf::new();
    shelf.insert_as(actual, Digest(claimed.digest().0)).unwrap();
    let options = ServerOptions::new(Label::new("cheat").unwrap());
    let server = Server::new(Arc::new(shelf), Identity::from_seed(&[7; 32]), options).unwrap();
    let tls = ServerTls::load(tls).unwrap();
    runtime.block_on(async {
        let listener = Server::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { server.serve(listener, tls, std::future::pending()).await });
        address
    })
}

#[test]
fn one_weight_off_by_one_is_named_and_releases_nothing() {
    let fixture = fixture();
    let folder = folder("cheating");
    let runtime = Runtime::new().unwrap();
    for (name, path) in [("squares", &fixture.squares), ("linear", &fixture.linear)] {
        let plan = Plan::load(path).unwrap();
        let address = serve(&runtime, &plan, &tampered(&plan), &fixture.tls).to_string();
        let [out, report] = ["csv", "json"].map(|kind| folder.join(format!("{name}.{kind}")));
        let finished = run(&[
            "infer",
            "--plan",
            text(path),
            "--data",
            text(&fixture.data),
            "--server",
            &address,
            "--tls",
            text(&fixture.tls),
            "--accept-unverified",
            "--out",
            text(&out),
            "--json",
            text(&report),
        ]);
        assert_eq!(finished.code, Some(1), "{name}: {}", finished.stderr);
        for expected in ["✗ ModelModified", "segment 1", "not written"] {
            assert!(finished.stdout.contains(expected), "{name}: {}", finished.stdout);
        }
        assert!(!out.exists(), "{name}: no predictions");
        let report: Value = serde_json::from_str(&fs::read_to_string(&report).unwrap()).unwrap();
        assert_eq!(report["verdict"], "ModelModified");
        assert_eq!(report["verdict_details"]["segment"], 1);
        assert_eq!(report["verdict_details"]["neurons"].as_array().unwrap().len(), 1);
        for unknown in ["accuracy", "matches_integer_network", "out_of_calibration"] {
            assert!(report[unknown].is_null(), "{name}: {unknown}");
        }
    }
}
