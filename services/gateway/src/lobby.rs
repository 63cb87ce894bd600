//! The lobby of a connection thread: who has come in and has not said yet who it is. It is bounded,
//! and whoever has been in it longest goes first when it is full; who has left it is never touched.
//!
//! A flood of half-open connections so costs a bounded amount of memory and descriptors, and a
//! device gets through as long as it takes less time than the lobby takes to fill. HTTPS has its
//! own share of the descriptors: however many devices are connected, they can be administered.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dunlin_runtime::Shutdown;
use ntex::io::IoRef;
use tokio::sync::Notify;
use tokio::time::Instant;

/// What must stay free of a process' descriptors for stores, other processes and the admin port.
const RESERVE: std::ops::RangeInclusive<usize> = 128..=1_024;
/// An unfinished connection costs tens of kilobytes: more of them than this help no honest device.
const MOST_UNFINISHED: usize = 2_048;
/// However many threads share the bound, each has room for a burst.
const LEAST_UNFINISHED: usize = 64;

/// How long a newcomer is not sent away for another one: more than a handshake takes, even where
/// two thousand are ahead of it.
const GRACE: Duration = Duration::from_secs(1);

/// How long who is in the lobby has to say who it is when the hub stops: a device's handshake over
/// a slow network, and not so long that a silent stranger holds up a restart.
const FAREWELL: Duration = Duration::from_secs(5);

/// How many connections there may be: of devices in a process, of HTTPS on one thread.
#[derive(Clone)]
pub struct Limits {
    /// Of the process, open at present and at most.
    devices: Arc<AtomicUsize>,
    most_devices: usize,
    most_https: usize,
    /// In one lobby.
    most_waiting: usize,
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
        let https = if https == 0 { most_open / 8 } else { https };
        Self {
            devices: Arc::default(),
            most_devices: most_open.saturating_sub(https).max(1),
            most_https: https.div_ceil(workers),
            most_waiting: unfinished.div_ceil(workers),
        }
    }

    /// Connections of devices that are open at present.
    pub fn devices(&self) -> usize {
        self.devices.load(Ordering::Relaxed)
    }

    pub fn mqtt_lobby<C: Closes>(&self) -> Rc<Lobby<C>> {
        Rc::new(Lobby::new(self.devices.clone(), self.most_devices, self.most_waiting))
    }

    pub fn https_lobby<C: Closes>(&self) -> Rc<Lobby<C>> {
        Rc::new(Lobby::new(Arc::default(), self.most_https, self.most_waiting))
    }
}

/// Of one head, on one thread.
pub struct Lobby<C: Closes = IoRef> {
    /// Connections of all lobbies that share the bound.
    open: Arc<AtomicUsize>,
    most_open: usize,
    /// Connections of this head and thread, waiting or not.
    inside: Cell<usize>,
    most_waiting: usize,
    /// In order of arrival. It holds nothing of a connection that has left, and the tree's depth is
    /// nothing beside a handshake.
    waiting: RefCell<BTreeMap<u64, (Instant, C)>>,
    progress: Cell<Progress>,
    /// One has left those who wait, or altogether.
    left: Notify,
    draining: Shutdown,
    next: Cell<u64>,
    evicted: Cell<u64>,
}

/// How many have left by themselves, by periods of [`GRACE`].
#[derive(Clone, Copy)]
struct Progress {
    since: Instant,
    now: usize,
    before: usize,
}

impl Progress {
    fn at(self, time: Instant) -> Self {
        match time.saturating_duration_since(self.since) {
            short if short < GRACE => self,
            long if long < GRACE * 2 => {
                Self { since: self.since + GRACE, now: 0, before: self.now }
            }
            _ => Self { since: time, now: 0, before: 0 },
        }
    }
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
    fn new(open: Arc<AtomicUsize>, most_open: usize, most_waiting: usize) -> Self {
        Self {
            open,
            most_open,
            inside: Cell::new(0),
            most_waiting,
            waiting: RefCell::default(),
            progress: Cell::new(Progress { since: Instant::now(), now: 0, before: 0 }),
            left: Notify::new(),
            draining: Shutdown::new(),
            next: Cell::new(0),
            evicted: Cell::new(0),
        }
    }

