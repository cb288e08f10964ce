//! Tests repeated under every kernel set of the machine, each in a process of its own.

use std::io::Write as _;
use std::process::{Command, Output};

use he_core::Backend;

/// Run one test of this binary, such as `pipeline::something`, with this `HE_BACKEND`.
fn run_under(backend: &str, test: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test])
        .env("HE_BACKEND", backend)
        .output()
        .unwrap()
}

/// The test passes under every kernel set of this machine; those it lacks are refused, aloud.
pub(crate) fn passes_under_all(test: &str) {
    for backend in Backend::ALL {
        let name = backend.name();
        let output = run_under(name, test);
        let said = String::from_utf8_lossy(&output.stdout);
        if backend.is_available() {
            assert!(output.status.success() && said.contains("1 passed"), "{name}: {said}");
        } else {
            assert!(!output.status.success(), "{name} is not available, so it must be refused");
            let line = format!("SKIPPED: {test} under {name}: not on this machine\n");
            std::io::stderr().write_all(line.as_bytes()).unwrap();
        }
    }
    assert!(!run_under("no-such-kernels", test).status.success(), "HE_BACKEND is heeded");
}
