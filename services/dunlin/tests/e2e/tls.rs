//! TLS handshakes in numbers. What OpenSSL makes of them, record by record, is in `tests/sdk`.

use dunlin::test_hub::TestHub;

use crate::mqtt_kit::Door;

/// A ClientHello often arrives before the hub has got round to the connection: it must be answered
/// all the same. (The TLS layer once lost the answer of some in a hundred.)
#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_come_all_at_once_are_all_answered() {
    let hub = TestHub::all_in_one().await;
    let door = Door::of(&hub);
    let opening: Vec<_> = (0..300)
        .map(|_| {
            let door = door.clone();
            tokio::spawn(async move { door.open().await })
        })
        .collect();
    for open in opening {
        open.await.expect("a connection");
    }
    hub.stop().await;
}
