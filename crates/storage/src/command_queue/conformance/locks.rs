//! Locks, and the ends they come to.

use super::*;

pub async fn a_hand_out_has_the_first_that_are_free(stores: Stores) {
    stores.queued(&["1", "2", "3", "4", "5"]).await;
    let first = stores.leased(1, 0, 2, NOW).await;
    assert_eq!(ids(&first), ["1", "2"]);
    assert_eq!(ids(&stores.leased(1, 2, 1, NOW).await), ["3"]);
    assert_eq!(stores.settle(1, &[first[0].token], Disposition::Abandon, NOW).await, [true]);
    let again = stores.leased(1, 3, 2, NOW).await;
    assert_eq!(ids(&again), ["1", "4"], "it is back where it was");
    assert_eq!([again[0].delivery_count, again[1].delivery_count], [1, 0]);
    assert_eq!(stores.settle(1, &[first[0].token], Disposition::Complete, NOW).await, [false]);
    let both = [again[0].token, first[1].token];
    assert_eq!(stores.settle(1, &both, Disposition::Complete, NOW).await, [true, true]);
    assert_eq!(stores.settle(1, &both, Disposition::Complete, NOW).await, [false, false]);
    assert_eq!(ids(&stores.leased(1, 5, 9, NOW).await), ["5"]);
    assert_eq!(stores.leased(1, 20, 9, NOW).await, []);
    assert_eq!(stores.leased(1, 20, 0, NOW).await, []);
    assert_eq!(stores.count(NOW).await, 3);
}

pub async fn a_hand_out_is_bounded_in_bytes(stores: Stores) {
    stores.queued(&["1", "2", "3"]).await;
    let lease = |first: usize, bytes| {
        let tokens = (first..first + 9).map(token).collect();
        let stores = &stores;
        async move {
            let leased = stores.queue.command_lease("d", 1, tokens, bytes, NOW, &rules()).await;
            leased.expect("lease").messages.len()
        }
    };
    // Two bytes each: the id and the body.
    assert_eq!(lease(0, 1).await, 1, "one in any case");
    assert_eq!(lease(10, 3).await, 2);
}

pub async fn a_lock_ends_with_its_time(stores: Stores) {
    stores.queued(&["1"]).await;
    let leased = stores.leased(1, 0, 1, NOW).await;
    assert_eq!(stores.leased(1, 1, 1, NOW + MINUTE - 1).await, []);
    // The clock goes back and forth: nothing comes of it.
    assert_eq!(stores.leased(1, 1, 1, NOW - HOUR).await, []);
    assert_eq!(stores.sweep(NOW + MINUTE - 1).await, Swept::default());
    let again = stores.leased(1, 1, 1, NOW + MINUTE).await;
    assert_eq!((ids(&again), again[0].delivery_count), (vec!["1"], 1));
    assert_eq!(stores.settle(1, &tokens(&leased), Disposition::Complete, NOW).await, [false]);
    let over = NOW + 2 * MINUTE;
    assert_eq!(stores.settle(1, &tokens(&again), Disposition::Complete, over).await, [false]);
    assert_eq!(stores.count(over).await, 1);
}

