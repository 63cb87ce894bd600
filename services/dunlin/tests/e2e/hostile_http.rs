//! Hostile requests to the HTTPS port: each gets a refusal in the hub's own form, a bare 4xx where
//! it was no HTTP, or a closed connection; never a 5xx, and others are served as before.

use dunlin::test_hub::TestHub;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

use crate::hostile_kit::{Answer, header, no_panic_goes_unseen, owner_token};
use crate::raw::{self, within};

const VERSION: &str = "api-version=2021-04-12";

pub struct Web<'a> {
    hub: &'a TestHub,
    tls: TlsConnector,
    pub token: String,
}

impl<'a> Web<'a> {
    pub fn new(hub: &'a TestHub) -> Self {
        Self { hub, tls: raw::connector(hub.ca_pem()), token: owner_token(hub) }
    }

    pub async fn open_at(&self, address: std::net::SocketAddr) -> TlsStream<TcpStream> {
        let tcp = TcpStream::connect(address).await.expect("a connection");
        let name = ServerName::try_from("localhost").expect("a name");
        within("the TLS handshake", self.tls.connect(name, tcp)).await.expect("TLS")
    }

    pub async fn open(&self) -> TlsStream<TcpStream> {
        self.open_at(self.hub.https_addr()).await
    }

    /// A request with the owner's token, after which the connection is to end.
    fn request(&self, method: &str, target: &str, more: &str, body: &[u8]) -> Vec<u8> {
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {}\r\n\
             Connection: close\r\n{more}\r\n",
            self.token
        );
        [head.as_bytes(), body].concat()
    }

    fn with_body(&self, method: &str, target: &str, body: &[u8]) -> Vec<u8> {
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
    async fn works(&self) {
        let target = format!("/devices/bystander?{VERSION}");
        let answers = self.say(&self.request("GET", &target, "", b""), false).await;
        assert_eq!(answers[0].status, 200, "{answers:?}");
    }

    /// No success, no failure of the hub, no hang.
    async fn is_refused(&self, bytes: &[u8], ends: bool) {
        let what = String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned();
        for answer in self.say(bytes, ends).await {
            check_refusal(&what, &answer);
        }
    }
}

/// In the hub's own form, or a bare answer to what was no HTTP.
#[track_caller]
fn check_refusal(what: &str, answer: &Answer) {
    assert!((400..500).contains(&answer.status), "{what}: {answer:?}");
    if !answer.body.is_empty() || ![400, 414, 431].contains(&answer.status) {
        answer.expect_refusal(what);
    }
    assert!(header(&answer.head, "grpc-status").is_none(), "{what}: {answer:?}");
}

async fn site(hub: &TestHub) -> Web<'_> {
    no_panic_goes_unseen();
    hub.create_device("bystander").await;
    Web::new(hub)
}

