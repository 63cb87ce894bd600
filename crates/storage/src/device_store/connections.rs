//! `ConnectionStore`: what is on record of connections, beside the devices and modules they are of.

use async_trait::async_trait;
use dunlin_model::{ConnectionState, Identity, Session};

use crate::StoreError;
use crate::presence::Epoch;

/// What a gateway tells of connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectionReport {
    /// The state of one connection: as often as it is told, it is the same.
    ///
    /// Nothing happens unless the identity exists in that generation. If a connection with a newer
    /// epoch is on record, only its activity counts; so epoch 0 tells of activity without a
    /// connection. Of one epoch, a connection keeps the time at which it began, does not come back
    /// once it was told that it has ended, and after that is only ever taken to have been active
    /// later. Activity never goes back in time.
    State {
        id: Identity,
        generation_id: String,
        epoch: Epoch,
        state: ConnectionState,
        /// The gateway process that holds it, as [`Presence`](crate::Presence) names it.
        node: String,
    },
    /// What the session of an identity is from now on; with `keep_subscriptions` but for its
    /// subscriptions, which stay. Nothing happens unless the identity exists in that generation,
    /// nor if a connection with a newer epoch has told of its session. It is kept for as long as
    /// the identity.
    Session {
        id: Identity,
        generation_id: String,
        epoch: Epoch,
        session: Session,
        keep_subscriptions: bool,
    },
}

/// Connections that are ended in one transaction: bounds how long others wait for it.
pub const NODE_END_PIECE: usize = 1_000;

/// What is on record of connections, a part of [`DeviceStore`](crate::DeviceStore), whose promises
/// hold for it too.
///
/// An identity that is connected changes to disconnected and back on its locked row, under its
/// epoch, so that its changes have one order. A change that is to be told of (connection events)
/// finds its place in that order if it is written down in the same transaction.
#[async_trait]
pub trait ConnectionStore: Send + Sync + 'static {
    /// Takes in reports, in order. One that is out of date is passed over, not refused. Of each
    /// report of a session that was taken in: the session as it is stored now.
    async fn connections_record(
        &self,
        reports: Vec<ConnectionReport>,
    ) -> Result<Vec<Option<Session>>, StoreError>;

    /// The nodes that hold connections on record, ordered by name. It costs as much as there are
    /// nodes, however many connections they hold.
    async fn node_list(&self) -> Result<Vec<String>, StoreError>;

    /// Shows up to `top` of the connections that a node holds as ended, as of `at` (Unix
    /// milliseconds), and returns how many they were: nobody could tell of their end. Those with
    /// the smallest ids come first. An identity that is on record as connected by another node is
    /// left alone. A node that was not dead after all has its connections back by telling of them
    /// again.
    async fn node_end(&self, node: &str, at: i64, top: usize) -> Result<usize, StoreError>;
}
