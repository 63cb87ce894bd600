//! A client of the HTTPS port that says what it likes, byte by byte, and what it may expect.

use std::net::SocketAddr;

use dunlin::test_hub::TestHub;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

use crate::hostile_kit::{Answer, header, owner_token};
use crate::raw::{self, within};

pub const VERSION: &str = "api-version=2021-04-12";

#[derive(Clone)]
pub struct Web {
    address: SocketAddr,
    tls: TlsConnector,
    pub token: String,
}

impl Web {
    pub fn new(hub: &TestHub) -> Self {
        let tls = raw::connector(hub.ca_pem());
        Self { address: hub.https_addr(), tls, token: owner_token(hub) }
    }

    /// The same for who has this token.
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: token.to_owned(), ..self.clone() }
    }

    /// The same at another gateway.
    pub fn at(self, address: SocketAddr) -> Self {
        Self { address, ..self }
    }

    pub async fn open_at(&self, address: SocketAddr) -> TlsStream<TcpStream> {
        let tcp = TcpStream::connect(address).await.expect("a connection");
        let name = ServerName::try_from("localhost").expect("a name");
        within("the TLS handshake", self.tls.connect(name, tcp)).await.expect("TLS")
    }

    pub async fn open(&self) -> TlsStream<TcpStream> {
        self.open_at(self.address).await
    }

    /// A request with the owner's token, after which the connection is to end.
    pub fn request(&self, method: &str, target: &str, more: &str, body: &[u8]) -> Vec<u8> {
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {}\r\n\
             Connection: close\r\n{more}\r\n",
            self.token
        );
        [head.as_bytes(), body].concat()
    }

    pub fn with_body(&self, method: &str, target: &str, body: &[u8]) -> Vec<u8> {
        self.request(method, target, &format!("Content-Length: {}\r\n", body.len()), body)
    }

    /// What the hub answers to these bytes, and that it closes the connection then. `ends`: the
    /// client says that nothing more will follow.
    pub async fn say(&self, bytes: &[u8], ends: bool) -> Vec<Answer> {
        let mut stream = self.open().await;
        // The hub may close in the midst of it.
        let _ = within("sending", stream.write_all(bytes)).await;
        let _ = stream.flush().await;
        if ends {
            let _ = stream.shutdown().await;
        }
        let mut came = Vec::new();
        let what = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
        let _ = within(&format!("the close after {what:?}"), stream.read_to_end(&mut came)).await;
        let method = if bytes.starts_with(b"HEAD ") { "HEAD" } else { "" };
        let answers = std::iter::from_fn(|| Answer::take_of(&mut came, method)).collect();
        assert!(came.is_empty(), "{what}: {}", String::from_utf8_lossy(&came));
        answers
    }

    /// Another client is served.
    pub async fn works(&self) {
        let target = format!("/devices/bystander?{VERSION}");
        let answers = self.say(&self.request("GET", &target, "", b""), false).await;
        assert_eq!(answers[0].status, 200, "{answers:?}");
    }

    /// No success, no failure of the hub, no hang.
    pub async fn is_refused(&self, bytes: &[u8], ends: bool) {
        let what = String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned();
        for answer in self.say(bytes, ends).await {
            check_refusal(&what, &answer);
        }
    }
}

/// A connection on which one request follows another.
pub struct Kept {
    stream: TlsStream<TcpStream>,
    came: Vec<u8>,
}

impl Kept {
    pub async fn open(web: &Web) -> Self {
        Self::over(web.open().await)
    }

    pub fn over(stream: TlsStream<TcpStream>) -> Self {
        Self { stream, came: Vec::new() }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        within("sending", self.stream.write_all(bytes)).await.expect("sent");
        self.stream.flush().await.expect("sent");
    }

    /// The next answer, to a request of that method.
    pub async fn answer(&mut self, method: &str) -> Answer {
        loop {
            if let Some(answer) = Answer::take_of(&mut self.came, method) {
                return answer;
            }
            let read = within("an answer", self.stream.read_buf(&mut self.came)).await;
            assert!(read.expect("read") > 0, "closed after {:?}", self.came);
        }
    }

    /// `token` empty: without one.
    pub async fn ask(
        &mut self,
        method: &str,
        target: &str,
        token: &str,
        more: &str,
        body: &[u8],
    ) -> Answer {
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {token}\r\n{more}\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        self.send(&[head.as_bytes(), body].concat()).await;
        self.answer(method).await
    }
}

/// In the hub's own form, or a bare answer to what was no HTTP.
#[track_caller]
pub fn check_refusal(what: &str, answer: &Answer) {
    assert!((400..500).contains(&answer.status), "{what}: {answer:?}");
    if !answer.body.is_empty() || ![400, 414, 431].contains(&answer.status) {
        answer.expect_refusal(what);
    }
    assert!(header(&answer.head, "grpc-status").is_none(), "{what}: {answer:?}");
}

pub async fn site(hub: &TestHub) -> Web {
    hub.create_device("bystander").await;
    Web::new(hub)
}