scenario!(every_truncation_of_a_request);
async fn every_truncation_of_a_request(hub: &TestHub) {
    let web = site(hub).await;
    let put = web.with_body("PUT", &format!("/devices/new?{VERSION}"), br#"{"deviceId":"new"}"#);
    for end in (0..put.len() - 60).step_by(7).chain(put.len() - 60..put.len()) {
        assert!(web.say(&put[..end], true).await.iter().all(|one| one.status / 100 == 4), "{end}");
        if end % 64 == 0 {
            web.works().await;
        }
    }
    let device = hub.client().device_get("new").await;
    assert!(device.is_err(), "a request that was cut off has had an effect");
    assert_eq!(web.say(&put, false).await[0].status, 200, "the whole one is good");
}

scenario!(no_path_leads_inside);
async fn no_path_leads_inside(hub: &TestHub) {
    let web = site(hub).await;
    let method = "dunlin.v1.Registry/GetPolicy";
    let mut targets = vec![
        "/dunlin.v1.DeviceLink/Disconnect".to_owned(),
        "/dunlin%2ev1.Registry/GetPolicy".to_owned(),
        "/dunlin.v1.Registry%2fGetPolicy".to_owned(),
        "/rest".to_owned(),
        "/rest/".to_owned(),
        format!("/rest/devices/bystander?{VERSION}"),
    ];
    for start in [
        "/",
        "//",
        "///",
        "/../",
        "/../../",
        "/./",
        "/%2e%2e/",
        "/.%2e/",
        "/%2E%2E%2F",
        "/..%2f",
        "/\\",
        "/..\\",
        "/%5c",
        "/%00/",
        "/%00",
        "/rest/",
        "/rest/../",
        "/rest//",
        "/rest/rest/../../",
        "/devices/../",
        "/devices/d/../../",
        "/devices/%2e%2e/%2e%2e/",
        "/;/",
        "/?/",
        "/#/",
        "https://localhost/",
        "https://localhost/../",
        "http://api/",
        "grpc://api/",
    ] {
        targets.push(format!("{start}{method}"));
    }
    // A GetPolicyRequest for the owner's policy, as gRPC frames it.
    let policy = b"\x0a\x0ciothubowner";
    let body = [&[0, 0, 0, 0, policy.len() as u8], &policy[..]].concat();
    let owner = hub.owner_connection_string().key.to_base64();
    for target in &targets {
        let more = format!("Content-Type: application/grpc\r\nContent-Length: {}\r\n", body.len());
        for verb in ["GET", "POST"] {
            let request = match verb {
                "GET" => web.request(verb, target, "", b""),
                _ => web.request(verb, target, &more, &body),
            };
            let answers = web.say(&request, false).await;
            assert_eq!(answers.len(), 1, "{verb} {target}: {answers:?}");
            check_refusal(target, &answers[0]);
            let text = String::from_utf8_lossy(&answers[0].body);
            assert!(!text.contains(&owner), "{target} gave a key away");
        }
    }
    web.works().await;
}

scenario!(targets_and_methods_that_no_client_has);
async fn targets_and_methods_that_no_client_has(hub: &TestHub) {
    let web = site(hub).await;
    for target in [
        "*",
        "devices",
        "localhost:443",
        "?",
        "/devices/%",
        "/devices/%zz",
        "/devices/%ff%fe",
        "/devices/%c0%80",
        "/devices/%ed%a0%80",
        "/devices/a%00b",
        "/devices/a%2fb",
        "/devices/a%0d%0ab",
        "/devices/",
        "/devices/../../etc/passwd",
        "/devices/.",
        "/devices/..",
        "/devices//",
        "/devices/d/modules/..",
        "/devices?top=99999999999999999999",
        "/devices?top=1e3",
        "/devices?top=%ff",
        "/devices?top=1&top=2",
        "/dunlin/v1/events?after=-1:1",
        "/dunlin/v1/events?from=9999999999-01-01T00:00:00Z",
        "/dunlin/v1/events?device=%00",
        "/dunlin/v1/events?group=%2e%2e%2f",
        "/dunlin/v1/events?after=0:99999999999999999999999",
    ] {
        for method in ["GET", "PUT", "DELETE", "POST", "PATCH", "HEAD", "TRACE", "CONNECT", "BREW"]
        {
            // Those that a list or a stream is due for.
            let versioned = match target.split_once('?') {
                Some(_) => format!("{target}&{VERSION}"),
                None => format!("{target}?{VERSION}"),
            };
            for target in [target, &versioned] {
                let answers = web.say(&web.request(method, target, "", b""), false).await;
                for answer in &answers {
                    let listed = answer.status == 200 && ["GET", "HEAD"].contains(&method);
                    assert!(answer.status < 500, "{method} {target}: {answer:?}");
                    let refused = answer.status >= 400;
                    assert!(listed || refused, "{method} {target}: {answer:?}");
                }
            }
        }
    }
    web.works().await;
}

fn no_http(web: &Web<'_>) -> Vec<Vec<u8>> {
    let target = format!("/devices/new?{VERSION}");
    let long = "x".repeat(40 * 1_024);
    let body = br#"{"deviceId":"new"}"#;
    let mut requests: Vec<Vec<u8>> = [
        &b"\r\n\r\n\0"[..],
        b"GET\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost\r\n\r\n",
        b"GET / HTTP/1.1\r\n: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nA b: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: x\0y\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: x\r\n folded\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nAuthorization: \xff\xfe\r\nConnection: close\r\n\r\n",
        b"G\xffT / HTTP/1.1\r\n\r\n",
        b"GET  /  HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        b"\x10\x10\0\x04MQTT\x04\x02\0\x3c\0\x04name",
    ]
    .map(<[u8]>::to_vec)
    .to_vec();
    requests.push(web.request("GET", &format!("/{long}"), "", b""));
    requests.push(web.request(&long, "/", "", b""));
    requests.push(web.request("GET", "/", &format!("X: {long}\r\n"), b""));
    requests.push(web.request("GET", "/", &format!("{long}: x\r\n"), b""));
    requests.push(web.request("GET", "/", &"X: y\r\n".repeat(200), b""));
    requests.push(web.request("GET", "/", &"X: y\r\n".repeat(20_000), b""));
    for length in ["-1", "+5", "5, 6", "0x12", "", "5\r\nContent-Length: 6", "99999999999999999999"]
    {
        let more = format!("Content-Length: {length}\r\n");
        requests.push(web.request("PUT", &target, &more, body));
    }
    for coding in [
        "xchunked",
        "chunked, identity",
        "identity",
        "\x0bchunked",
        "chunked\r\nTransfer-Encoding: gzip",
    ] {
        let more = format!("Transfer-Encoding: {coding}\r\n");
        requests.push(web.request(
            "PUT",
            &target,
            &more,
            b"12\r\n{\"deviceId\":\"new\"}\r\n0\r\n\r\n",
        ));
    }
    let long_extension = format!("1;{}\r\n{{\r\n0\r\n\r\n", "x".repeat(100_000));
    for chunks in [
        "zz\r\n{}\r\n0\r\n\r\n",
        "-1\r\n{}\r\n0\r\n\r\n",
        "fffffffffffffffff\r\n{}\r\n0\r\n\r\n",
        "2\r\n{}0\r\n\r\n",
        " 2\r\n{}\r\n0\r\n\r\n",
        "\r\n",
        "0x2\r\n{}\r\n0\r\n\r\n",
        &long_extension,
    ] {
        let more = "Transfer-Encoding: chunked\r\n";
        requests.push(web.request("PUT", &target, more, chunks.as_bytes()));
    }
    requests
}

scenario!(what_is_no_http);
async fn what_is_no_http(hub: &TestHub) {
    let web = site(hub).await;
    for request in no_http(&web) {
        web.is_refused(&request, true).await;
    }
    for request in no_http(&web).iter().filter(|request| request.ends_with(b"\r\n\r\n")) {
        // The same from a client that waits for an answer; one whose body seems to be still on its
        // way is told to go on instead, and so left out.
        if request.starts_with(b"G") {
            web.is_refused(request, false).await;
        }
    }
    assert!(hub.client().device_get("new").await.is_err(), "one of them has had an effect");
    web.works().await;
}

scenario!(lengths_that_lie);
async fn lengths_that_lie(hub: &TestHub) {
    let web = site(hub).await;
    let target = format!("/devices/new?{VERSION}");
    // More is announced than comes.
    let more = "Content-Length: 1000\r\n";
    let answers = web.say(&web.request("PUT", &target, more, b"{}"), true).await;
    answers.iter().for_each(|answer| check_refusal("cut off", answer));
    // Too much is announced: refused unread. (The connection ends with it.)
    let more = format!("Content-Length: {}\r\n", u64::MAX);
    let answers = web.say(&web.request("PUT", &target, &more, b"{}"), true).await;
    answers.iter().for_each(|answer| check_refusal("u64::MAX", answer));
    let large = web.with_body("PUT", &target, &vec![b' '; (1 << 20) + 1]);
    let answers = web.say(&large, false).await;
    assert_eq!(answers[0].expect_refusal("1 MiB and a byte"), "MessageTooLarge");
    // Less than comes: the rest would be the next request.
    let inner = web.request("DELETE", &format!("/devices/bystander?{VERSION}"), "", b"");
    let more = "Content-Length: 2\r\n";
    let two = web.request("PUT", &target, more, &[b"{}", &inner[..]].concat());
    let answers = web.say(&two, false).await;
    assert_eq!(
        (answers.len(), answers[0].status),
        (1, 200),
        "after Connection: close comes nothing"
    );
    // Both lengths: one meaning for all who read it, or none.
    let smuggled = [b"0\r\n\r\n", &inner[..]].concat();
    for more in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    ] {
        let answers = web.say(&web.request("POST", &target, more, &smuggled), false).await;
        assert!(answers.len() <= 1, "{more}: {answers:?}");
        answers.iter().for_each(|answer| check_refusal(more, answer));
    }
    web.works().await;
}

