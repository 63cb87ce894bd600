//! Turns: what is done for one identity is done one after the other, in the order it came; other
//! identities do not wait. By hand, because all it takes is to forget a mutex that nobody uses.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dunlin_model::Identity;
use tokio::sync::OwnedMutexGuard;

type Mutexes = HashMap<Identity, Arc<tokio::sync::Mutex<()>>>;

#[derive(Clone, Default)]
pub struct Turns(Arc<Mutex<Mutexes>>);

/// Somebody's turn, or place in the queue for it, until it is dropped.
pub struct Turn {
    turns: Turns,
    id: Identity,
    held: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    pub async fn take(&self, id: &Identity) -> Turn {
        let mutex = Arc::clone(self.lock().entry(id.clone()).or_default());
        // Before the wait, which may be given up.
        let mut turn = Turn { turns: self.clone(), id: id.clone(), held: None };
        turn.held = Some(mutex.lock_owned().await);
        turn
    }

    fn lock(&self) -> MutexGuard<'_, Mutexes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut all = self.turns.lock();
        self.held.take();
        // Who holds it or waits for it has a handle of his own, and gets one only under this lock.
        if all.get(&self.id).is_some_and(|mutex| Arc::strong_count(mutex) == 1) {
            all.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn turns_are_taken_in_order_and_forgotten() {
        let turns = Turns::default();
        let [a, b] = ["a", "b"].map(|id| Identity::device(id).expect("an id"));
        let first = turns.take(&a).await;
        let mut second = Box::pin(turns.take(&a));
        let mut third = Box::pin(turns.take(&a));
        assert!(second.as_mut().now_or_never().is_none());
        assert!(third.as_mut().now_or_never().is_none());
        let other = turns.take(&b).now_or_never().expect("another identity's turn");
        drop(first);
        assert!(third.as_mut().now_or_never().is_none(), "it came after the second");
        let second = second.now_or_never().expect("its turn");
        // One that gives up leaves no trace, neither waiting nor after.
        drop(third);
        assert_eq!(turns.lock().len(), 2);
        let mut fourth = Box::pin(turns.take(&a));
        assert!(fourth.as_mut().now_or_never().is_none());
        drop(second);
        drop(other);
        drop(fourth.now_or_never().expect("its turn"));
        assert!(turns.lock().is_empty());
        let held = turns.take(&a).await;
        let mut waiting = Box::pin(turns.take(&a));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(held);
        drop(waiting);
        assert!(turns.lock().is_empty(), "it was given its turn, and gave up");
    }
}
