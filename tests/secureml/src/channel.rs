//! Carrying messages between the servers, and counting them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::message::{HEADER_BYTES, Machine};

/// Moves whole messages, in order.
pub trait Channel {
    /// Sends a message; never waits for the peer to read it.
    ///
    /// # Errors
    /// [`Error::Closed`].
    fn send(&mut self, message: Vec<u8>) -> Result<()>;

    /// Waits for a message of exactly `len` bytes.
    ///
    /// # Errors
    /// [`Error::Closed`], or [`Error::MessageLength`] before memory is taken for one that is longer.
    fn receive(&mut self, len: usize) -> Result<Vec<u8>>;
}

/// One end of a pair of pipes inside the process.
#[derive(Debug)]
pub struct Pipe {
    to_peer: Sender<Vec<u8>>,
    from_peer: Receiver<Vec<u8>>,
}

impl Pipe {
    /// Two connected ends.
    #[must_use]
    pub fn pair() -> [Self; 2] {
        let (to_second, from_first) = channel();
        let (to_first, from_second) = channel();
        [
            Self { to_peer: to_second, from_peer: from_second },
            Self { to_peer: to_first, from_peer: from_first },
        ]
    }
}

impl Channel for Pipe {
    fn send(&mut self, message: Vec<u8>) -> Result<()> {
        self.to_peer.send(message).map_err(|_| Error::Closed { source: None })
    }

    fn receive(&mut self, len: usize) -> Result<Vec<u8>> {
        let message = self.from_peer.recv().map_err(|_| Error::Closed { source: None })?;
        check_message(len, message.len() as u64)?;
        Ok(message)
    }
}

/// A TCP connection: each message after its length (u64, little-endian).
///
/// A thread of its own writes, because both servers send before they read. There is neither
/// encryption nor authentication: for measurements on one machine or a private network.
#[derive(Debug)]
pub struct TcpChannel {
    stream: TcpStream,
    to_writer: Option<Sender<Vec<u8>>>,
    writer: Option<JoinHandle<()>>,
}

impl TcpChannel {
    /// Takes over a connected stream.
    ///
    /// # Errors
    /// [`Error::Closed`] when the operating system cannot share the stream with the writer.
    pub fn new(stream: TcpStream) -> Result<Self> {
        let closed = |source| Error::Closed { source: Some(source) };
        stream.set_nodelay(true).map_err(closed)?;
        let mut output = stream.try_clone().map_err(closed)?;
        let (to_writer, messages) = channel::<Vec<u8>>();
        let writer = std::thread::spawn(move || {
            for message in messages {
                let len = (message.len() as u64).to_le_bytes();
                if output.write_all(&len).and_then(|()| output.write_all(&message)).is_err() {
                    // Dropping the receiver makes the next `send` fail.
                    return;
                }
            }
        });
        Ok(Self { stream, to_writer: Some(to_writer), writer: Some(writer) })
    }
}

impl Channel for TcpChannel {
    fn send(&mut self, message: Vec<u8>) -> Result<()> {
        let sent = self.to_writer.as_ref().map(|writer| writer.send(message));
        if let Some(Ok(())) = sent { Ok(()) } else { Err(Error::Closed { source: None }) }
    }

    fn receive(&mut self, len: usize) -> Result<Vec<u8>> {
        let closed = |source| Error::Closed { source: Some(source) };
        let mut announced = [0; 8];
        self.stream.read_exact(&mut announced).map_err(closed)?;
        check_message(len, u64::from_le_bytes(announced))?;
        let mut message = vec![0; len];
        self.stream.read_exact(&mut message).map_err(closed)?;
        Ok(message)
    }
}

impl Drop for TcpChannel {
    fn drop(&mut self) {
        // Closing the queue lets the writer finish what was sent.
        self.to_writer = None;
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has nothing left to flush.
            drop(writer.join());
        }
    }
}

fn check_message(expected: usize, actual: u64) -> Result<()> {
    let expected = expected as u64;
    if expected == actual { Ok(()) } else { Err(Error::MessageLength { expected, actual }) }
}

/// What one server sent and received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Messages sent.
    pub messages_sent: u64,
    /// Bytes sent, headers included.
    pub bytes_sent: u64,
    /// Payload bytes sent: what formulas count.
    pub payload_bytes_sent: u64,
    /// Messages received.
    pub messages_received: u64,
    /// Bytes received, headers included.
    pub bytes_received: u64,
    /// Payload bytes received.
    pub payload_bytes_received: u64,
    /// Times this server sent something (or began) and then had to wait: one for an exchange in which
    /// both servers send at once.
    pub rounds: u64,
}

/// Runs a machine over a channel until its phase ends, and counts.
///
/// # Errors
/// Those of the machine and of the channel.
pub fn drive(machine: &mut impl Machine, channel: &mut impl Channel) -> Result<Traffic> {
    let mut traffic = Traffic::default();
    let mut to_send = machine.begin()?;
    let mut must_wait = true;
    loop {
        for message in to_send {
            let len = message.len() as u64;
            traffic.messages_sent += 1;
            traffic.bytes_sent += len;
            traffic.payload_bytes_sent += len - HEADER_BYTES as u64;
            must_wait = true;
            channel.send(message)?;
        }
        let Some(expected) = machine.expected() else { return Ok(traffic) };
        traffic.rounds += u64::from(core::mem::take(&mut must_wait));
        let message = channel.receive(expected.message_bytes())?;
        traffic.messages_received += 1;
        traffic.bytes_received += message.len() as u64;
        traffic.payload_bytes_received += expected.payload_bytes as u64;
        to_send = machine.receive(&message)?;
    }
}

/// One phase of both servers in one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phase {
    /// What servers 0 and 1 sent and received.
    pub traffic: [Traffic; 2],
    /// From the start until both had ended. Both servers share the cores of the machine.
    pub elapsed: Duration,
}

impl Phase {
    /// Payload bytes of both directions together.
    #[must_use]
    pub fn payload_bytes(&self) -> u64 {
        self.traffic.iter().map(|t| t.payload_bytes_sent).sum()
    }

    /// Bytes of both directions together, headers included.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.traffic.iter().map(|t| t.bytes_sent).sum()
    }

    /// Rounds, as counted by the server that had to wait more often.
    #[must_use]
    pub fn rounds(&self) -> u64 {
        self.traffic.iter().map(|t| t.rounds).max().unwrap_or_default()
    }
}

/// Runs both servers' machines of one phase, each in a thread of its own, over channels that belong
/// together.
///
/// # Errors
/// The error of the server that stopped first, rather than the other's [`Error::Closed`].
///
/// # Panics
/// When a machine panics.
pub fn drive_pair<M: Machine + Send, C: Channel + Send>(
    machines: [&mut M; 2],
    channels: [C; 2],
) -> Result<Phase> {
    let start = Instant::now();
    let [first, second] = machines;
    let [mut to_second, mut to_first] = channels;
    let (first, second) = std::thread::scope(|scope| {
        // The channel is dropped with its thread, so that an error ends the peer's wait.
        let second = scope.spawn(move || drive(second, &mut to_first));
        let first = scope.spawn(move || drive(first, &mut to_second));
        let join = |handle: std::thread::ScopedJoinHandle<'_, Result<Traffic>>| {
            handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        (join(first), join(second))
    });
    let traffic = match (first, second) {
        (Ok(first), Ok(second)) => [first, second],
        (Err(Error::Closed { .. }), Err(error)) | (Err(error), _) | (_, Err(error)) => {
            return Err(error);
        }
    };
    Ok(Phase { traffic, elapsed: start.elapsed() })
}
