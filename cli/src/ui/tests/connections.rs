//! Connections that keep others waiting, on a socket of their own.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{LIMIT, fixture};
use crate::ui::door::{self, Limits};
use crate::ui::{Page, routes};

/// A request that does not end.
async fn half_a_request(address: SocketAddr) -> TcpStream {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\nHost: ").await.unwrap();
    socket
}

/// The first line of the answer to a request for the page.
async fn asked(address: SocketAddr) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(LIMIT, socket.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer.lines().next().unwrap().to_owned()
}

#[tokio::test]
async fn half_a_request_does_not_keep_the_page_alive() {
    let desk = fixture().desk;
    let page = Page::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = page.address;
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(page.serve(desk, async { drop(stopped.await) }));
    let mut half = half_a_request(address).await;
    // By now the first one was taken, too.
    assert_eq!(asked(address).await, "HTTP/1.1 200 OK");
    stop.send(()).unwrap();
    timeout(Duration::from_secs(5), serving).await.expect("the page ends").unwrap();
    let closed = timeout(LIMIT, half.read(&mut [0; 64])).await.unwrap();
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
}

#[tokio::test]
async fn half_a_request_gives_its_seat_back() {
    let desk = fixture().desk;
    let page = Page::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = page.address;
    let (head, connection) = (Duration::from_millis(50), LIMIT);
    let limits = Limits { connections: 1, head, connection };
    let routes = routes::routes(desk, page.gate);
    let serving = tokio::spawn(door::answer(page.listener, routes, limits));
    let half = half_a_request(address).await;
    let silent = TcpStream::connect(address).await.unwrap();
    assert_eq!(asked(address).await, "HTTP/1.1 200 OK");
    drop((half, silent));
    serving.abort();
}