scenario!(bodies_that_are_no_identity);
async fn bodies_that_are_no_identity(hub: &TestHub) {
    let web = site(hub).await;
    let target = format!("/devices/new?{VERSION}");
    for body in [
        &b"\xff\xfe{}"[..],
        b"{\"deviceId\":\"\xff\"}",
        b"{\"deviceId\":\"\xc0\x80\"}",
        br#"{"deviceId":"\ud800"}"#,
        br#"{"deviceId":"new","deviceId":"new"}"#,
        br#"{"status":"enabled","status":"disabled"}"#,
        br#"{"authentication":{"type":"sas","type":"none"}}"#,
        br#"{"authentication":{"symmetricKey":{"primaryKey":"","primaryKey":""}}}"#,
        br#"{"status":1e999}"#,
        br#"{"status":99999999999999999999999999}"#,
        br#"{"status":NaN}"#,
        b"{\"status\":\"enabled\0\"}",
        b"{} {}",
        b"{}\0",
        b"\xef\xbb\xbf{}",
        b"null",
        b"true",
        b"1",
        b"\"x\"",
        b"",
    ] {
        let answers = web.say(&web.with_body("PUT", &target, body), false).await;
        answers[0].expect_refusal(&String::from_utf8_lossy(body));
    }
    for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("{\"authentication\":", "}")] {
        let deep = format!("{{\"x\":{}1{}}}", open.repeat(10_000), close.repeat(10_000));
        for body in [deep.clone(), open.repeat(10_000)] {
            let answers = web.say(&web.with_body("PUT", &target, body.as_bytes()), false).await;
            // What nobody reads is passed over without recursion, and so may be deep.
            if answers[0].status == 200 {
                hub.client().device_delete("new", "*").await.expect("it was made");
            } else {
                answers[0].expect_refusal(open);
            }
        }
    }
    // Every field as every type. What is allowed creates the device, which then goes again.
    let values = [
        json!(null),
        json!(true),
        json!(-1),
        json!(1e300),
        json!(u64::MAX),
        json!("x"),
        json!(""),
        json!("\u{0}"),
        json!([]),
        json!([{}]),
        json!({}),
        json!({"type": []}),
        json!("x".repeat(5_000)),
    ];
    let fields = [
        "deviceId",
        "moduleId",
        "status",
        "statusReason",
        "authentication",
        "capabilities",
        "capabilities/iotEdge",
        "authentication/type",
        "authentication/symmetricKey",
        "authentication/symmetricKey/primaryKey",
        "authentication/symmetricKey/secondaryKey",
        "authentication/x509Thumbprint",
        "authentication/x509Thumbprint/primaryThumbprint",
        "etag",
        "generationId",
        "statusUpdatedTime",
        "cloudToDeviceMessageCount",
        "connectionState",
    ];
    for (field, value) in fields.iter().flat_map(|field| values.iter().map(move |v| (field, v))) {
        let body = field.rsplit('/').fold(value.clone(), |inner, name| json!({ name: inner }));
        let body = body.to_string();
        let answers = web.say(&web.with_body("PUT", &target, body.as_bytes()), false).await;
        if answers[0].status == 200 {
            hub.client().device_delete("new", "*").await.expect("it was made");
        } else {
            answers[0].expect_refusal(&body);
        }
    }
    web.works().await;
}

