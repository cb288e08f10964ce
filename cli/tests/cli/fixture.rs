//! Folders, processes, and one trained model for all tests.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Longest time any command may take here: far more than any takes, so that only hanging ones are ended.
pub(crate) const LIMIT: Duration = Duration::from_secs(400);

/// A finished command.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The command with these arguments, without colors and outside any terminal.
pub(crate) fn securedl(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_securedl"));
    command
        .args(arguments)
        .env_remove("RUST_LOG")
        .env_remove("CLICOLOR_FORCE")
        .env_remove("SECUREDL_TOKEN")
        .env("SECUREDL_DATA", "/nonexistent/data")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Run to the end.
pub(crate) fn run(arguments: &[&str]) -> Finished {
    wait(securedl(arguments).spawn().unwrap())
}

/// Wait for a process and collect what it says.
pub(crate) fn wait(mut child: Child) -> Finished {
    fn collect(stream: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
        let mut stream = stream.unwrap();
        std::thread::spawn(move || {
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        })
    }
    let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if started.elapsed() > LIMIT {
            child.kill().unwrap();
            panic!("the command takes too long: {}", stderr.join().unwrap());
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
    Finished { code: status.code(), stdout, stderr }
}

/// Run and expect success.
pub(crate) fn succeed(arguments: &[&str]) -> Finished {
    let finished = run(arguments);
    assert_eq!(finished.code, Some(0), "{arguments:?}\n{}", finished.stderr);
    finished
}

/// An empty folder for one test.
pub(crate) fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli").join(name);
    if path.exists() {
        fs::remove_dir_all(&path).unwrap();
    }
    fs::create_dir_all(&path).unwrap();
    path
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Files made once: data, a model, plans for both sides, certificates.
pub(crate) struct Fixture {
    pub(crate) data: PathBuf,
    pub(crate) large: PathBuf,
    pub(crate) model: PathBuf,
    pub(crate) plans: PathBuf,
    /// Activation at the server.
    pub(crate) squares: PathBuf,
    /// Activation at the client.
    pub(crate) linear: PathBuf,
    pub(crate) tls: PathBuf,
}

/// Test samples of [`Fixture::data`].
pub(crate) const N_TEST: usize = 24;

pub(crate) fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let root = folder("fixture");
        let fixture = Fixture {
            data: root.join("blobs.csv"),
            large: root.join("large.csv"),
            model: root.join("blobs.model"),
            plans: root.join("plans"),
            squares: root.join("plans/squares.plan"),
            linear: root.join("plans/linear.plan"),
            tls: root.join("tls"),
        };
        fs::create_dir(&fixture.plans).unwrap();
        fs::write(&fixture.data, blobs(120)).unwrap();
        fs::write(&fixture.large, blobs(6000)).unwrap();
        let data = text(&fixture.data);
        let model = text(&fixture.model);
        succeed(&["train", "--data", data, "--network", "mlp", "--epochs", "12", "--out", model]);
        for (side, plan) in [("server", &fixture.squares), ("client", &fixture.linear)] {
            let plan = text(plan);
            let samples = ["--expected-samples", "24", "--activation", side];
            let arguments = [&["compile", model, "--calibrate", data, "--out", plan], &samples[..]];
            succeed(&arguments.concat());
        }
        succeed(&["tls", "init", text(&fixture.tls)]);
        fixture
    })
}

/// Arguments of `serve` on a free port.
pub(crate) fn serve<'a>(plans: &'a Path, tls: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let files = ["serve", "--plans", text(plans), "--tls", text(tls)];
    [&files[..], &["--listen", "127.0.0.1:0"], more].concat()
}

/// Arguments of `infer` for the fixture's data at a server with the fixture's certificates.
pub(crate) fn infer<'a>(plan: &'a Path, server: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let fixture = fixture();
    let files = ["infer", "--plan", text(plan), "--data", text(&fixture.data)];
    [&files[..], &["--server", server, "--tls", text(&fixture.tls)], more].concat()
}

/// The token that `access add` printed.
pub(crate) fn token(added: &Finished) -> &str {
    let mut words = added.stdout.split_whitespace();
    words.find(|word| word.starts_with("sdltoken1_")).expect("a token is printed")
}

/// A table of `n` samples around three points in the plane, by a small congruential generator.
pub(crate) fn blobs(n: usize) -> String {
    let mut state = 12345_u64;
    let mut noise = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / f64::from(1_u32 << 24) - 0.5
    };
    let mut table = String::from("x,y,z,label\n");
    for i in 0..n {
        let class = i % 3;
        let (x, y) = [(0.0, 2.0), (2.0, -1.0), (-2.0, -1.0)][class];
        let (x, y, z) = (x + noise(), y + noise(), noise());
        writeln!(table, "{x:.4},{y:.4},{z:.4},{class}").unwrap();
    }
    table
}

/// A server process on a free port, killed when dropped.
pub(crate) struct Served {
    child: Option<Child>,
    pub(crate) address: String,
    /// Port of the admin listener, if there is one.
    pub(crate) admin: Option<u16>,
}

impl Served {
    pub(crate) fn start(plans: &Path, tls: &Path, listen: &str) -> Self {
        let files = ["serve", "--plans", text(plans), "--tls", text(tls)];
        Self::with(&[&files[..], &["--listen", listen, "--open"]].concat())
    }

    /// Start with all of these arguments.
    pub(crate) fn with(arguments: &[&str]) -> Self {
        Self::logging(arguments, Stdio::null())
    }

    /// Start with all of these arguments and a place for the log.
    pub(crate) fn logging(arguments: &[&str], log: Stdio) -> Self {
        let mut child = securedl(arguments).stderr(log).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut admin = None;
        let line = loop {
            let line = lines.next().expect("the server says where it listens").unwrap();
            if line.contains("Operators") {
                let port = line.rsplit(':').next().unwrap().trim_end_matches("/metrics");
                admin = Some(port.parse().unwrap());
            }
            if line.contains("Listening") {
                break line;
            }
        };
        let port = line.rsplit(':').next().unwrap().trim().to_owned();
        // Keep reading, so that the server can keep writing.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child: Some(child), address: format!("127.0.0.1:{port}"), admin }
    }

    /// Kill without warning.
    pub(crate) fn kill(mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Ask to read its files again.
    #[cfg(unix)]
    pub(crate) fn hang_up(&self) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    }

    /// Ask politely; returns the exit code.
    #[cfg(unix)]
    pub(crate) fn terminate(mut self) -> Option<i32> {
        let mut child = self.child.take().unwrap();
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        child.wait().unwrap().code()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
