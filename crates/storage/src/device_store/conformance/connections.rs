//! What is on record of connections.

use dunlin_model::session::{QoS, Topic};
use dunlin_model::{ConnectionState, Session, Subscriptions};

use super::{Store, create, get, id, sample};
use crate::device_store::{ConnectionReport, IfMatch};

/// Of a connection that the node "n" holds.
fn report(
    joined: &str,
    epoch: u64,
    connected: bool,
    updated: i64,
    active: i64,
) -> ConnectionReport {
    report_by("n", joined, epoch, connected, updated, active)
}

fn report_by(
    node: &str,
    joined: &str,
    epoch: u64,
    connected: bool,
    updated: i64,
    active: i64,
) -> ConnectionReport {
    ConnectionReport::State {
        id: id(joined),
        generation_id: format!("generation of {joined}"),
        epoch,
        state: ConnectionState { connected, updated, last_activity: active },
        node: node.to_owned(),
    }
}

async fn state(store: &Store, joined: &str) -> (bool, i64, i64) {
    let state = get(store, joined).await.expect("it exists").connection;
    (state.connected, state.updated, state.last_activity)
}

pub async fn the_newest_connection_is_on_record(store: Store) {
    create(&store, "d").await;
    create(&store, "d/m").await;
    assert_eq!(state(&store, "d").await, (false, 0, 0));
    for (what, report, want) in [
        ("connects", report("d", 5, true, 100, 100), (true, 100, 100)),
        ("is told twice", report("d", 5, true, 100, 100), (true, 100, 100)),
        ("is active", report("d", 5, true, 100, 150), (true, 100, 150)),
        ("is active, told without its begin", report("d", 5, true, 160, 160), (true, 100, 160)),
        ("was active before that", report("d", 5, true, 100, 120), (true, 100, 160)),
        ("an older one ends", report("d", 4, false, 165, 165), (true, 100, 165)),
        ("is active without a connection", report("d", 0, false, 0, 168), (true, 100, 168)),
        ("is taken over", report("d", 6, true, 170, 170), (true, 170, 170)),
        ("the former ends", report("d", 5, false, 171, 171), (true, 170, 171)),
        ("ends", report("d", 6, false, 200, 190), (false, 200, 190)),
        ("its connect comes late", report("d", 6, true, 170, 170), (false, 200, 190)),
        ("its activity comes late", report("d", 6, true, 170, 195), (false, 200, 195)),
        ("by a clock that was set back", report("d", 7, true, 90, 90), (true, 90, 195)),
    ] {
        store.connections_record(vec![report]).await.expect("record");
        assert_eq!(state(&store, "d").await, want, "{what}");
    }
    assert_eq!(state(&store, "d/m").await, (false, 0, 0), "a module has its own");
    store.connections_record(vec![report("d/m", 0, false, 0, 299)]).await.expect("record");
    assert_eq!(state(&store, "d/m").await, (false, 0, 299), "never connected");
    let both = vec![report("d/m", 8, true, 300, 300), report("d/m", 8, false, 301, 301)];
    store.connections_record(both).await.expect("record");
    assert_eq!(state(&store, "d/m").await, (false, 301, 301), "in order");
}

pub async fn a_connection_belongs_to_one_generation(store: Store) {
    let none = report("d", 5, true, 1, 1);
    store.connections_record(vec![none.clone()]).await.expect("passed over");
    create(&store, "d").await;
    assert_eq!(state(&store, "d").await, (false, 0, 0));
    store.connections_record(vec![none]).await.expect("record");
    store.identity_delete(&id("d"), IfMatch::Any).await.expect("delete");
    let mut again = sample("d");
    again.generation_id = "another".into();
    store.identity_create(again).await.expect("create");
    assert_eq!(state(&store, "d").await, (false, 0, 0), "it goes with the identity");
    store.connections_record(vec![report("d", 6, true, 2, 2)]).await.expect("passed over");
    assert_eq!(state(&store, "d").await, (false, 0, 0), "it was the former identity's");
}

pub async fn writes_leave_the_connection_alone(store: Store) {
    let mut device = create(&store, "d").await;
    store.connections_record(vec![report("d", 5, true, 1, 2)]).await.expect("record");
    device.connection = ConnectionState { connected: false, updated: 9, last_activity: 9 };
    device.status_reason = None;
    let stored = store.identity_replace(device, IfMatch::Any).await.expect("replace");
    assert_eq!(stored.connection.updated, 1);
    assert_eq!(state(&store, "d").await, (true, 1, 2));
    assert_eq!(store.device_list("", 1).await.expect("list"), [stored]);
}