scenario!(pipelines_expectations_and_upgrades);
async fn pipelines_expectations_and_upgrades(hub: &TestHub) {
    let web = site(hub).await;
    let get = |path: &str, more: &str| {
        let token = &web.token;
        format!("GET {path}?{VERSION} HTTP/1.1\r\nHost: h\r\nAuthorization: {token}\r\n{more}\r\n")
    };
    // Many at once, the last but one is hostile: answered in order up to it.
    let good = get("/devices/bystander", "");
    let all = [good.repeat(20), "GET / HTTP/9.9\r\n\r\n".to_owned(), good.clone()].concat();
    let answers = web.say(all.as_bytes(), false).await;
    let statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [vec![200; 20], vec![400]].concat());
    for more in [
        "Connection: upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        "Connection: upgrade, http2-settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
    ] {
        let answers = web.say(get("/nothing", more).as_bytes(), false).await;
        assert_eq!(answers[0].expect_refusal(more), "GenericNotFound");
    }
    // 100 Continue if the body is waited for; then the answer.
    let more = "Expect: 100-continue\r\nContent-Length: 2\r\n";
    let put = format!("/devices/new?{VERSION}");
    let answers = web.say(&web.request("PUT", &put, more, b"{}"), false).await;
    let statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
    assert!([&[200][..], &[100, 200]].contains(&&statuses[..]), "{statuses:?}");
    let head = "PUT /devices/x?api-version=2021-04-12 HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\
                Content-Length: 2\r\nConnection: close\r\n\r\n";
    let answers = web.say(head.as_bytes(), false).await;
    // Between processes the body may be asked for before the refusal is there.
    let answer = answers.last().expect("an answer");
    assert_eq!(answer.expect_refusal("no token"), "IotHubUnauthorized");
    // HTTP/1.0, without a host.
    let old = format!(
        "GET /devices/bystander?{VERSION} HTTP/1.0\r\nAuthorization: {}\r\n\r\n",
        web.token
    );
    assert_eq!(web.say(old.as_bytes(), false).await[0].status, 200);
    web.works().await;
}