    /// Lets a connection in. `None`: there is no room, and nobody to make any.
    pub fn enter(self: &Rc<Self>, connection: C) -> Option<(Seat<C>, Waiting<C>)> {
        let full = self.open.load(Ordering::Relaxed) >= self.most_open;
        // One goes for one that comes: who was told to go still counts until its task has ended.
        if full && !self.evict() {
            self.count_eviction();
            return None;
        }
        self.inside.set(self.inside.get() + 1);
        self.open.fetch_add(1, Ordering::Relaxed);
        Some((Seat(self.clone()), self.wait(connection)))
    }

    /// Resolves when the next connection may be let in: while the lobby is full of newcomers it
    /// is they who have their turn, and the next wait in the kernel's queue. A storm of honest
    /// devices is so served in order, however long that takes; a flood of silent ones holds it up
    /// for [`GRACE`] at a time.
    pub async fn room(&self) {
        loop {
            let oldest = {
                let waiting = self.waiting.borrow();
                if waiting.len() < self.most_waiting {
                    return;
                }
                waiting.first_key_value().map_or(GRACE, |(_, (since, _))| since.elapsed())
            };
            let patience = match GRACE.checked_sub(oldest).filter(|left| !left.is_zero()) {
                Some(patience) => patience,
                // Whoever has been here for longer is not silent, the hub is slow: places come free
                // by themselves, and faster than silent ones could be told from others.
                None if self.is_moving() => GRACE,
                None => return,
            };
            let _ = tokio::time::timeout(patience, self.left.notified()).await;
        }
    }

    /// Whether half of the places came free by themselves within [`GRACE`].
    fn is_moving(&self) -> bool {
        let time = Instant::now();
        let Progress { since, now, before } = self.progress.get().at(time);
        // What of the last period is not longer ago than one, if it was even.
        let rest = 1.0 - time.saturating_duration_since(since).div_duration_f64(GRACE);
        now as f64 + before as f64 * rest >= self.most_waiting as f64 / 2.0
    }

    /// A connection waits for its peer (again).
    pub fn wait(self: &Rc<Self>, connection: C) -> Waiting<C> {
        if self.waiting.borrow().len() >= self.most_waiting {
            self.evict();
        }
        let place = self.next.replace(self.next.get() + 1);
        // Who was served while the hub drains is on its way out: it is not to be cut off.
        if !self.draining.is_cancelled() {
            self.waiting.borrow_mut().insert(place, (Instant::now(), connection));
        }
        Waiting { lobby: self.clone(), place }
    }

    /// Cancelled when the hub stops.
    pub fn draining(&self) -> &Shutdown {
        &self.draining
    }

    /// For the hub's end: resolves when every connection has gone. Those that wait go after
    /// [`FAREWELL`] if they have not said by then who they are.
    pub async fn drain(&self) {
        self.draining.cancel();
        let all_gone = async {
            while self.inside.get() > 0 {
                self.left.notified().await;
            }
        };
        tokio::pin!(all_gone);
        if tokio::time::timeout(FAREWELL, &mut all_gone).await.is_err() {
            for (_, connection) in self.waiting.take().into_values() {
                connection.close_now();
            }
            all_gone.await;
        }
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
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.left.notify_one();
    }
}

/// A place in the lobby; dropped, the connection has left it.
pub struct Waiting<C: Closes = IoRef> {
    lobby: Rc<Lobby<C>>,
    place: u64,
}

