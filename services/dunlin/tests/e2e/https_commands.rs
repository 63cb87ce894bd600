//! C2D messages over HTTPS: received one at a time, settled by lock, in every form SDKs have for it.

use dunlin_proto::v1::{Ack, Command, CommandProperty, Disposition};

use crate::c2d_kit::Site;
use crate::hostile_kit::{Answer, header};
use crate::hostile_web::{VERSION, Web};
use crate::mqtt_commands::listen;
use crate::mqtt_kit::Device;

struct Client {
    web: Web,
    path: String,
}

impl Client {
    fn new(site: &Site, device: &Device) -> Self {
        let address = site.beside.gateway.expect("a gateway").https;
        let web = Web::new(&site.hub).with_token(&device.token()).at(address);
        Self { web, path: format!("/{}/messages", device.path()) }
    }

    async fn ask(&self, method: &str, rest: &str, more: &str) -> Answer {
        let join = if rest.contains('?') { '&' } else { '?' };
        let target = format!("{}/{rest}{join}{VERSION}", self.path);
        let mut answers = self.web.say(&self.web.request(method, &target, more, b""), false).await;
        assert_eq!(answers.len(), 1, "{answers:?}");
        answers.remove(0)
    }

    /// The lock of the message that is received next.
    async fn receive(&self) -> String {
        let answer = self.ask("GET", "deviceBound", "").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let etag = header(&answer.head, "etag").expect("a lock");
        let lock = etag.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).expect("quotes");
        lock.to_owned()
    }

    async fn settled(&self, method: &str, rest: &str, more: &str) {
        let answer = self.ask(method, rest, more).await;
        assert_eq!((answer.status, answer.body.len()), (204, 0), "{method} {rest}: {answer:?}");
    }
}

#[tokio::test]
async fn a_message_comes_with_its_properties() {
    let site = Site::start().await;
    let device = Device::create(&site.hub, "a+b").await;
    let client = Client::new(&site, &device);
    for path in ["deviceBound", "devicebound", "DEVICEBOUND"] {
        let answer = client.ask("GET", path, "").await;
        assert_eq!((answer.status, answer.body.len()), (204, 0), "{answer:?}");
    }
    let property = |name: &str, value: &str| CommandProperty {
        name: name.to_owned(),
        value: value.to_owned(),
    };
    let text = |text: &str| Some(text.to_owned());
    let command = Command {
        message_id: text("mid"),
        correlation_id: text("cid"),
        user_id: text("uid"),
        content_type: text("application/json"),
        content_encoding: text("utf-8"),
        expires: Some(1_763_600_000_123),
        ack: Ack::Negative.into(),
        properties: vec![
            property("Colour", "red"),
            property("no header", "x"),
            property("lines", "a\r\nb: c"),
        ],
        body: b"\0\xff{}".to_vec(),
    };
    site.queues.put("a+b", command);
    // The C# SDK asks for a longer lock here, the Java SDK so; the hub keeps its own.
    let more = "iothub-messagelocktimeout: 180\r\n";
    let answer = client.ask("GET", "deviceBound?iothub-messagelocktimeout=60", more).await;
    assert_eq!((answer.status, &*answer.body), (200, &b"\0\xff{}"[..]));
    for (name, want) in [
        ("iothub-messageid", "mid"),
        ("iothub-correlationid", "cid"),
        ("iothub-userid", "uid"),
        ("ContentType", "application/json"),
        ("ContentEncoding", "utf-8"),
        ("iothub-contenttype", "application/json"),
        ("iothub-contentencoding", "utf-8"),
        ("iothub-expiry", "2025-11-20T00:53:20.1230000Z"),
        ("iothub-ack", "negative"),
        ("iothub-app-Colour", "red"),
        ("iothub-to", "/devices/a%2Bb/messages/deviceBound"),
        ("iothub-sequencenumber", "1"),
        ("iothub-deliverycount", "0"),
        ("iothub-enqueuedtime", "2025-11-20T00:53:20.1230000Z"),
    ] {
        assert_eq!(header(&answer.head, name), Some(want), "{name} of {}", answer.head);
    }
    // The C SDK looks for these letter by letter, and takes a property's name as it comes.
    for name in ["ETag", "ContentType", "ContentEncoding", "iothub-messageid", "iothub-app-Colour"]
    {
        assert!(answer.head.contains(&format!("\r\n{name}: ")), "{name} of {}", answer.head);
    }
    assert!(!answer.head.contains("no header") && header(&answer.head, "b").is_none());
    // It is under a lock: there is no other.
    assert_eq!(client.ask("GET", "deviceBound", "").await.status, 204);
    site.stop().await;
}

