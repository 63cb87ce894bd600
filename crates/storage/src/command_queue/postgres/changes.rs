//! Changes of queues, many in one transaction: read, apply in memory, and write if nobody else has
//! written meanwhile.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use dunlin_model::Command;
use dunlin_model::command::{Disposition, LockToken};
use tokio::try_join;

use super::queue::{Handed, Queue};
use super::rows::{self, Advanced, New, Record, Write};
use crate::StoreError;
use crate::command_queue::{Lease, Leased, Rules, Settlement, Swept};
use crate::postgres::batch::Work;
use crate::postgres::session::{Fault, Params, Session};
use crate::postgres::unavailable;
use crate::presence::Epoch;

pub(super) struct Change {
    /// As it would be stored.
    pub(super) device: String,
    pub(super) what: What,
    pub(super) now: i64,
    pub(super) rules: Rules,
}

pub(super) enum What {
    Send(Command),
    Lease { epoch: Epoch, tokens: Vec<LockToken>, bytes: usize },
    Settle { epoch: Epoch, tokens: Vec<LockToken>, disposition: Disposition },
    Release { epoch: Epoch, in_vain: bool },
    Purge,
}

pub(super) enum Changed {
    Sent(u64),
    Leased(Lease),
    Settled(Settlement),
    Released,
    Purged(u32),
}

pub(super) fn mixed_up() -> StoreError {
    unavailable("an answer was of another kind than its call")
}

/// Batches that begin under locks once one was overtaken: where two processes change the same
/// queues all the time, to be fast would be in vain.
const CAREFUL: u32 = 32;

#[derive(Default)]
pub(super) struct Changes {
    /// How many such batches are left.
    careful: AtomicU32,
}

#[async_trait]
impl Work for Changes {
    type Call = Change;
    type Answer = Changed;
    const KIND: &'static str = "command_change";

    async fn run(
        &self,
        session: &Session,
        calls: &[Change],
    ) -> Result<Vec<Result<Changed, StoreError>>, Fault> {
        let devices: BTreeSet<_> = calls.iter().map(|call| &*call.device).collect();
        let devices: Vec<_> = devices.into_iter().collect();
        let left = |left: u32| left.checked_sub(1);
        let careful = self.careful.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).is_ok();
        for locked in [false, true].into_iter().skip(usize::from(careful)) {
            let mut held = hold(session, &devices, locked).await?;
            let mut sent = HashMap::new();
            let apply = |call| apply(call, held.get_mut(&*call.device), &mut sent);
            let applied: Vec<_> = calls.iter().map(apply).collect();
            let handed = applied.iter().zip(calls).filter_map(|(applied, call)| match applied {
                Ok(Applied::Handed(handed, _)) => {
                    Some(handed.iter().map(|one| (&*call.device, one.sequence)))
                }
                _ => None,
            });
            let handed: Vec<_> = handed.flatten().collect();
            let Some(bodies) = write(session, &held, &sent, &handed, locked).await? else {
                self.careful.store(CAREFUL, Ordering::Relaxed);
                continue;
            };
            let answer = |(applied, call): (Result<Applied, StoreError>, &Change)| match applied {
                Ok(Applied::Done(done)) => Ok(Ok(done)),
                Ok(Applied::Handed(handed, returned)) => {
                    let messages = leased(&call.device, handed, &sent, &bodies);
                    messages.map(|messages| Ok(Changed::Leased(Lease { messages, returned })))
                }
                Err(refusal) => Ok(Err(refusal)),
            };
            return applied.into_iter().zip(calls).map(answer).collect();
        }
        Err(Fault::Raced)
    }
}

/// Ends what time has ended, of devices for which a look is due.
pub(super) async fn sweep(
    session: &Session,
    most: i64,
    now: i64,
    rules: &Rules,
) -> Result<Swept, Fault> {
    let sql = "SELECT DISTINCT device_id FROM command WHERE due <= $1 LIMIT $2";
    let due = session.read(sql, &[&now, &most]).await?;
    let devices: Vec<&str> = due.iter().map(|row| row.get(0)).collect();
    if devices.is_empty() {
        return Ok(Swept::default());
    }
    for locked in [false, true] {
        let mut held = hold(session, &devices, locked).await?;
        let mut swept = Swept { looked: devices.len(), returned: Vec::new() };
        for (device, held) in &mut held {
            if held.queue.look(now, rules) {
                swept.returned.push(device.clone());
            }
        }
        if write(session, &held, &HashMap::new(), &[], locked).await?.is_some() {
            return Ok(swept);
        }
    }
    Err(Fault::Raced)
}

struct Held {
    /// As it is stored.
    generation_id: String,
    version: String,
    before: Queue,
    queue: Queue,
}

/// Reads queues. Where somebody else is fast, once more under a lock, which begins a transaction.
async fn hold(
    session: &Session,
    devices: &[&str],
    locked: bool,
) -> Result<BTreeMap<String, Held>, Fault> {
    let params: Params<'_> = &[&devices];
    let rows = if locked {
        let (lock, read) = (session.prepare(rows::LOCK).await?, session.prepare(rows::READ).await?);
        let trip = async {
            try_join!(
                biased;
                session.begin(),
                session.execute(&lock, params),
                session.query(&read, params),
            )
        };
        session.trip(trip).await?.2
    } else {
        session.read(rows::READ, params).await?
    };
    let mut held: BTreeMap<String, Held> = BTreeMap::new();
    for row in &rows {
        let device: &str = row.get("device_id");
        if !held.contains_key(device) {
            let queue = Queue {
                sequence: row.get::<_, i64>("last").cast_unsigned(),
                epoch: row.get::<_, i64>("epoch").cast_unsigned(),
                messages: Vec::new(),
                ends: Vec::new(),
            };
            let (generation_id, version) = (row.get("generation_id"), row.get("version"));
            let new = Held { generation_id, version, before: queue.clone(), queue };
            held.insert(device.to_owned(), new);
        }
        if let Some(held) = held.get_mut(device)
            && row.get::<_, Option<i64>>("sequence").is_some()
        {
            held.queue.messages.push(rows::message(row)?);
        }
    }
    for held in held.values_mut() {
        held.queue.messages.sort_unstable_by_key(|message| message.sequence);
        held.before = held.queue.clone();
    }
    Ok(held)
}