pub async fn the_newest_session_is_kept(store: Store) {
    let session = |topics: &[Topic], model: Option<&str>| Session {
        subscriptions: topics
            .iter()
            .fold(Subscriptions::NONE, |all, topic| all.with(*topic, QoS::AtLeastOnce)),
        model_id: model.map(str::to_owned),
    };
    let say = async |joined: &str, epoch, session: &Session, keep_subscriptions| {
        let report = ConnectionReport::Session {
            id: id(joined),
            generation_id: format!("generation of {joined}"),
            epoch,
            session: session.clone(),
            keep_subscriptions,
        };
        let told = store.connections_record(vec![report]).await.expect("record");
        let [told] = told.try_into().expect("an answer for each");
        told
    };
    let tell = async |joined: &str, epoch, session: &Session| {
        say(joined, epoch, session, false).await.as_ref() == Some(session)
    };
    let kept = async |joined: &str| get(&store, joined).await.expect("it exists").session;
    let some = session(&[Topic::Methods, Topic::Desired], Some("dtmi:a;1"));
    assert!(!tell("d", 5, &some).await);
    create(&store, "d").await;
    create(&store, "d/m").await;
    assert_eq!(kept("d").await, Session::default(), "told of before it existed");
    assert!(tell("d", 5, &some).await);
    assert_eq!(kept("d").await, some);
    assert_eq!(kept("d/m").await, Session::default(), "a module has its own");
    assert_eq!(state(&store, "d").await, (false, 0, 0), "it says nothing of a connection");
    assert!(!tell("d", 4, &session(&[], None)).await);
    assert_eq!(kept("d").await, some, "told by an older connection");
    let other = session(&[Topic::Commands], None);
    assert!(tell("d", 5, &other).await);
    assert_eq!(kept("d").await, other);
    store.connections_record(vec![report("d", 9, true, 1, 1)]).await.expect("record");
    assert!(tell("d", 8, &some).await);
    assert_eq!(kept("d").await, some, "a connection that has told of no session is no bar");
    // A connection that takes over: from now on it is the only one that may tell.
    let newer = session(&[Topic::Commands], Some("dtmi:b;1"));
    let taken = Session { subscriptions: some.subscriptions, model_id: newer.model_id.clone() };
    assert_eq!(say("d", 9, &newer, true).await, Some(taken.clone()));
    assert!(!tell("d", 8, &some).await);
    assert_eq!(kept("d").await, taken);
    assert_eq!(say("d/m", 9, &newer, true).await.expect("taken in").subscriptions.bits(), 0);
    assert!(tell("d", 9, &some).await);
    let mut device = get(&store, "d").await.expect("it exists");
    device.session = other;
    let stored = store.identity_replace(device, IfMatch::Any).await.expect("replace");
    assert_eq!((stored.session, kept("d").await), (some.clone(), some));
    store.identity_delete(&id("d"), IfMatch::Any).await.expect("delete");
    create(&store, "d").await;
    assert_eq!(kept("d").await, Session::default(), "it goes with the identity");
}

pub async fn a_dead_nodes_connections_are_ended(store: Store) {
    for joined in ["a", "b", "c", "c/m", "d"] {
        create(&store, joined).await;
    }
    assert!(store.node_list().await.expect("list").is_empty());
    let reports = vec![
        report_by("dead", "a", 5, true, 1, 1),
        report_by("dead", "b", 6, true, 2, 2),
        report_by("dead", "b", 6, false, 3, 3),
        report_by("other", "c", 7, true, 4, 4),
        report_by("dead", "c/m", 8, true, 5, 5),
        report_by("dead", "d", 9, true, 6, 6),
        report_by("other", "d", 10, true, 7, 7),
    ];
    store.connections_record(reports).await.expect("record");
    let connected = async || store.device_statistics().await.expect("count").connected;
    assert_eq!(connected().await, 3, "modules do not count");
    assert_eq!(store.node_list().await.expect("list"), ["dead", "other"]);
    assert_eq!(store.node_end("nobody", 50, 9).await.expect("end"), 0);
    assert_eq!(store.node_end("dead", 50, 1).await.expect("end"), 1);
    assert_eq!(state(&store, "a").await, (false, 50, 1), "the smallest id comes first");
    assert_eq!(state(&store, "c/m").await, (true, 5, 5), "not more than asked for");
    assert_eq!(store.node_end("dead", 51, 9).await.expect("end"), 1);
    assert_eq!(state(&store, "c/m").await, (false, 51, 5));
    assert_eq!(store.node_end("dead", 52, 9).await.expect("end"), 0);
    assert_eq!(state(&store, "a").await, (false, 50, 1), "it is ended once");
    assert_eq!(state(&store, "b").await, (false, 3, 3), "it had ended before");
    assert_eq!(state(&store, "c").await, (true, 4, 4));
    assert_eq!(state(&store, "d").await, (true, 7, 7), "it has connected elsewhere");
    assert_eq!(store.node_list().await.expect("list"), ["other"]);
    assert_eq!(connected().await, 2);
    store.identity_delete(&id("c"), IfMatch::Any).await.expect("delete");
    store.identity_delete(&id("d"), IfMatch::Any).await.expect("delete");
    assert!(store.node_list().await.expect("list").is_empty());
    assert_eq!(connected().await, 0);
}

pub async fn a_node_that_was_not_dead_has_its_connections_back(store: Store) {
    for joined in ["back", "gone", "moved"] {
        create(&store, joined).await;
    }
    let all = ["back", "gone", "moved"].map(|joined| report(joined, 5, true, 1, 1));
    store.connections_record(all.to_vec()).await.expect("record");
    assert_eq!(store.node_end("n", 50, 9).await.expect("end"), 3);
    let reports = vec![
        report("back", 5, true, 60, 55),
        report("gone", 5, false, 61, 56),
        report_by("other", "moved", 6, true, 62, 62),
        report("moved", 5, true, 63, 63),
    ];
    store.connections_record(reports.clone()).await.expect("record");
    for (joined, want) in
        [("back", (true, 60, 55)), ("gone", (false, 50, 56)), ("moved", (true, 62, 63))]
    {
        assert_eq!(state(&store, joined).await, want, "{joined}");
    }
    assert_eq!(store.node_list().await.expect("list"), ["n", "other"]);
    let late = vec![report("gone", 5, true, 70, 70)];
    store.connections_record(late).await.expect("record");
    assert_eq!(state(&store, "gone").await, (false, 50, 70), "its end has been told of");
    assert_eq!(store.node_end("n", 80, 9).await.expect("end"), 1, "it may die again");
    store.connections_record(vec![report("back", 4, true, 90, 1)]).await.expect("record");
    assert_eq!(state(&store, "back").await, (false, 80, 55), "an older one is no reason");
}
