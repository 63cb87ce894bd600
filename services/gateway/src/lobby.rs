//! The lobby of a connection thread: who has come in and has not said yet who it is. It is bounded,
//! and whoever has been in it longest goes first when it is full; who has left it is never touched.
//!
//! A flood of half-open connections so costs a bounded amount of memory and descriptors, and a
//! device gets through as long as it takes less time than the lobby takes to fill.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ntex::io::IoRef;
use tokio::sync::Notify;

/// What must stay free of a process' descriptors for stores, other processes and the admin port.
const RESERVE: std::ops::RangeInclusive<usize> = 128..=1_024;
/// An unfinished connection costs tens of kilobytes: more of them than this help no honest device.
const MOST_UNFINISHED: usize = 2_048;
/// However many threads share the bound, each has room for a burst.
const LEAST_UNFINISHED: usize = 64;

/// How long a newcomer is not sent away for another one: more than a handshake takes, even where
/// two thousand are ahead of it.
const GRACE: Duration = Duration::from_secs(1);

/// How many connections there may be: of a process, and of one head on one thread.
#[derive(Clone)]
pub struct Limits {
    /// Of the process, open at present and at most.
    open: Arc<AtomicUsize>,
    most_open: usize,
    /// In one lobby.
    most_waiting: usize,
    /// HTTPS connections of one thread.
    most_https: usize,
}

impl Limits {
    /// From the settings (0: as the descriptor limit allows) and what they are shared by.
    pub fn new(unfinished: usize, https: usize, workers: usize, descriptors: usize) -> Self {
        let reserve = (descriptors / 16).clamp(*RESERVE.start(), *RESERVE.end());
        let most_open = descriptors.saturating_sub(reserve).max(1);
        let unfinished = match unfinished {
            0 => (descriptors / 8).min(MOST_UNFINISHED).max(LEAST_UNFINISHED * workers),
            asked => asked,
        };
        let https = if https == 0 { most_open / 4 } else { https };
        Self {
            open: Arc::default(),
            most_open,
            most_waiting: unfinished.div_ceil(workers),
            most_https: https.div_ceil(workers),
        }
    }

    pub fn mqtt_lobby(&self) -> Rc<Lobby> {
        Rc::new(Lobby::new(self.clone(), usize::MAX))
    }

    pub fn https_lobby(&self) -> Rc<Lobby> {
        Rc::new(Lobby::new(self.clone(), self.most_https))
    }
}

/// Of one head, on one thread.
pub struct Lobby<C: Closes = IoRef> {
    limits: Limits,
    /// Connections of this head and thread, waiting or not, and at most.
    inside: Cell<usize>,
    most_inside: usize,
    /// In order of arrival. It holds nothing of a connection that has left, and the tree's depth is
    /// nothing beside a handshake.
    waiting: RefCell<BTreeMap<u64, (Instant, C)>>,
    /// One has left those who wait.
    left: Notify,
    next: Cell<u64>,
    evicted: Cell<u64>,
}

/// What can be closed from outside its task.
pub trait Closes {
    fn close_now(&self);
}

impl Closes for IoRef {
    fn close_now(&self) {
        self.terminate();
    }
}

impl<C: Closes> Lobby<C> {
    fn new(limits: Limits, most_inside: usize) -> Self {
        Self {
            limits,
            inside: Cell::new(0),
            most_inside,
            waiting: RefCell::default(),
            left: Notify::new(),
            next: Cell::new(0),
            evicted: Cell::new(0),
        }
    }

    /// Lets a connection in. `None`: there is no room, and nobody to make any.
    pub fn enter(self: &Rc<Self>, connection: C) -> Option<(Seat<C>, Waiting<C>)> {
        let full = self.inside.get() >= self.most_inside
            || self.limits.open.load(Ordering::Relaxed) >= self.limits.most_open;
        // One goes for one that comes: who was told to go still counts until its task has ended.
        if full && !self.evict() {
            self.count_eviction();
            return None;
        }
        self.inside.set(self.inside.get() + 1);
        self.limits.open.fetch_add(1, Ordering::Relaxed);
        Some((Seat(self.clone()), self.wait(connection)))
    }

    /// Resolves when the next connection may be let in: while the lobby is full of newcomers it
    /// is they who have their turn, and the next wait in the kernel's queue. A storm of honest
    /// devices is so served in order; a flood of silent ones holds it up for [`GRACE`] at a time.
    pub async fn room(&self) {
        loop {
            let oldest = {
                let waiting = self.waiting.borrow();
                if waiting.len() < self.limits.most_waiting {
                    return;
                }
                waiting.first_key_value().map_or(GRACE, |(_, (since, _))| since.elapsed())
            };
            let Some(patience) = GRACE.checked_sub(oldest).filter(|left| !left.is_zero()) else {
                return;
            };
            let _ = tokio::time::timeout(patience, self.left.notified()).await;
        }
    }

    /// A connection waits for its peer (again).
    pub fn wait(self: &Rc<Self>, connection: C) -> Waiting<C> {
        if self.waiting.borrow().len() >= self.limits.most_waiting {
            self.evict();
        }
        let place = self.next.replace(self.next.get() + 1);
        self.waiting.borrow_mut().insert(place, (Instant::now(), connection));
        Waiting { lobby: self.clone(), place }
    }

