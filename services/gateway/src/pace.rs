//! The pace at which a stopping gateway sends its devices away: they all come back elsewhere, and
//! whoever takes them must keep up.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Shared by all connection threads.
pub struct Pace {
    /// 0: all at once.
    per_second: u32,
    began: OnceLock<Instant>,
    turns: AtomicU32,
}

impl Pace {
    pub fn new(per_second: u32) -> Self {
        Self { per_second, began: OnceLock::new(), turns: AtomicU32::new(0) }
    }

    /// Resolves when the next device may be sent away. Turns are counted from the first one, so that
    /// a timer that is late now and then does not slow the drain.
    pub async fn turn(&self) {
        let began = *self.began.get_or_init(Instant::now);
        let turn = self.turns.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep_until(began + self.lasts(turn)).await;
    }

    /// How long so many turns take.
    pub fn lasts(&self, turns: u32) -> Duration {
        match self.per_second {
            0 => Duration::ZERO,
            per_second => Duration::from_secs(turns.into()) / per_second,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::task::JoinSet;

    use super::*;

    /// When each of so many turns came, in paused time, taken by four threads' worth of tasks.
    async fn turns(per_second: u32, count: u32) -> Vec<Duration> {
        let pace = Arc::new(Pace::new(per_second));
        let began = Instant::now();
        let mut takers = JoinSet::new();
        for taker in 0..4 {
            let pace = pace.clone();
            takers.spawn(async move {
                let mut came = Vec::new();
                for _ in (taker..count).step_by(4) {
                    pace.turn().await;
                    came.push(began.elapsed());
                }
                came
            });
        }
        let mut came = takers.join_all().await.concat();
        came.sort();
        came
    }

    #[tokio::test(start_paused = true)]
    async fn turns_of_all_threads_keep_one_pace() {
        for (number, came) in (0..).zip(turns(500, 1_000).await) {
            let want = Duration::from_millis(2) * number;
            assert!(came >= want && came <= want + Duration::from_millis(2), "{number}: {came:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_pace_nobody_waits() {
        assert!(turns(0, 1_000).await.iter().all(Duration::is_zero));
        assert_eq!(Pace::new(0).lasts(1_000_000), Duration::ZERO);
        assert_eq!(Pace::new(500).lasts(1_000_000), Duration::from_secs(2_000));
    }
}
