//! Every number the two sides hold each other to: sizes, counts, and times.
//!
//! The constants belong to the wire format: both sides enforce them before they allocate. The
//! structs are local policy: a server states the part of it that a client must know in
//! [`AnnouncedLimits`](crate::message::AnnouncedLimits).

use std::time::Duration;

use crate::error::{ConfigError, Result};

/// Bytes of the length prefix in front of each frame (unsigned, little-endian).
pub const FRAME_PREFIX_BYTES: usize = 4;

/// Largest frame body in bytes; the length prefix is not counted.
pub const MAX_FRAME_BYTES: usize = 4 << 20;

/// Bytes in front of the data of a payload frame: kind, request tag, offset.
pub const PAYLOAD_HEADER_BYTES: usize = 1 + 8 + 8;

/// Bytes in front of the message of a control frame: kind, protocol version.
pub const CONTROL_HEADER_BYTES: usize = 1 + 2;

/// Largest number of data bytes in one payload frame.
pub const MAX_CHUNK_BYTES: usize = MAX_FRAME_BYTES - PAYLOAD_HEADER_BYTES;

/// Data bytes per payload frame unless the configuration says otherwise.
pub const CHUNK_BYTES: usize = 1 << 20;

/// Largest encoded message from client to server. It holds before anything is known of the client,
/// so it is small.
pub const MAX_CLIENT_MESSAGE_BYTES: usize = 1024;

/// Largest encoded message from server to client: a public plan must fit.
pub const MAX_SERVER_MESSAGE_BYTES: usize = MAX_FRAME_BYTES - CONTROL_HEADER_BYTES;

/// Largest public plan, in bytes, that [`ServerMessage::Plan`](crate::message::ServerMessage::Plan)
/// carries: the message limit without the variant number, the length, and the owner's signature.
pub const MAX_PUBLIC_PLAN_BYTES: usize = MAX_SERVER_MESSAGE_BYTES - 4 - 8 - (1 + 32 + 64);

/// Largest number of UTF-8 bytes in a [`Label`](crate::identifiers::Label).
pub const MAX_LABEL_BYTES: usize = 256;

/// Largest number of models in one list.
pub const MAX_MODELS: usize = 4096;

/// Most evaluations at the same time. With two threads each they leave room in a pool of 512 blocking
/// threads, which is what a tokio runtime has.
pub const MAX_EVALUATIONS: usize = 128;

/// Memory a server reserves for each connection: buffers of TLS and of frames, the state of the
/// conversation. Between requests and before its first one, a connection has no more.
pub const CONNECTION_BYTES: u64 = 64 << 10;

/// What a server admits at the same time.
///
/// A plain description; [`Server::new`](crate::server::Server::new) checks it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerLimits {
    /// Connections held at the same time. Default 256.
    pub max_connections: usize,
    /// Connections of one address at the same time; of an IPv6 address the first 64 bits count. Further
    /// ones are closed before the TLS handshake. Clients behind one proxy or router share an address.
    /// Default 64.
    pub max_connections_per_address: usize,
    /// Requests admitted at the same time, whatever their size (uploading, waiting for the processors,
    /// evaluating, or replying). Default 1,024.
    pub max_requests: usize,
    /// Requests that wait for memory at the same time; further ones are refused as busy at once.
    /// Default 256.
    pub max_waiting: usize,
    /// How many of these may be of one client of the access list, or of one address of anonymous ones.
    /// Default 64.
    pub max_waiting_per_client: usize,
    /// Evaluations begun and not computed to their end at the same time; each has two threads. They take
    /// turns on the processors, so that more of them are not faster: the others bridge the pauses in
    /// which a client is slow to take its reply and there is no memory for the rest of it. Default 16, at
    /// most [`MAX_EVALUATIONS`].
    pub max_evaluations: usize,
    /// Sum of the declared memory of the admitted requests, of ten chunks for each, of what the host
    /// keeps for the next ones (a quarter at most), and of [`CONNECTION_BYTES`] for each connection,
    /// in bytes. The plans and the program itself come on top. Default 4 GiB.
    pub max_memory_bytes: u64,
    /// Largest request payload in bytes. Default 1 GiB.
    pub max_request_bytes: u64,
    /// Largest reply payload in bytes. Default 1 GiB.
    pub max_reply_bytes: u64,
    /// Data bytes per reply frame, and the largest number accepted per request frame. Default
    /// [`CHUNK_BYTES`].
    pub chunk_bytes: usize,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            max_connections: 256,
            max_connections_per_address: 64,
            max_requests: 1024,
            max_waiting: 256,
            max_waiting_per_client: 64,
            max_evaluations: 16,
            max_memory_bytes: 4 << 30,
            max_request_bytes: 1 << 30,
            max_reply_bytes: 1 << 30,
            chunk_bytes: CHUNK_BYTES,
        }
    }
}

impl ServerLimits {
    /// Memory for connections at their limit, in bytes.
    pub(crate) const fn connection_bytes(&self) -> u64 {
        CONNECTION_BYTES.saturating_mul(self.max_connections as u64)
    }

