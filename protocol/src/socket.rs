//! What every TCP connection of ours is told about peers that are gone without a word.
//!
//! A peer that lost its power or its network sends nothing any more, not even an end. Keepalive finds
//! that out on a silent connection, the user timeout on one with bytes that nobody acknowledges; both
//! free what a deadline of the protocol would hold for longer.

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tracing::debug;

/// Silence after which the system asks the peer's system whether it is there, and the pause between two
/// such questions.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
const KEEPALIVE_PAUSE: Duration = Duration::from_secs(10);

/// Questions without an answer after which the connection is lost.
#[cfg(not(windows))]
const KEEPALIVE_QUESTIONS: u32 = 3;

/// Send small messages at once, and find out when the peer is gone. What the system refuses costs time
/// only, and is logged.
///
/// Bytes that stay unacknowledged, or that the peer has had no room for, for `unacknowledged` end the
/// connection (on Linux): longer than a peer may keep us waiting that is there.
pub(crate) fn prepare(socket: &TcpStream, unacknowledged: Duration) {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_PAUSE);
    #[cfg(not(windows))]
    let keepalive = keepalive.with_retries(KEEPALIVE_QUESTIONS);
    let socket = SockRef::from(socket);
    let outcomes = [
        socket.set_tcp_nodelay(true),
        socket.set_tcp_keepalive(&keepalive),
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(Some(unacknowledged)),
    ];
    #[cfg(not(target_os = "linux"))]
    let _ = unacknowledged;
    for error in outcomes.into_iter().filter_map(Result::err) {
        debug!(%error, "a connection cannot be watched for a peer that is gone");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_prepared_socket_notices_peers_that_are_gone() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        assert!(!SockRef::from(&socket).keepalive().unwrap(), "or the test proves nothing");
        let unacknowledged = Duration::from_secs(70);
        prepare(&socket, unacknowledged);
        let socket = SockRef::from(&socket);
        assert!(socket.keepalive().unwrap() && socket.tcp_nodelay().unwrap());
        #[cfg(target_os = "linux")]
        {
            assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_AFTER);
            assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE_PAUSE);
            assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_QUESTIONS);
            assert_eq!(socket.tcp_user_timeout().unwrap(), Some(unacknowledged));
        }
    }
}