#[tokio::test]
async fn every_way_to_settle() {
    let site = Site::start().await;
    let device = Device::create(&site.hub, "d").await;
    let client = Client::new(&site, &device);
    let (done, refused) = (Disposition::Complete, Disposition::Reject);
    for (query, if_match, want) in [
        ("", "", done),
        ("", "If-Match: \"{lock}\"\r\n", done),
        ("", "If-Match: {lock}\r\nContent-Length: 0\r\n", done),
        ("?reject", "", refused),
        ("?reject=", "If-Match: \"{lock}\"\r\n", refused),
        ("?reject=true", "", refused),
        ("?%3Freject=true", "If-Match: {lock}\r\n", refused),
    ] {
        site.queues.put_text("d", "x");
        let lock = client.receive().await;
        let more = if_match.replace("{lock}", &lock);
        client.settled("DELETE", &format!("devicebound/{lock}{query}"), &more).await;
        let last = site.queues.state().settled.last().copied();
        assert_eq!(last.map(|(_, disposition)| disposition), Some(want), "{query}");
        assert_eq!(site.queues.state().left("d"), 0);
    }
    // Abandoned it comes again, at once.
    site.queues.put_text("d", "x");
    for more in ["", "IfMatch: \"{lock}\"\r\nContent-Length: 0\r\n", "If-Match: {lock}\r\n"] {
        let lock = client.receive().await;
        let more = more.replace("{lock}", &lock);
        client.settled("POST", &format!("deviceBound/{lock}/abandon"), &more).await;
        let last = site.queues.state().settled.last().copied();
        assert_eq!(last.map(|(_, disposition)| disposition), Some(Disposition::Abandon));
    }
    let answer = client.ask("GET", "deviceBound", "").await;
    assert_eq!(header(&answer.head, "iothub-deliverycount"), Some("3"));
    site.stop().await;
}

#[tokio::test]
async fn a_lock_that_is_none() {
    let site = Site::start().await;
    let device = Device::create(&site.hub, "d").await;
    let client = Client::new(&site, &device);
    site.queues.put_text("d", "x");
    let lock = client.receive().await;
    site.queues.expire_locks();
    for lock in [&*lock, "00000000-0000-0000-0000-000000000000", "x", "%ff", "a%2Fb"] {
        for (method, rest) in [
            ("DELETE", format!("deviceBound/{lock}")),
            ("DELETE", format!("deviceBound/{lock}?reject")),
            ("POST", format!("deviceBound/{lock}/abandon")),
        ] {
            let answer = client.ask(method, &rest, "").await;
            let code = answer.expect_refusal(&rest);
            assert_eq!((answer.status, &*code), (412, "DeviceMessageLockLost"), "{rest}");
        }
    }
    for (method, rest) in [
        ("POST", "deviceBound"),
        ("PUT", "deviceBound/x"),
        ("GET", "deviceBound/x"),
        ("GET", "deviceBound/x/abandon"),
    ] {
        let answer = client.ask(method, rest, "").await;
        assert_eq!(answer.expect_refusal(rest), "GenericMethodNotAllowed");
    }
    assert!(site.queues.state().settled.is_empty());
    // Another's queue is not for it.
    let other = Device::create(&site.hub, "other").await;
    let stranger = Client { web: client.web.with_token(&other.token()), ..client };
    assert_eq!(stranger.ask("GET", "deviceBound", "").await.status, 401);
    // A module has none.
    let module = Device::create(&site.hub, "d/m").await;
    let module = Client::new(&site, &module);
    assert_eq!(module.ask("GET", "deviceBound", "").await.status, 204);
    assert_eq!(module.ask("DELETE", &format!("deviceBound/{lock}"), "").await.status, 412);
    site.stop().await;
}

#[tokio::test]
async fn a_role_that_fails_is_a_passing_fault() {
    let site = Site::start().await;
    let device = Device::create(&site.hub, "d").await;
    let client = Client::new(&site, &device);
    site.queues.state().failing = true;
    for (method, rest) in [("GET", "deviceBound"), ("DELETE", "deviceBound/x")] {
        assert_eq!(client.ask(method, rest, "").await.status, 503);
    }
    site.queues.state().failing = false;
    // What one way has received the other has not.
    site.queues.put_text("d", "1");
    let lock = client.receive().await;
    let mut raw = site.door.enter(&device.connect()).await;
    listen(&mut raw, &device, 1).await;
    raw.expect_alive().await;
    client.settled("POST", &format!("deviceBound/{lock}/abandon"), "").await;
    site.notify("d").await;
    assert_eq!(raw.published().await.text(), "1");
    assert_eq!(client.ask("GET", "deviceBound", "").await.status, 204);
    site.stop().await;
}
