//! Owners' signatures of plans and fingerprints, demanded by every command that uses them.

use std::fs;
use std::path::{Path, PathBuf};

use nn_poly::model::Model;
use securedl_tests::http::HttpServer;

use super::fingerprint::{copy, made, service, verify as of_service};
use super::fixture::{Served, fixture, folder, run, succeed, text};

/// An owner's public and secret key.
fn keys(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    let directory = folder.join(name);
    succeed(&["keys", "init", text(&directory)]);
    let again = run(&["keys", "init", text(&directory)]);
    assert_eq!(again.code, Some(2));
    assert!(again.stderr.contains("not overwritten"), "{}", again.stderr);
    (directory.join("owner.pub"), directory.join("owner.key"))
}

#[test]
fn a_plan_is_used_only_if_its_owner_has_signed_it() {
    let (fixture, folder) = (fixture(), folder("signatures"));
    let (owner, key) = keys(&folder, "owner");
    let (other, other_key) = keys(&folder, "other");
    let plan = folder.join("a.plan");
    fs::copy(&fixture.linear, &plan).unwrap();
    let data = text(&fixture.data);
    let infer = |owners: &[&Path]| {
        let mut arguments = vec!["infer", "--plan", text(&plan), "--data", data, "--simulate"];
        arguments.extend(["--accept-unverified"]);
        arguments.extend(owners.iter().flat_map(|owner| ["--owner", text(owner)]));
        run(&arguments)
    };
    let refused = |owners: &[&Path], words: &str| {
        let finished = infer(owners);
        assert_eq!(finished.code, Some(2), "{}", finished.stdout);
        assert!(finished.stderr.contains(words), "{}", finished.stderr);
    };
    let unsigned = infer(&[]);
    assert_eq!(unsigned.code, Some(0), "{}", unsigned.stderr);
    assert!(unsigned.stdout.contains("not checked"), "{}", unsigned.stdout);
    refused(&[&owner], "there is no signature");
    succeed(&["sign", text(&plan), "--key", text(&key)]);
    refused(&[&other], "none of the owners");
    for owners in [&[&*owner][..], &[&*other, &*owner]] {
        let finished = infer(owners);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        assert!(finished.stdout.contains("as --owner demands"), "{}", finished.stdout);
    }
    // Of another plan: wrong for everybody, whoever is trusted.
    fs::copy(&fixture.squares, &plan).unwrap();
    refused(&[&owner], "not of this plan");
    refused(&[], "not of this plan");
    // Signed anew, by another owner.
    succeed(&["sign", text(&plan), "--key", text(&other_key)]);
    assert_eq!(infer(&[&other]).code, Some(0));
    // Text that is no signature, and a key that is none.
    fs::write(folder.join("a.plan.sig"), "signed").unwrap();
    refused(&[&owner], "is no signature");
    // (The secret key's file is not tried: every second seed happens to be a point of the curve.)
    let nonsense = folder.join("nonsense.pub");
    fs::write(&nonsense, "0".repeat(63)).unwrap();
    refused(&[&nonsense], "no owner's public key");
    let wrong = run(&["sign", text(&fixture.model), "--key", text(&key)]);
    assert_eq!(wrong.code, Some(2));
    assert!(wrong.stderr.contains("plans, fingerprints and packs are signed"), "{}", wrong.stderr);
}

#[test]
fn a_server_announces_the_signature_for_clients_that_have_none() {
    let (fixture, folder) = (fixture(), folder("announced"));
    let (owner, key) = keys(&folder, "owner");
    let (other, _) = keys(&folder, "other");
    let plans = folder.join("plans");
    fs::create_dir(&plans).unwrap();
    let hosted = plans.join("a.plan");
    fs::copy(&fixture.linear, &hosted).unwrap();
    succeed(&["sign", text(&hosted), "--key", text(&key)]);
    let server = Served::start(&plans, &fixture.tls, "127.0.0.1:0");
    let infer = |owner: &Path| {
        let owner = ["--owner", text(owner)];
        run(&super::fixture::infer(&fixture.linear, &server.address, &owner))
    };
    let finished = infer(&owner);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(finished.stdout.contains("as --owner demands"), "{}", finished.stdout);
    let finished = infer(&other);
    assert_eq!(finished.code, Some(2));
    assert!(finished.stderr.contains("none of the owners"), "{}", finished.stderr);
}

#[test]
fn a_fingerprint_is_used_only_if_its_owner_has_signed_it() {
    let (fixture, folder) = (fixture(), folder("fingerprint-signed"));
    let path = |name: &str| folder.join(name);
    for name in ["keys", "other"] {
        succeed(&["keys", "init", text(&path(name))]);
    }
    let (key, owner) = (path("keys/owner.key"), path("keys/owner.pub"));
    let other = path("other/owner.pub");
    let of_plan = path("plan.fp");
    fs::copy(&made().plan, &of_plan).unwrap();
    let plan = path("squares.plan");
    fs::copy(&fixture.squares, &plan).unwrap();
    let server = Served::start(&fixture.plans, &fixture.tls, "127.0.0.1:0");
    let endpoint = ["--server", &server.address, "--tls", text(&fixture.tls)];
    let files = ["--plan", text(&plan), "--fingerprint", text(&of_plan)];
    let verify = [&["verify"][..], &endpoint, &files].concat();
    let infer = [&["infer", "--data", text(&fixture.data), "--local"][..], &files].concat();
    let show = vec!["fingerprint", "show", text(&of_plan)];
    let commands = [show, verify, infer];
    let demand = |owner: &Path, words: Option<&str>| {
        for command in &commands {
            let finished = run(&[&command[..], &["--owner", text(owner)]].concat());
            match words {
                None => {
                    assert_eq!(finished.code, Some(0), "{command:?}: {}", finished.stderr);
                    let said = "as --owner demands";
                    assert!(finished.stdout.contains(said), "{command:?}: {}", finished.stdout);
                }
                Some(words) => {
                    assert_eq!(finished.code, Some(2), "{command:?}: {}", finished.stdout);
                    assert!(finished.stderr.contains(words), "{command:?}: {}", finished.stderr);
                }
            }
        }
    };
    demand(&owner, Some("there is no signature"));
    // The plan's alone is not enough.
    succeed(&["sign", text(&plan), "--key", text(&key)]);
    demand(&owner, Some("there is no signature"));
    succeed(&["sign", text(&of_plan), "--key", text(&key)]);
    demand(&owner, None);
    demand(&other, Some("none of the owners"));
    // Uses are counted in the file and not signed; samples are.
    let counted = copy(&made().model, &folder);
    succeed(&["sign", text(&counted), "--key", text(&key)]);
    let model = Model::load(&fixture.model).unwrap();
    let served = HttpServer::start(service(model.network().clone()));
    let url = served.url("/");
    let rule = ["--rule", "tolerance-1e-4", "--owner", text(&owner)];
    let audit = [&of_service(&url, &counted)[..], &rule].concat();
    succeed(&audit);
    succeed(&audit);
    fs::copy(&made().plan, &counted).unwrap();
    let finished = run(&["fingerprint", "show", text(&counted)]);
    assert!(finished.stderr.contains("not of this fingerprint"), "{}", finished.stderr);
}