/// Whose lock ends by time is known from a sweep, or from the call that was there before it.
pub async fn who_brings_a_message_back_is_told_so(stores: Stores) {
    stores.queued(&["1", "2", "3"]).await;
    let (held, none) = (stores.leased(0, 0, 1, NOW).await, token(99));
    let settle = async |token: LockToken, way, now| {
        let settled = stores.queue.command_settle("d", 0, &[token], way, now, &rules()).await;
        settled.expect("settle")
    };
    let lease = async |n: usize, now| {
        let tokens = vec![token(n)];
        let lease = stores.queue.command_lease("d", 0, tokens, 9, now, &rules()).await;
        let lease = lease.expect("lease");
        (ids(&lease.messages).join(""), lease.returned)
    };
    let of = |held: bool, returned| Settlement { held: vec![held], returned };
    let (complete, abandon) = (Disposition::Complete, Disposition::Abandon);
    assert_eq!(settle(none, complete, NOW).await, of(false, false));
    assert_eq!(settle(held[0].token, abandon, NOW).await, of(true, true));
    assert_eq!(lease(1, NOW).await, ("1".into(), false));
    assert_eq!(lease(2, NOW).await, ("2".into(), false));
    assert_eq!(settle(none, complete, NOW + MINUTE).await, of(false, true));
    assert_eq!(settle(none, complete, NOW + MINUTE).await, of(false, false));
    assert_eq!(lease(3, NOW + MINUTE).await, ("1".into(), false));
    // Its count is at the maximum now: it ends.
    assert_eq!(lease(4, NOW + 2 * MINUTE).await, ("2".into(), false));
    assert_eq!(lease(5, NOW + 3 * MINUTE).await, ("2".into(), true));
    assert_eq!(settle(token(5), abandon, NOW + 3 * MINUTE).await, of(true, false));
}

pub async fn who_is_swept_is_told_of(stores: Stores) {
    stores.queued(&["1", "2"]).await;
    stores.create("e").await;
    stores.send("e", command("3"), NOW).await.expect("send");
    stores.leased(1, 0, 1, NOW).await;
    let over = stores.sweep(NOW + MINUTE).await;
    assert_eq!(over, Swept { looked: 1, returned: vec!["d".into()] });
    assert_eq!(stores.sweep(NOW + MINUTE).await, Swept::default());
    let expired = stores.queue.command_sweep(1, NOW + HOUR, &rules()).await.expect("sweep");
    assert_eq!(expired, Swept { looked: 1, returned: Vec::new() });
    let expired = stores.queue.command_sweep(1, NOW + HOUR, &rules()).await.expect("sweep");
    assert_eq!(expired.looked, 1);
    let mut told = stores.told(NOW + HOUR).await;
    told.sort();
    assert_eq!(told, ended(&["1", "2", "3"].map(|id| (id, Outcome::Expired))));
}

pub async fn each_way_in_vain_ends_at_the_maximum(stores: Stores) {
    stores.create("d").await;
    let ways = ["abandon", "time", "lost connection", "taken over"];
    let mut now = NOW;
    for (n, way) in ways.into_iter().enumerate() {
        let late = Command { expires: Some(now + HOUR), ..command(way) };
        stores.send("d", late, now).await.expect("send");
        for round in 0..3 {
            let epoch = (100 * (n + 1) + 2 * round) as Epoch;
            let held = stores.leased(epoch, 10 * epoch as usize, 1, now).await;
            assert_eq!((ids(&held), held[0].delivery_count), (vec![way], round as u32));
            // A clean end of a connection does not count.
            stores.release(epoch, false, now).await;
            let held = stores.leased(epoch, 10 * epoch as usize + 1, 1, now).await;
            assert_eq!(held[0].delivery_count, round as u32);
            match way {
                "abandon" => {
                    let abandon = Disposition::Abandon;
                    assert_eq!(stores.settle(epoch, &tokens(&held), abandon, now).await, [true]);
                }
                "time" => now += MINUTE,
                "lost connection" => stores.release(epoch, true, now).await,
                // Of the last, too: the count is at its end before anything is handed out.
                _ => {
                    let next = stores.leased(epoch + 1, 10 * epoch as usize + 2, 1, now).await;
                    assert_eq!(next.is_empty(), round == 2);
                    stores.release(epoch + 1, false, now).await;
                }
            }
        }
        assert_eq!(stores.count(now).await, 0, "{way}");
        assert_eq!(stores.leased(900, 0, 1, now).await, [], "{way}");
        assert_eq!(stores.told(now).await, ended(&[(way, Outcome::DeliveryCountExceeded)]));
    }
}

