//! What the role makes up: lock tokens, and ids of messages without one.

use dunlin_model::command::LockToken;
use ring::rand::{SecureRandom, SystemRandom};

pub(crate) fn token() -> LockToken {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).expect("the operating system has randomness");
    LockToken::from_random(bytes)
}
