//! The front door over an API that never answers: a client that goes away ends its request there.

use std::sync::Arc;

use axum::Router;
use axum::routing::any;
use dunlin::test_hub::TestHub;
use dunlin_gateway::TlsFiles;
use dunlin_runtime::{Mesh, Role, Shutdown, mesh};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::raw::{self, within};

struct Ends(Arc<Notify>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// What the API has seen of a request.
#[derive(Clone, Default)]
struct Seen {
    began: Arc<Notify>,
    ended: Arc<Notify>,
}

impl Seen {
    fn routes(&self) -> Router {
        let seen = self.clone();
        let never = move || async move {
            let _ends = Ends(seen.ended);
            seen.began.notify_one();
            std::future::pending::<()>().await;
        };
        Router::new().route("/rest/{*path}", any(never))
    }
}

/// The two ways to the API: in the gateway's process, and in one of its own.
async fn meshes(seen: &Seen) -> [Mesh; 2] {
    let elsewhere = || "http://127.0.0.1:1".to_owned();
    let config = mesh::Config {
        registry: elsewhere(),
        twins: elsewhere(),
        c2d: elsewhere(),
        ..Default::default()
    };
    let here = Mesh::new(config.clone(), &[Role::Api, Role::Gateway], Handle::current());
    here.attach(seen.routes());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let api = format!("http://{}", listener.local_addr().expect("bound"));
    let served = here.clone();
    tokio::spawn(async move { served.serve(listener, Shutdown::new()).await });
    let there = Mesh::new(mesh::Config { api, ..config }, &[Role::Gateway], Handle::current());
    [here, there]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_ends_its_request() {
    // For its stores and its certificate.
    let hub = TestHub::all_in_one().await;
    let tls = raw::connector(hub.ca_pem());
    let seen = Seen::default();
    for mesh in meshes(&seen).await {
        let file = |name: &str| hub.folder().join("tls").join(name);
        let mut config = dunlin_gateway::Config::default();
        (config.mqtt_port, config.https_port, config.workers) = (0, 0, 1);
        let context = dunlin_gateway::Context {
            config,
            hostnames: vec!["localhost".to_owned()],
            mesh,
            events: hub.stores().events.clone(),
            presence: hub.stores().presence.clone(),
            tls: TlsFiles { certificate: file("server.pem"), key: file("server.key") },
        };
        let (gateway, addresses) = dunlin_gateway::build(context).expect("a gateway");
        let stop = Shutdown::new();
        let running = tokio::spawn((gateway.run)(stop.clone()));
        for (request, in_order) in [
            ("POST /twins/d/methods HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", true),
            ("POST /twins/d/methods HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", false),
            ("GET /twins/d/methods HTTP/1.1\r\nHost: x\r\n\r\n", false),
        ] {
            let tcp = TcpStream::connect(addresses.https).await.expect("a connection");
            let name = ServerName::try_from("localhost").expect("a name");
            let mut stream = within("TLS", tls.connect(name, tcp)).await.expect("TLS");
            stream.write_all(request.as_bytes()).await.expect("sent");
            stream.flush().await.expect("sent");
            within("the request in the API", seen.began.notified()).await;
            if in_order {
                stream.shutdown().await.expect("TLS ends");
            }
            drop(stream);
            within("its end", seen.ended.notified()).await;
        }
        stop.cancel();
        running.await.expect("no panic").expect("ended well");
    }
    hub.stop().await;
}