    /// Closes the connection that has waited longest. `false`: none waits.
    fn evict(&self) -> bool {
        let oldest = self.waiting.borrow_mut().pop_first();
        let Some((_, (_, connection))) = oldest else { return false };
        connection.close_now();
        self.count_eviction();
        true
    }

    /// Tells of it at the first, second, fourth, … : a flood must not fill the log.
    fn count_eviction(&self) {
        let evicted = self.evicted.get() + 1;
        self.evicted.set(evicted);
        if evicted.is_power_of_two() {
            tracing::warn!(evicted, "unfinished or idle connections make room for new ones");
        }
    }
}

/// A connection counts for as long as it has its seat.
pub struct Seat<C: Closes = IoRef>(Rc<Lobby<C>>);

impl<C: Closes> Seat<C> {
    pub fn lobby(&self) -> &Rc<Lobby<C>> {
        &self.0
    }
}

impl<C: Closes> Drop for Seat<C> {
    fn drop(&mut self) {
        self.0.inside.set(self.0.inside.get() - 1);
        self.0.limits.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A place in the lobby; dropped, the connection has left it.
pub struct Waiting<C: Closes = IoRef> {
    lobby: Rc<Lobby<C>>,
    place: u64,
}

impl<C: Closes> Drop for Waiting<C> {
    fn drop(&mut self) {
        self.lobby.waiting.borrow_mut().remove(&self.place);
        self.lobby.left.notify_one();
    }
}

/// Raises the process' descriptor limit to the most it may have, and returns it. A connection is a
/// descriptor, and the usual limit of 1,024 is there for programs that use `select`.
pub fn raise_descriptor_limit() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_err()
    {
        tracing::debug!("the descriptor limit stays as it is");
    }
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Fake(Rc<Cell<bool>>);

    impl Closes for Fake {
        fn close_now(&self) {
            self.0.set(true);
        }
    }

    fn lobby(most_open: usize, most_waiting: usize, most_inside: usize) -> Rc<Lobby<Fake>> {
        let limits = Limits { open: Arc::default(), most_open, most_waiting, most_https: 0 };
        Rc::new(Lobby::new(limits, most_inside))
    }

    #[test]
    fn the_oldest_unfinished_makes_room_and_a_finished_one_never() {
        let lobby = lobby(100, 2, 100);
        let all: Vec<Fake> = (0..4).map(|_| Fake::default()).collect();
        let (_seat, finished) = lobby.enter(all[0].clone()).expect("room");
        drop(finished);
        let _others: Vec<_> =
            all[1..].iter().map(|one| lobby.enter(one.clone()).expect("room")).collect();
        let closed: Vec<_> = all.iter().map(|one| one.0.get()).collect();
        assert_eq!(closed, [false, true, false, false]);
    }

    #[test]
    fn nobody_comes_in_where_only_finished_ones_are() {
        for (most_open, most_inside) in [(1, 100), (100, 1)] {
            let lobby = lobby(most_open, 10, most_inside);
            let first = Fake::default();
            let (seat, waiting) = lobby.enter(first.clone()).expect("room");
            drop(waiting);
            assert!(lobby.enter(Fake::default()).is_none());
            assert!(!first.0.get());
            drop(seat);
            let (_seat, _waiting) = lobby.enter(Fake::default()).expect("room again");
        }
    }

    #[test]
    fn an_unfinished_one_makes_room_for_another_where_descriptors_end() {
        let lobby = lobby(1, 10, 100);
        let first = Fake::default();
        let (_seat, _waiting) = lobby.enter(first.clone()).expect("room");
        assert!(lobby.enter(Fake::default()).is_some());
        assert!(first.0.get());
    }

    #[test]
    fn who_waits_again_waits_behind_the_others() {
        let lobby = lobby(100, 2, 100);
        let (idle, other) = (Fake::default(), Fake::default());
        let (_seat, waiting) = lobby.enter(idle.clone()).expect("room");
        let (_other_seat, _other_waiting) = lobby.enter(other.clone()).expect("room");
        drop(waiting);
        let _again = lobby.wait(idle.clone());
        let (_last_seat, _last_waiting) = lobby.enter(Fake::default()).expect("room");
        assert!(other.0.get() && !idle.0.get());
        assert_eq!(lobby.waiting.borrow().len(), 2);
    }

    #[test]
    fn limits_come_from_the_descriptors_unless_they_are_set() {
        let limits = Limits::new(0, 0, 2, 20_000);
        assert_eq!((limits.most_open, limits.most_waiting), (18_976, 1_024));
        assert_eq!(limits.most_https, 2_372);
        let limits = Limits::new(0, 0, 4, 1_048_576);
        assert_eq!((limits.most_open, limits.most_waiting), (1_047_552, 512));
        let limits = Limits::new(0, 0, 16, 1_024);
        assert_eq!((limits.most_open, limits.most_waiting), (896, 64));
        let limits = Limits::new(10, 7, 2, 256);
        assert_eq!((limits.most_open, limits.most_waiting, limits.most_https), (128, 5, 4));
    }
}
