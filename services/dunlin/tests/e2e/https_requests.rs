//! Requests of devices as HTTP has them: many on a connection, bodies that wait to be asked for,
//! methods that a path does not take, and a hub that has too much to do.

use dunlin::test_hub::TestHub;
use dunlin_runtime::Role;

use crate::hostile_kit::header;
use crate::hostile_web::{Kept, VERSION, Web};
use crate::mqtt_kit::{Device, Door, beside, bodies, everything};

fn events_of(device: &Device) -> String {
    format!("/{}/messages/events?{VERSION}", device.path())
}

scenario!(a_connection_is_nobodys);
async fn a_connection_is_nobodys(hub: &TestHub) {
    let (device, module) = (Device::create(hub, "d").await, Device::create(hub, "d/m").await);
    let mut kept = Kept::open(&Web::new(hub)).await;
    let queue = format!("/{}/messages/deviceBound?{VERSION}", device.path());
    // The body of a request that is refused is not read as the next one.
    let inner = format!("DELETE {queue} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    for (method, target, of, body, status) in [
        ("POST", events_of(&device), &device, "1", 204),
        ("POST", events_of(&device), &module, &*inner, 401),
        ("POST", events_of(&module), &module, "2", 204),
        ("GET", queue.clone(), &device, "", 204),
        ("GET", queue.clone(), &module, "", 401),
        ("HEAD", queue.clone(), &device, "", 405),
        ("PUT", events_of(&device), &device, &*inner, 405),
        ("POST", events_of(&device), &device, "3", 204),
    ] {
        let answer = kept.ask(method, &target, &of.token(), "", body.as_bytes()).await;
        assert_eq!(answer.status, status, "{method} {target}: {answer:?}");
        let id = header(&answer.head, "x-ms-request-id").expect("an id");
        if status != 204 && method != "HEAD" {
            answer.expect_refusal(&target);
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            assert!(text.contains(&format!("Tracking ID:{id}-TimeStamp:")), "{id}: {text}");
        }
        let allowed = (status == 405).then_some(if method == "HEAD" { "GET" } else { "POST" });
        assert_eq!(header(&answer.head, "allow"), allowed, "{answer:?}");
    }
    let all = everything(hub, &Door::of(hub), &device).await;
    assert_eq!(bodies(&all), ["1", "2", "3"]);
}

scenario!(a_body_is_asked_for_if_it_is_wanted);
async fn a_body_is_asked_for_if_it_is_wanted(hub: &TestHub) {
    let device = Device::create(hub, "d").await;
    let web = Web::new(hub);
    let target = events_of(&device);
    let head = |token: &str, length: usize| {
        format!(
            "POST {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {token}\r\n\
             Expect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    let mut kept = Kept::open(&web).await;
    kept.send(head(&device.token(), 4).as_bytes()).await;
    assert_eq!(kept.answer("POST").await.status, 100);
    kept.send(b"body").await;
    assert_eq!(kept.answer("POST").await.status, 204);
    // Who is refused need not send it.
    for (token, length, status) in [("bad", 4, 401), (&*device.token(), 262_145, 413)] {
        let mut kept = Kept::open(&web).await;
        kept.send(head(token, length).as_bytes()).await;
        assert_eq!(kept.answer("POST").await.status, status);
    }
    assert_eq!(bodies(&everything(hub, &Door::of(hub), &device).await), ["body"]);
}

/// It is told to come again, as it is over MQTT. Its own settings, so beside the test hub.
#[tokio::test]
async fn an_overload_is_no_refusal() {
    let hub = TestHub::all_in_one().await;
    let device = Device::create(&hub, "d").await;
    let events = hub.stores().events.clone();
    let busy = beside(&hub, &Role::ALL, events, |config| config.gateway.max_connecting = 0).await;
    let web = Web::new(&hub).at(busy.gateway.expect("a gateway").https);
    let mut kept = Kept::open(&web).await;
    let answer = kept.ask("POST", &events_of(&device), &device.token(), "", b"x").await;
    assert_eq!(
        (answer.status, header(&answer.head, "iothub-errorcode")),
        (503, Some("ServerBusy"))
    );
    busy.stop().await;
    hub.stop().await;
}
