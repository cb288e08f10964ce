//! Tokens, signatures and the audit log, as an operator and a client use them.

use std::fs;

use super::fixture::{
    Served, fixture, folder, infer, run, securedl, serve, succeed, text, token, wait,
};

#[test]
fn a_token_opens_the_server_and_signatures_are_checked_on_both_sides() {
    let fixture = fixture();
    let folder = folder("access");
    let path = |name: &str| folder.join(name);
    let access = path("access.toml");
    let add = ["access", "add", "ward-7", "--file", text(&access)];
    let refused = run(&add);
    assert!(refused.stderr.contains("--plan"), "{}", refused.stderr);
    let added = succeed(&[&add[..], &["--plan", "*", "--expires", "2999-01-01"]].concat());
    let token = token(&added);
    assert!(!fs::read_to_string(&access).unwrap().contains(&token[10..]), "only its hash is kept");
    fs::write(path("token"), token).unwrap();
    succeed(&add);
    let listed = succeed(&["access", "check", text(&access)]);
    assert!(listed.stdout.contains("ward-7"), "{}", listed.stdout);

    let keys = path("keys");
    succeed(&["keys", "init", text(&keys)]);
    let (owner, key) = (keys.join("owner.pub"), keys.join("owner.key"));
    let plans = path("plans");
    fs::create_dir(&plans).unwrap();
    let plan = plans.join("a.plan");
    fs::copy(&fixture.linear, &plan).unwrap();
    let audit = path("audit.jsonl");
    let files = ["--access", text(&access), "--audit", text(&audit), "--owner", text(&owner)];
    let serve = serve(&plans, &fixture.tls, &files);
    let unsigned = run(&serve);
    assert_eq!(unsigned.code, Some(2));
    assert!(unsigned.stderr.contains("there is no signature"), "{}", unsigned.stderr);
    succeed(&["sign", text(&plan), "--key", text(&key)]);

    let server = Served::with(&serve);
    let out = path("predictions.csv");
    let infer = infer(&plan, &server.address, &["--owner", text(&owner), "--out", text(&out)]);
    let stranger = run(&infer);
    let token_file = path("token");
    let known = run(&[&infer[..], &["--token-file", text(&token_file)]].concat());
    server.kill();
    assert_eq!(stranger.code, Some(2));
    assert!(stranger.stderr.contains("does not let us in"), "{}", stranger.stderr);
    assert_eq!(known.code, Some(0), "{}", known.stderr);
    assert!(known.stdout.contains("as --owner demands"), "{}", known.stdout);
    let log = fs::read_to_string(&audit).unwrap();
    assert!(log.contains("ward-7") && log.contains("evaluated"), "{log}");
    assert!(log.contains("refused: unauthorized") && !log.contains(&token[10..]), "{log}");
    assert!(!folder.join("evidence").exists(), "a folder made for nothing is removed");
}

#[test]
fn a_client_is_named_by_its_certificate_and_may_be_demanded_to_have_one() {
    let (fixture, folder) = (fixture(), folder("certificates"));
    let tls = folder.join("tls");
    succeed(&["tls", "init", text(&tls)]);
    let client = folder.join("ward-7");
    let made = succeed(&["tls", "client", text(&tls), "ward-7", "--out", text(&client)]);
    let certificate = client.join("client.pem");
    let access = folder.join("access.toml");
    let add = ["access", "add", "ward-7", "--file", text(&access), "--plan", "*"];
    succeed(&[&add[..], &["--certificate", text(&certificate)]].concat());
    let digits = made.stdout.split_whitespace().find(|word| word.len() == 64).unwrap();
    assert!(fs::read_to_string(&access).unwrap().contains(digits), "the printed fingerprint");
    let entrance = ["--access", text(&access), "--client-certificates", "required"];
    let server = Served::with(&serve(&fixture.plans, &tls, &entrance));
    let infer = |more: &[&str]| {
        let base = ["infer", "--plan", text(&fixture.linear), "--data", text(&fixture.data)];
        let server = ["--server", &server.address, "--tls", text(&tls)];
        run(&[&base[..], &server, more].concat())
    };
    let known = infer(&["--client-cert", text(&client)]);
    assert_eq!(known.code, Some(0), "{}", known.stderr);
    let stranger = infer(&[]);
    assert_eq!(stranger.code, Some(2));
    assert!(stranger.stderr.contains("certificate"), "{}", stranger.stderr);
    // Taken out of the list while the server runs; read at a hangup.
    #[cfg(unix)]
    {
        fs::write(&access, "version = 1\n").unwrap();
        server.hang_up();
        let started = std::time::Instant::now();
        loop {
            let removed = infer(&["--client-cert", text(&client)]);
            if removed.code == Some(2) {
                assert!(removed.stderr.contains("does not let us in"), "{}", removed.stderr);
                break;
            }
            assert!(started.elapsed() < super::fixture::LIMIT, "the client is still let in");
        }
    }
}

#[test]
fn a_token_comes_from_a_file_or_the_environment_and_never_from_the_command_line() {
    let (fixture, folder) = (fixture(), folder("tokens"));
    let access = folder.join("access.toml");
    let added = succeed(&["access", "add", "a", "--file", text(&access), "--plan", "blobs-mlp"]);
    let token = token(&added);
    let entrance = ["--access", text(&access)];
    let server = Served::with(&serve(&fixture.plans, &fixture.tls, &entrance));
    let infer = infer(&fixture.linear, &server.address, &[]);
    let with = |token: &str| wait(securedl(&infer).env("SECUREDL_TOKEN", token).spawn().unwrap());
    // Let in, but not to this plan: it looks as if it were not there.
    let hidden = with(token);
    assert_eq!(hidden.code, Some(2));
    assert!(hidden.stderr.contains("its plans: none"), "{}", hidden.stderr);
    let wrong = with("hunter2");
    assert_eq!(wrong.code, Some(2));
    assert!(wrong.stderr.contains("SECUREDL_TOKEN"), "{}", wrong.stderr);
    assert!(!wrong.stderr.contains("hunter2"), "a secret is not shown: {}", wrong.stderr);
    let argument = run(&[&infer[..], &["--token", token]].concat());
    assert_eq!(argument.code, Some(2));
    assert!(argument.stderr.contains("--token"), "{}", argument.stderr);
}
