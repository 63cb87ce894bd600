//! What the role makes up: lock tokens, and ids of messages without one.

use dunlin_model::command::LockToken;
use ring::rand::{SecureRandom, SystemRandom};

pub(crate) fn token() -> LockToken {
    let mut bytes = [0; 16];
    fill(&mut bytes);
    LockToken::from_random(bytes)
}

/// By one call of the operating system.
pub(crate) fn tokens(count: u32) -> Vec<LockToken> {
    let mut all = vec![[0; 16]; count as usize];
    fill(all.as_flattened_mut());
    all.into_iter().map(LockToken::from_random).collect()
}

fn fill(bytes: &mut [u8]) {
    SystemRandom::new().fill(bytes).expect("the operating system has randomness");
}