pub async fn a_newer_connection_takes_over(stores: Stores) {
    stores.queued(&["1", "2", "3"]).await;
    let old = stores.leased(5, 0, 2, NOW).await;
    let new = stores.leased(6, 10, 9, NOW).await;
    assert_eq!(ids(&new), ["1", "2", "3"]);
    assert_eq!(new.iter().map(|one| one.delivery_count).collect::<Vec<_>>(), [1, 1, 0]);
    for disposition in [Disposition::Complete, Disposition::Abandon, Disposition::Reject] {
        assert_eq!(stores.settle(5, &tokens(&old), disposition, NOW).await, [false; 2]);
        // Nor by a token that is good, in another's name.
        assert_eq!(stores.settle(5, &tokens(&new), disposition, NOW).await, [false; 3]);
        assert_eq!(stores.settle(0, &tokens(&new), disposition, NOW).await, [false; 3]);
    }
    stores.release(5, true, NOW).await;
    assert!(matches!(stores.lease(5, 20, 9, NOW).await, Err(StoreError::PreconditionFailed)));
    assert_eq!(stores.settle(6, &tokens(&new), Disposition::Complete, NOW).await, [true; 3]);
    // It is still the newest when there is nothing left.
    stores.send("d", command("4"), NOW).await.expect("send");
    assert!(matches!(stores.lease(5, 20, 9, NOW).await, Err(StoreError::PreconditionFailed)));
    assert_eq!(ids(&stores.leased(6, 30, 9, NOW).await), ["4"]);
}

pub async fn a_request_without_a_connection_stands_apart(stores: Stores) {
    stores.queued(&["1", "2", "3"]).await;
    let request = stores.leased(0, 0, 1, NOW).await;
    assert_eq!(ids(&stores.leased(7, 1, 1, NOW).await), ["2"], "its lock stays");
    let second = stores.leased(0, 2, 1, NOW).await;
    assert_eq!(ids(&second), ["3"], "it needs no epoch");
    stores.release(0, true, NOW).await;
    assert_eq!(stores.settle(7, &tokens(&request), Disposition::Complete, NOW).await, [false]);
    assert_eq!(stores.settle(0, &tokens(&request), Disposition::Complete, NOW).await, [true]);
    stores.release(7, false, NOW).await;
    assert_eq!(ids(&stores.leased(0, 3, 9, NOW).await), ["2"]);
    assert_eq!(ids(&stores.leased(0, 30, 9, NOW + MINUTE).await), ["2", "3"]);
}

pub async fn what_is_locked_expires_with_its_lock(stores: Stores) {
    stores.create("d").await;
    for id in ["completed", "abandoned", "timed out", "released", "never had"] {
        let short = Command { expires: Some(NOW + 10), ..command(id) };
        stores.send("d", short, NOW).await.expect("send");
    }
    let held = stores.leased(1, 0, 4, NOW).await;
    let late = NOW + 10;
    assert_eq!(stores.count(NOW + 9).await, 5);
    assert_eq!(stores.count(late).await, 4);
    assert_eq!(stores.leased(1, 10, 9, late).await, []);
    assert_eq!(stores.settle(1, &[held[0].token], Disposition::Complete, late).await, [true]);
    assert_eq!(stores.settle(1, &[held[1].token], Disposition::Abandon, late).await, [true]);
    let want = [
        ("never had", Outcome::Expired),
        ("completed", Outcome::Success),
        ("abandoned", Outcome::Expired),
    ];
    assert_eq!(stores.told(late).await, ended(&want));
    assert_eq!(stores.count(NOW + MINUTE - 1).await, 2);
    assert_eq!(stores.count(NOW + MINUTE).await, 0, "nobody has looked yet");
    stores.release(1, false, NOW + MINUTE - 1).await;
    let want = [("timed out", Outcome::Expired), ("released", Outcome::Expired)];
    assert_eq!(stores.told(NOW + MINUTE).await, ended(&want));
}
