//! A server in a process of its own, as an operator runs it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::subject::Subject;

/// For one answer of the admin listener.
const ASK_LIMIT: Duration = Duration::from_secs(10);

/// `securedl serve`, killed when dropped.
pub(super) struct ServerProcess {
    child: Child,
    /// Where clients reach it.
    pub(super) address: SocketAddr,
    /// Where operators do.
    pub(super) admin: SocketAddr,
    log: PathBuf,
    output: Option<JoinHandle<()>>,
}

impl ServerProcess {
    /// Start this program as a server of the subject's plans, open to everybody, on loopback.
    ///
    /// `listen` may have port 0; `settings` are assignments for `--set`. The log is appended to
    /// `server.log` in the subject's folder.
    ///
    /// # Errors
    /// It does not start, or does not say where it listens within `patience`.
    pub(super) fn start(
        subject: &Subject,
        listen: SocketAddr,
        settings: &[String],
        patience: Duration,
    ) -> Result<Self> {
        let program = std::env::current_exe().context("this program's file is not known")?;
        let log = subject.folder().join("server.log");
        let file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .context("no file for the server's log")?;
        let mut command = Command::new(program);
        command.arg("serve").arg("--plans").arg(subject.plans());
        command.arg("--tls").arg(subject.tls()).arg("--open");
        command.args(["--listen", &listen.to_string(), "--admin", "127.0.0.1:0"]);
        command.args(["--log-format", "json"]);
        settings.iter().for_each(|setting| {
            command.args(["--set", setting]);
        });
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .context("the server cannot be started")?;
        let stdout = child.stdout.take().context("the server has no output")?;
        match announced(stdout, patience) {
            Ok((address, admin, output)) => {
                Ok(Self { child, address, admin, log, output: Some(output) })
            }
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                let told = fs::read_to_string(&log).unwrap_or_default();
                Err(error.context(told))
            }
        }
    }

    /// Kill it without warning, and start it again on the same port.
    ///
    /// # Errors
    /// It does not start.
    pub(super) fn kill_and_restart(
        &mut self,
        subject: &Subject,
        settings: &[String],
        patience: Duration,
    ) -> Result<()> {
        let address = self.address;
        self.kill();
        *self = Self::start(subject, address, settings, patience)?;
        Ok(())
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(output) = self.output.take() {
            let _ = output.join();
        }
    }

    /// Whether it still runs.
    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Body of an answer of the admin listener.
    ///
    /// # Errors
    /// No answer, or another status than 200.
    pub(super) fn ask(admin: SocketAddr, path: &str) -> Result<String> {
        let mut socket = TcpStream::connect_timeout(&admin, ASK_LIMIT)?;
        socket.set_read_timeout(Some(ASK_LIMIT))?;
        socket.set_write_timeout(Some(ASK_LIMIT))?;
        write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("not an answer of HTTP")?;
        if !head.starts_with("HTTP/1.1 200") {
            bail!("{path}: {}", head.lines().next().unwrap_or_default());
        }
        Ok(body.to_owned())
    }

    /// Sum of the figures whose line begins with `name`, at this moment.
    ///
    /// # Errors
    /// No answer.
    pub(super) fn figure(&self, name: &str) -> Result<f64> {
        let text = Self::ask(self.admin, "/metrics")?;
        let lines = text.lines().filter_map(|line| line.strip_prefix(name));
        Ok(lines.filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// A line of `/proc/PID/status` in bytes, where the system has that.
    pub(super) fn memory_bytes(&self, name: &str) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let kibibytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kibibytes.checked_mul(1024)
    }

    /// Internal errors in the log of all servers so far.
    pub(super) fn panics(&self) -> usize {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        log.lines().filter(|line| line.contains("internal error")).count()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The addresses that a server prints within `patience`, and the thread that keeps reading, so that the
/// server can keep writing.
fn announced(
    stdout: ChildStdout,
    patience: Duration,
) -> Result<(SocketAddr, SocketAddr, JoinHandle<()>)> {
    let (sender, addresses) = channel();
    let output = std::thread::spawn(move || {
        let mut lines = BufReader::new(stdout).lines().map_while(std::io::Result::ok);
        for word in ["Operators", "Listening"] {
            let found = lines.by_ref().find(|line| line.contains(word));
            // Nobody waits any more: reading on is all that is left to do.
            let _ = sender.send(found);
        }
        drop(sender);
        lines.for_each(drop);
    });
    let address = || -> Result<SocketAddr> {
        let line = addresses
            .recv_timeout(patience)
            .with_context(|| {
                format!("the server did not say where it listens for {patience:?} (--patience)")
            })?
            .context("the server ended before it said where it listens")?;
        let address = line.split_whitespace().last().unwrap_or_default();
        let address = address.trim_start_matches("http://").trim_end_matches("/metrics");
        address.parse().with_context(|| format!("`{line}` names no address"))
    };
    let (admin, address) = (address()?, address()?);
    Ok((address, admin, output))
}
