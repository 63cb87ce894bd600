//! Hostile requests to the HTTPS port: each gets a refusal in the hub's own form, a bare 4xx where
//! it was no HTTP, or a closed connection; never a 5xx, and others are served as before.

use dunlin::test_hub::TestHub;
use dunlin_storage::testing::seeded;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::hostile_web::{VERSION, Web, check_refusal, site};

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
        // Of the device API, by the owner, who may speak as any device.
        "/devices/nobody/messages/events",
        "/devices/bystander/messages/events/",
        "/devices//messages/events",
        "/devices/%ff/messages/events",
        "/devices/a%00b/messages/events",
        "/devices/a%2fb/messages/devicebound",
        "/devices/bystander/modules//messages/events",
        "/devices/bystander/modules/%0d%0a/messages/events",
        "/devices/bystander/messages/devicebound/%ff%fe",
        "/devices/bystander/messages/devicebound/%00?reject",
        "/devices/bystander/messages/devicebound/?reject=%ff",
        "/devices/bystander/messages/devicebound//abandon",
        "/devices/bystander/messages/devicebound/%0d%0a/abandon",
        "/devices/bystander/messages/devicebound/x/complete",
        "/dunlin/v1/events?last-event-id=-1:1",
        "/dunlin/v1/events?from=9999999999-01-01T00:00:00Z",
        "/dunlin/v1/events?device=%00",
        "/dunlin/v1/events?group=%2e%2e%2f",
        "/dunlin/v1/events?last-event-id=0:99999999999999999999999",
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

fn no_http(web: &Web) -> Vec<Vec<u8>> {
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
    let mut random = seeded("DUNLIN_HTTP_SEED");
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