/// Bytes at random after TLS, without TLS, and a good request with bytes changed.
/// `DUNLIN_HTTP_SEED` repeats a run.
#[tokio::test]
async fn random_requests() {
    let seed = std::env::var("DUNLIN_HTTP_SEED").ok().and_then(|text| text.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| fastrand::u64(..));
    // Shown when the test fails.
    eprintln!("random_requests: DUNLIN_HTTP_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let hub = TestHub::all_in_one().await;
    let web = site(&hub).await;
    let good = web.with_body("PUT", &format!("/devices/new?{VERSION}"), br#"{"deviceId":"new"}"#);
    for round in 0..300 {
        let mut bytes = good.clone();
        if round % 3 == 0 {
            bytes = (0..random.usize(1..300)).map(|_| random.u8(..)).collect();
        } else {
            for _ in 0..random.usize(1..6) {
                let at = random.usize(..bytes.len());
                bytes[at] = random.u8(..);
            }
        }
        for answer in web.say(&bytes, true).await {
            assert!(answer.status < 500, "{answer:?} to {bytes:x?}");
        }
        if round % 10 == 0 {
            let mut tcp = TcpStream::connect(hub.https_addr()).await.expect("a connection");
            let _ = tcp.write_all(&bytes).await;
            web.works().await;
        }
    }
    hub.stop().await;
}
