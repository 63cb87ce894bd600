//! Gives memory that a burst left in the heap back to the system.
//!
//! glibc keeps what was freed between live blocks. After all devices have sent at once that is
//! about 5 KB a connection; `malloc_trim` returns all but a few percent of it
//! (docs/measurements.md, "idle"). It holds the allocator's lock for some milliseconds, so it runs
//! only when there is something to gain.

use std::time::Duration;

use crate::Shutdown;

/// How often the heap is looked at.
const INTERVAL: Duration = Duration::from_secs(2);
/// What must be there to gain, in bytes: less is not worth the lock.
const WORTHWHILE: u64 = 4 << 20;

/// Looks after the heap until shutdown.
pub async fn keep_trimmed(shutdown: Shutdown) {
    let mut ticks = tokio::time::interval(INTERVAL);
    let mut floor = u64::MAX;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.cancelled() => return,
        }
        // Out of descriptors there is nothing to read; at the next look there may be.
        let Some(slack) = slack() else { continue };
        floor = floor.min(slack);
        if slack <= floor.saturating_add(WORTHWHILE) {
            continue;
        }
        // What is left after a trim (code, stacks, caches) cannot be had: it is the new floor.
        if tokio::task::spawn_blocking(heap::trim).await.is_err() {
            return;
        }
        floor = self::slack().unwrap_or(slack);
        tracing::debug!(before = slack, after = floor, "heap trimmed");
    }
}

/// Resident bytes of the process that are not blocks in use.
fn slack() -> Option<u64> {
    Some(resident()?.saturating_sub(heap::in_use()))
}

fn resident() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "glibc's allocator is controlled by C functions only")]
mod heap {
    pub fn in_use() -> u64 {
        // SAFETY: takes no argument and returns plain numbers.
        let info = unsafe { libc::mallinfo2() };
        (info.uordblks + info.hblkhd) as u64
    }

    pub fn trim() {
        // SAFETY: may be called at any time from any thread; blocks in use do not move.
        unsafe { libc::malloc_trim(0) };
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod heap {
    pub fn in_use() -> u64 {
        u64::MAX
    }

    pub fn trim() {}
}