    /// Check that every limit is usable.
    ///
    /// # Errors
    /// - [`ConfigError::LimitOutOfRange`]: the first that is zero or absurd, and what is allowed.
    pub fn check(&self) -> Result<()> {
        in_range("max_connections", self.max_connections as u64, 1, 1 << 20)?;
        let per_address = self.max_connections_per_address as u64;
        in_range("max_connections_per_address", per_address, 1, 1 << 20)?;
        in_range("max_requests", self.max_requests as u64, 1, 1 << 20)?;
        in_range("max_waiting", self.max_waiting as u64, 0, 1 << 20)?;
        let per_client = self.max_waiting_per_client as u64;
        in_range("max_waiting_per_client", per_client, 0, 1 << 20)?;
        in_range("max_evaluations", self.max_evaluations as u64, 1, MAX_EVALUATIONS as u64)?;
        let least_memory = self.connection_bytes().saturating_add(1);
        in_range("max_memory_bytes", self.max_memory_bytes, least_memory, 1 << 46)?;
        in_range("max_request_bytes", self.max_request_bytes, 1, 1 << 46)?;
        in_range("max_reply_bytes", self.max_reply_bytes, 1, 1 << 46)?;
        in_range("chunk_bytes", self.chunk_bytes as u64, 1, MAX_CHUNK_BYTES as u64)
    }
}

/// How long a server waits for a client before it gives the place to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTimeouts {
    /// For the TLS handshake, and again for the client's first message. Default 10 s.
    pub handshake: Duration,
    /// Between two requests of a connection. Default 120 s.
    pub idle: Duration,
    /// Between two frames of an upload, and for each frame the client has to take. Default 30 s.
    pub stall: Duration,
    /// Slowest upload accepted, in bytes per second, measured over a whole request after one
    /// [`stall`](Self::stall) of grace. The time in which the server itself takes nothing does not
    /// count. Default 16 KiB/s.
    pub min_upload_bytes_per_second: u64,
    /// Slowest download accepted, in bytes per second, measured over the time in which something
    /// waits to be sent, after one [`stall`](Self::stall) of grace. Default 16 KiB/s.
    pub min_download_bytes_per_second: u64,
    /// How long a request waits for admission before it is refused as busy. Default 2 s.
    pub admission: Duration,
    /// From the beginning of the evaluation to the receipt. Default 30 min.
    pub evaluation: Duration,
    /// From admission to receipt, whoever is waited for. Default 1 h.
    pub request: Duration,
    /// Between two progress messages while a request is evaluated. Clients take their absence for
    /// a dead connection, so keep it well below their `silence` limit. Default 500 ms.
    pub progress: Duration,
    /// How long running requests may take to finish after a shutdown was asked for. Default 30 s.
    pub drain: Duration,
}

impl Default for ServerTimeouts {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            idle: Duration::from_secs(120),
            stall: Duration::from_secs(30),
            min_upload_bytes_per_second: 16 << 10,
            min_download_bytes_per_second: 16 << 10,
            admission: Duration::from_secs(2),
            evaluation: Duration::from_secs(30 * 60),
            request: Duration::from_secs(60 * 60),
            progress: Duration::from_millis(500),
            drain: Duration::from_secs(30),
        }
    }
}

impl ServerTimeouts {
    /// Longest time an upload of `payload_bytes` may take.
    pub(crate) fn upload(&self, payload_bytes: u64) -> Duration {
        let slowest = payload_bytes / self.min_upload_bytes_per_second.max(1);
        self.stall.saturating_add(Duration::from_secs(slowest))
    }

    /// Longest time in which something waits to be sent before `sent_bytes` were.
    pub(crate) fn download(&self, sent_bytes: u64) -> Duration {
        let slowest = sent_bytes / self.min_download_bytes_per_second.max(1);
        self.stall.saturating_add(Duration::from_secs(slowest))
    }
}

/// How long a client waits for a server before it counts an attempt as failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientTimeouts {
    /// For the TCP connection and the TLS handshake together. Default 10 s.
    pub connect: Duration,
    /// Without any frame moving in either direction. A server that evaluates sends progress more
    /// often than that. Default 30 s.
    pub silence: Duration,
    /// For the server to acknowledge a cancelled request before its connection is dropped. Default
    /// 2 s.
    pub cancel: Duration,
}

impl Default for ClientTimeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            silence: Duration::from_secs(30),
            cancel: Duration::from_secs(2),
        }
    }
}

/// Accept `actual` in `min..=max`.
pub(crate) fn in_range(name: &'static str, actual: u64, min: u64, max: u64) -> Result<()> {
    if (min..=max).contains(&actual) {
        Ok(())
    } else {
        Err(ConfigError::LimitOutOfRange { name, actual, min, max }.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_accepted_and_each_limit_is_checked() {
        assert!(ServerLimits::default().check().is_ok());
        let rejects: [fn(&mut ServerLimits); 11] = [
            |l| l.max_connections = 0,
            |l| l.max_connections_per_address = 0,
            |l| l.max_waiting_per_client = usize::MAX,
            |l| l.max_requests = 0,
            |l| l.max_waiting = usize::MAX,
            |l| l.max_evaluations = 0,
            |l| l.max_evaluations = MAX_EVALUATIONS + 1,
            |l| l.max_memory_bytes = l.connection_bytes(),
            |l| l.max_request_bytes = 0,
            |l| l.max_reply_bytes = u64::MAX,
            |l| l.chunk_bytes = MAX_CHUNK_BYTES + 1,
        ];
        for alter in rejects {
            let mut limits = ServerLimits::default();
            alter(&mut limits);
            assert!(limits.check().is_err(), "{limits:?}");
        }
    }

    #[test]
    fn upload_time_grows_with_the_payload() {
        let timeouts = ServerTimeouts {
            stall: Duration::from_secs(1),
            min_upload_bytes_per_second: 100,
            ..ServerTimeouts::default()
        };
        assert_eq!(timeouts.upload(0), Duration::from_secs(1));
        assert_eq!(timeouts.upload(1000), Duration::from_secs(11));
    }
}
