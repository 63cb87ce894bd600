//! Replicas come, go and die under a name that tests resolve; calls go over real sockets.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use axum::extract::State;
use axum::routing::get;
use http_body_util::BodyExt;
use tokio::runtime::Runtime;
use tonic::Code;
use tonic::transport::Server;

use super::*;
use crate::Shutdown;

/// Longer than anything takes here: who waits for it has failed.
const DEADLINE: Duration = Duration::from_secs(10);

/// What the name has for addresses; `None`: the resolver fails.
type Names = Arc<Mutex<Option<Vec<SocketAddr>>>>;

/// A process of its own, as far as its sockets tell.
struct Replica {
    runtime: Option<Runtime>,
    address: SocketAddr,
    held: Arc<Notify>,
    holds: Arc<AtomicUsize>,
    stop: Shutdown,
    serving: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Replica {
    async fn start() -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let bind = || std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let listener = bind().expect("a port");
        listener.set_nonblocking(true).expect("set");
        let address = listener.local_addr().expect("bound");
        let (held, holds) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let routes = axum::Router::new()
            .route("/who", get(move || async move { address.to_string() }))
            .route("/hold", get(hold))
            .with_state((held.clone(), holds.clone()));
        let stop = Shutdown::new();
        let stopped = stop.clone().cancelled_owned();
        let serving = runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            let routes = tonic::service::Routes::from(routes).prepare();
            let server = Server::builder().add_routes(routes);
            server.serve_with_incoming_shutdown(incoming, stopped).await
        });
        Self { runtime: Some(runtime), address, held, holds, stop, serving }
    }

    fn kill(self) {}
}

impl Drop for Replica {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A call that is taken and never answered.
async fn hold(State((held, holds)): State<(Arc<Notify>, Arc<AtomicUsize>)>) -> &'static str {
    holds.fetch_add(1, Ordering::SeqCst);
    held.notify_one();
    std::future::pending().await
}

fn peers_of(replicas: &[&Replica], times: Times) -> (Names, Arc<Peers>) {
    let addresses = replicas.iter().map(|one| one.address).collect();
    let names: Names = Arc::new(Mutex::new(Some(addresses)));
    let resolver: Resolver = {
        let names = names.clone();
        Arc::new(move |name| {
            assert_eq!(name, "role.test:9700");
            let found = names.lock().expect("a lock").clone();
            Box::pin(async { found.ok_or_else(|| io::Error::other("no server answers")) })
        })
    };
    let place = Place::parse("http://role.test:9700", &Scheme::HTTP).expect("a URL");
    (names, Peers::new(place, None, resolver, &Handle::current(), times))
}

fn set(names: &Names, addresses: Option<&[&Replica]>) {
    let addresses = addresses.map(|all| all.iter().map(|one| one.address).collect());
    *names.lock().expect("a lock") = addresses;
}

async fn call(peers: &Peers, path: &str) -> Result<String, Status> {
    let request = Request::get(path).body(Body::empty()).expect("a request");
    let answer = timeout(DEADLINE, peers.call(request)).await.expect("an answer in time")?;
    let body = answer.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8_lossy(&body).into_owned())
}

