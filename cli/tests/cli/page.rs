//! The local page as a process: its address, its token, a batch, its end.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::fixture::{LIMIT, fixture, run, securedl, text};

/// A page in a process of its own, killed when dropped.
struct Served {
    child: Child,
    address: String,
    token: String,
}

impl Served {
    fn start(arguments: &[&str]) -> Self {
        let mut child = securedl(arguments).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (told, tells) = mpsc::channel();
        // Reads on when nobody listens any more, so that the page can write on.
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok).filter(|line| line.contains("#token=")) {
                let _ = told.send(line);
            }
        });
        let line = tells.recv_timeout(LIMIT);
        let line = line.unwrap_or_else(|error| {
            let _ = child.kill();
            panic!("the page does not say where it is: {error}")
        });
        let (_, url) = line.split_once("http://").unwrap();
        let (address, token) = url.split_once("/#token=").unwrap();
        Self { child, address: address.to_owned(), token: token.trim().to_owned() }
    }

    /// Head and body of an answer.
    fn ask(&self, method: &str, path: &str, token: &str, body: &str) -> (String, String) {
        let mut socket = TcpStream::connect(&self.address).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let (host, length) = (&self.address, body.len());
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: text/csv\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        socket.write_all((head + body).as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[cfg(unix)]
fn a_page_classifies_a_table_for_whoever_has_its_token() {
    let fixture = fixture();
    let files = ["ui", "--plan", text(&fixture.squares), "--data", text(&fixture.data)];
    let mut page = Served::start(&[&files[..], &["--listen", "127.0.0.1:0"]].concat());
    let (head, body) = page.ask("GET", "/", "", "");
    assert!(head.starts_with("HTTP/1.1 200") && body.contains("<title>SecureDL"), "{head}");
    assert!(page.ask("GET", "/api/status", "wrong", "").0.starts_with("HTTP/1.1 401"));
    let token = page.token.clone();
    let table = "x,y,z,label\n0.1,2.1,0.0,0\n2.1,-0.9,0.1,1\n";
    let (head, body) = page.ask("POST", "/api/runs", &token, table);
    assert!(head.starts_with("HTTP/1.1 202"), "{head}{body}");
    let begun = Instant::now();
    let told = loop {
        let (head, body) = page.ask("GET", "/api/runs/1/html", &token, "");
        if head.starts_with("HTTP/1.1 200") {
            break body;
        }
        assert!(begun.elapsed() < LIMIT, "{}", page.ask("GET", "/api/status", &token, "").1);
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(told.contains("data-verdict=\"Intact\"") && told.contains("2 of 2 right"), "{told}");
    // A request that never ends does not keep it.
    let mut half = TcpStream::connect(&page.address).unwrap();
    half.write_all(b"GET / HTTP/1.1\r\nHost: ").unwrap();
    assert!(page.ask("GET", "/", "", "").0.starts_with("HTTP/1.1 200"));
    let pid = page.child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = page.child.try_wait().unwrap() {
            break status;
        }
        assert!(begun.elapsed() < LIMIT, "Ctrl-C ends the page");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_page_is_refused_where_others_could_see_it() {
    let plan = text(&fixture().squares);
    let finished = run(&["ui", "--plan", plan, "--listen", "0.0.0.0:0"]);
    assert_eq!(finished.code, Some(2));
    assert!(finished.stderr.contains("not a loopback address"), "{}", finished.stderr);
    let finished = run(&["demo", "--listen", "127.0.0.1:1"]);
    assert_eq!(finished.code, Some(2));
    assert!(finished.stderr.contains("--ui"), "{}", finished.stderr);
}