/// What was sent in this transaction, by device and sequence.
type Sent<'a> = HashMap<(&'a str, u64), (&'a Command, i64)>;

/// What one call did to its queue.
enum Applied {
    Done(Changed),
    /// And whether time had ended a lock.
    Handed(Vec<Handed>, bool),
}

fn apply<'a>(
    call: &'a Change,
    held: Option<&mut Held>,
    sent: &mut Sent<'a>,
) -> Result<Applied, StoreError> {
    let Change { device, what, now, rules } = call;
    let Some(Held { queue, .. }) = held else {
        return match what {
            What::Send(_) | What::Purge => Err(StoreError::NotFound),
            What::Lease { .. } => Ok(Applied::Handed(Vec::new(), false)),
            What::Settle { tokens, .. } => {
                let held = vec![false; tokens.len()];
                Ok(Applied::Done(Changed::Settled(Settlement { held, returned: false })))
            }
            What::Release { .. } => Ok(Applied::Done(Changed::Released)),
        };
    };
    let done = match what {
        What::Send(command) => {
            let sequence = queue.send(command, *now, rules)?;
            sent.insert((device, sequence), (command, *now));
            Changed::Sent(sequence)
        }
        What::Lease { epoch, tokens, bytes } => {
            let lease = queue.lease(*epoch, tokens, *bytes, *now, rules);
            return lease.map(|(handed, returned)| Applied::Handed(handed, returned));
        }
        What::Settle { epoch, tokens, disposition } => {
            Changed::Settled(queue.settle(*epoch, tokens, *disposition, *now, rules))
        }
        What::Release { epoch, in_vain } => {
            queue.release(*epoch, *in_vain, *now, rules);
            Changed::Released
        }
        What::Purge => Changed::Purged(queue.purge(*now, rules)),
    };
    Ok(Applied::Done(done))
}

/// Messages with the time at which they were enqueued, by device and sequence.
type Bodies = HashMap<(String, u64), (Command, i64)>;

/// Writes what differs from what was read. Returns what of `handed` is stored, or `None` if somebody
/// else has written meanwhile: then nothing is written.
async fn write(
    session: &Session,
    held: &BTreeMap<String, Held>,
    sent: &Sent<'_>,
    handed: &[(&str, u64)],
    locked: bool,
) -> Result<Option<Bodies>, Fault> {
    let (mut removed, mut changed, mut new, mut told) = (vec![], vec![], vec![], vec![]);
    let mut advanced = Vec::new();
    for (device, Held { generation_id, version, before, queue }) in held {
        let mut left = queue.messages.iter().peekable();
        for old in &before.messages {
            match left.next_if(|message| message.sequence == old.sequence) {
                Some(message) if message != old => changed.push((&**device, message)),
                Some(_) => {}
                None => removed.push((&**device, old.sequence)),
            }
        }
        for message in left {
            let key = (&**device, message.sequence);
            let (command, enqueued) = *sent.get(&key).ok_or(Fault::Raced)?;
            new.push(New { device, message, command, enqueued });
        }
        told.extend(queue.ends.iter().map(|end| Record { device, generation_id, end }));
        if before != queue {
            advanced.push(Advanced { device, version, queue });
        }
    }
    if advanced.is_empty() {
        if locked {
            session.trip(session.rollback()).await?;
        }
        return Ok(Some(HashMap::new()));
    }
    let mut write = Write::new(&advanced);
    write.remove(&removed);
    write.change(&changed);
    write.insert(&new)?;
    write.tell(&told);
    let stored: Vec<_> = handed.iter().filter(|key| !sent.contains_key(*key)).copied().collect();
    let Some(found) = write.run(session, &stored, locked).await? else { return Ok(None) };
    let mut bodies = HashMap::new();
    for row in &found {
        // That nothing is to be read is a row, too.
        let Some(device) = row.get("device_id") else { continue };
        let key: (String, _) = (device, row.get::<_, i64>("sequence").cast_unsigned());
        bodies.insert(key, rows::command(row)?);
    }
    Ok(Some(bodies))
}

/// Hand-outs with what was sent, be it in this transaction or before.
fn leased(
    device: &str,
    handed: Vec<Handed>,
    sent: &Sent<'_>,
    bodies: &Bodies,
) -> Result<Vec<Leased>, Fault> {
    let complete = |handed: Handed| {
        let Handed { token, sequence, delivery_count } = handed;
        let (command, enqueued) = match sent.get(&(device, sequence)) {
            Some((command, enqueued)) => ((*command).clone(), *enqueued),
            None => bodies.get(&(device.to_owned(), sequence)).cloned().ok_or(Fault::Raced)?,
        };
        Ok(Leased { command, token, sequence, delivery_count, enqueued })
    };
    handed.into_iter().map(complete).collect()
}