/// Calls until the answers come from these and, all the while, from no one but `others`.
async fn until_called(peers: &Peers, want: &[&Replica], others: &[&Replica]) {
    let names = |all: &[&Replica]| -> HashSet<_> {
        all.iter().map(|one| one.address.to_string()).collect()
    };
    let (mut want, others) = (names(want), names(others));
    let all: HashSet<_> = want.union(&others).cloned().collect();
    let called = async {
        while !want.is_empty() {
            let who = call(peers, "/who").await.expect("answered");
            assert!(all.contains(&who), "{who} is none of {all:?}");
            want.remove(&who);
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, called).await.expect("called within ten seconds");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_comes_is_called_and_one_that_goes_is_not() {
    let (first, second) = (Replica::start().await, Replica::start().await);
    // With the intervals of the hub, since ten seconds are promised.
    let (names, peers) = peers_of(&[&first], Times::default());
    until_called(&peers, &[&first], &[]).await;
    set(&names, Some(&[&first, &second]));
    until_called(&peers, &[&second], &[&first]).await;
    set(&names, Some(&[&second]));
    // It is still there, but not under the name: at some time the calls no longer reach it.
    let gone = async {
        let mut others = 0;
        while others < 10 {
            let who = call(&peers, "/who").await.expect("answered");
            others = if who == first.address.to_string() { 0 } else { others + 1 };
        }
    };
    timeout(DEADLINE, gone).await.expect("let go of");
    for _ in 0..20 {
        assert_eq!(call(&peers, "/who").await.expect("answered"), second.address.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_go_round() {
    let replicas = [Replica::start().await, Replica::start().await, Replica::start().await];
    let (_, peers) = peers_of(&replicas.each_ref(), Times::default());
    until_called(&peers, &replicas.each_ref(), &[]).await;
    let mut answers = HashSet::new();
    for _ in 0..3 {
        answers.insert(call(&peers, "/who").await.expect("answered"));
    }
    assert_eq!(answers.len(), 3);
}

/// A call that may have been carried out is not made twice; those after it go to who is left.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_replica_fails_what_it_had_and_is_not_called_again() {
    let (dies, lives) = (Replica::start().await, Replica::start().await);
    let (_, peers) = peers_of(&[&dies], Times { again: DEADLINE * 10, ..Times::default() });
    let (held, address) = (dies.held.clone(), dies.address);
    let under_way = {
        let peers = peers.clone();
        tokio::spawn(async move { call(&peers, "/hold").await })
    };
    timeout(DEADLINE, held.notified()).await.expect("it is there");
    dies.kill();
    let lost = under_way.await.expect("no panic").expect_err("nobody answers");
    assert_eq!(lost.code(), Code::Unavailable);
    assert!(lost.message().contains("lost role.test:9700"), "{lost}");
    let nobody = call(&peers, "/who").await.expect_err("nobody is left");
    assert_eq!(nobody.code(), Code::Unavailable);
    assert!(nobody.message().contains(&address.to_string()), "{nobody}");

    // The same beside one that lives: not one call is lost but those it had.
    let dies = Replica::start().await;
    let (_, peers) = peers_of(&[&dies, &lives], Times { again: DEADLINE * 10, ..Times::default() });
    until_called(&peers, &[&dies, &lives], &[]).await;
    let (held, dying) = (dies.held.clone(), dies.holds.clone());
    let mut under_way = JoinSet::new();
    for _ in 0..2 {
        let peers = peers.clone();
        under_way.spawn(async move { call(&peers, "/hold").await });
    }
    timeout(DEADLINE, held.notified()).await.expect("it is there");
    timeout(DEADLINE, lives.held.notified()).await.expect("the other one too");
    dies.kill();
    let lost = under_way.join_next().await.expect("one").expect("no panic");
    assert_eq!(lost.expect_err("nobody answers").code(), Code::Unavailable);
    assert_eq!((dying.load(Ordering::SeqCst), lives.holds.load(Ordering::SeqCst)), (1, 1));
    for _ in 0..20 {
        assert_eq!(call(&peers, "/who").await.expect("answered"), lives.address.to_string());
    }
}

/// As in a rolling update: what it has is finished, what comes meanwhile goes to the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_stops_in_good_order_costs_no_call() {
    let (mut stops, stays) = (Replica::start().await, Replica::start().await);
    let (_, peers) = peers_of(&[&stops, &stays], Times::default());
    until_called(&peers, &[&stops, &stays], &[]).await;
    let over = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for _ in 0..8 {
        let (peers, over) = (peers.clone(), over.clone());
        callers.spawn(async move {
            while !over.load(Ordering::SeqCst) {
                call(&peers, "/who").await.expect("answered");
            }
        });
    }
    until_called(&peers, &[&stops, &stays], &[]).await;
    stops.stop.cancel();
    let served = timeout(DEADLINE, &mut stops.serving).await.expect("it ends");
    served.expect("no panic").expect("a good end");
    until_called(&peers, &[&stays], &[]).await;
    over.store(true, Ordering::SeqCst);
    callers.join_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_where_nobody_is_costs_no_call() {
    let (there, dead) = (Replica::start().await, Replica::start().await);
    let address = dead.address;
    dead.kill();
    let (names, peers) = peers_of(&[&there], Times::default());
    names.lock().expect("a lock").as_mut().expect("set").insert(0, address);
    for _ in 0..20 {
        assert_eq!(call(&peers, "/who").await.expect("answered"), there.address.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resolver_that_fails_drops_nobody_and_says_why_nobody_is_there() {
    let replica = Replica::start().await;
    let times = Times { again: Duration::ZERO, ..Times::default() };
    let (names, peers) = peers_of(&[&replica], times);
    until_called(&peers, &[&replica], &[]).await;
    set(&names, None);
    let before = peers.shared.view.borrow().looks;
    let mut views = peers.shared.view.subscribe();
    let looked = views.wait_for(|view| view.looks > before + 2);
    drop(timeout(DEADLINE, looked).await.expect("looked").expect("ours"));
    call(&peers, "/who").await.expect("answered");
    let (names, stranger) = peers_of(&[], Times::default());
    let nobody = call(&stranger, "/who").await.expect_err("nobody");
    assert!(nobody.message().contains("has no address"), "{nobody}");
    set(&names, None);
    let ends = async {
        loop {
            let nobody = call(&stranger, "/who").await.expect_err("nobody");
            assert_eq!(nobody.code(), Code::Unavailable);
            if nobody.message().contains("no server answers") {
                return;
            }
        }
    };
    timeout(DEADLINE, ends).await.expect("it says why");
    set(&names, Some(&[&replica]));
    call(&stranger, "/who").await.expect("found by the next call");
}

/// A name nobody calls is not looked up, and its connections end; the next call finds it again.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_called_is_let_go_of() {
    let replica = Replica::start().await;
    let unused = Duration::from_millis(200);
    let (_, peers) = peers_of(&[&replica], Times { again: Duration::ZERO, unused });
    call(&peers, "/who").await.expect("answered");
    let mut views = peers.shared.view.subscribe();
    let let_go = views.wait_for(|view| view.replicas.is_empty());
    drop(timeout(DEADLINE, let_go).await.expect("in time").expect("ours"));
    assert!(peers.is_unused());
    call(&peers, "/who").await.expect("answered again");
}

#[test]
fn urls_that_are_none_are_refused() {
    #[track_caller]
    fn check(scheme: Scheme, url: &str, want: Option<&str>) {
        let place = Place::parse(url, &scheme);
        assert_eq!(place.as_ref().map(|place| place.name.as_str()), want, "{url}");
    }
    for url in ["", "r", "r:9700", "https://r:1", "http://r:1/path", "http://r:x", "http://u@r:1"] {
        check(Scheme::HTTP, url, None);
    }
    check(Scheme::HTTP, "http://r", Some("r:80"));
    check(Scheme::HTTP, "http://[::1]:9700/", Some("[::1]:9700"));
    check(Scheme::HTTPS, "https://r", Some("r:443"));
    check(Scheme::HTTPS, "http://r:1", None);
}