impl<C: Closes> Drop for Waiting<C> {
    fn drop(&mut self) {
        // One that was told to go is not there any more.
        if self.lobby.waiting.borrow_mut().remove(&self.place).is_some() {
            let mut progress = self.lobby.progress.get().at(Instant::now());
            progress.now += 1;
            self.lobby.progress.set(progress);
        }
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

    fn lobby(most_open: usize, most_waiting: usize) -> Rc<Lobby<Fake>> {
        Rc::new(Lobby::new(Arc::default(), most_open, most_waiting))
    }

    #[test]
    fn the_oldest_unfinished_makes_room_and_a_finished_one_never() {
        let lobby = lobby(100, 2);
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
        let lobby = lobby(1, 10);
        let first = Fake::default();
        let (seat, waiting) = lobby.enter(first.clone()).expect("room");
        drop(waiting);
        assert!(lobby.enter(Fake::default()).is_none());
        assert!(!first.0.get());
        drop(seat);
        let (_seat, _waiting) = lobby.enter(Fake::default()).expect("room again");
    }

    #[test]
    fn devices_take_no_place_of_https_nor_https_of_devices() {
        let limits = Limits::new(0, 2, 1, 130);
        let (mqtt, https) = (limits.mqtt_lobby::<Fake>(), limits.https_lobby::<Fake>());
        let other_thread = limits.mqtt_lobby::<Fake>();
        let come = |lobby: &Rc<Lobby<Fake>>| lobby.enter(Fake::default()).map(|(seat, _)| seat);
        let all: Vec<_> = [&mqtt, &https, &https].map(come).into_iter().flatten().collect();
        assert_eq!(all.len(), 3);
        for lobby in [&mqtt, &other_thread, &https] {
            assert!(come(lobby).is_none());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_lets_the_served_finish_and_closes_the_silent() {
        let lobby = lobby(100, 10);
        let all: Vec<Fake> = (0..3).map(|_| Fake::default()).collect();
        let mut places: Vec<_> = all.iter().map(|one| lobby.enter(one.clone())).collect();
        let (silent, in_time) = (places.pop(), places.pop());
        let (served, waiting) = places.pop().flatten().expect("room");
        drop(waiting);
        let began = tokio::time::Instant::now();
        let drain = lobby.drain();
        tokio::pin!(drain);
        let more = tokio::time::timeout(FAREWELL / 2, &mut drain).await;
        assert!(more.is_err(), "nobody has gone");
        drop(in_time);
        // An HTTPS connection with its last answer on the way.
        let last = lobby.wait(all[0].clone());
        let more = tokio::time::timeout(FAREWELL, &mut drain).await;
        assert!(more.is_err(), "two are inside");
        let closed: Vec<_> = all.iter().map(|one| one.0.get()).collect();
        assert_eq!(closed, [false, false, true]);
        drop((silent, last, served));
        drain.await;
        assert!(began.elapsed() < FAREWELL * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_lobby_waits_for_who_is_served_and_not_for_the_silent() {
        let lobby = lobby(100, 8);
        let enter = || lobby.enter(Fake::default()).expect("room");
        let mut inside: std::collections::VecDeque<_> = (0..8).map(|_| enter()).collect();
        let began = Instant::now();
        // Each takes four thirds of the time, and six of eight are done in it: nobody has to go.
        for _ in 0..60 {
            tokio::select! {
                biased;
                () = lobby.room() => panic!("somebody would have to go"),
                // sleep: paused time, each is served that often
                () = tokio::time::sleep(GRACE / 6) => drop(inside.pop_front()),
            }
            lobby.room().await;
            inside.push_back(enter());
        }
        assert_eq!(lobby.evicted.get(), 0);
        // Then nothing more happens: the oldest has to go.
        lobby.room().await;
        let _last = enter();
        assert_eq!(lobby.evicted.get(), 1);
        assert!(began.elapsed() <= GRACE * 13, "{:?}", began.elapsed());
    }

    #[test]
    fn an_unfinished_one_makes_room_for_another_where_descriptors_end() {
        let lobby = lobby(1, 10);
        let first = Fake::default();
        let (_seat, _waiting) = lobby.enter(first.clone()).expect("room");
        assert!(lobby.enter(Fake::default()).is_some());
        assert!(first.0.get());
    }

    #[test]
    fn who_waits_again_waits_behind_the_others() {
        let lobby = lobby(100, 2);
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
        #[track_caller]
        fn check(limits: &Limits, devices: usize, https: usize, waiting: usize) {
            let all = (limits.most_devices, limits.most_https, limits.most_waiting);
            assert_eq!(all, (devices, https, waiting));
        }
        check(&Limits::new(0, 0, 2, 20_000), 16_604, 1_186, 1_024);
        check(&Limits::new(0, 0, 4, 1_048_576), 916_608, 32_736, 512);
        check(&Limits::new(0, 0, 16, 1_024), 784, 7, 64);
        check(&Limits::new(10, 7, 2, 256), 121, 4, 5);
        check(&Limits::new(10, 500, 2, 256), 1, 250, 5);
    }
}
