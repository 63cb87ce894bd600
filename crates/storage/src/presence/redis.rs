//! `Presence` in Redis, for a hub of many processes.
//!
//! Identities are spread over [`BUCKETS`], a hash each, whose keys carry the bucket as their hash
//! tag: every script works on one slot of a Redis cluster. A bucket knows on which run of the
//! server its epochs were counted. A server that restarts, fails over or is flushed may have
//! forgotten the last of them, so it counts on in a new generation, which comes from the state
//! store and is above all that were ever given.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use dunlin_model::Identity;
use futures_util::future::try_join_all;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, FromRedisValue, InfoDict, IntoConnectionInfo, RedisError,
    Script, ScriptInvocation, TlsCertificates,
};
use tokio::sync::Mutex as Turn;

use super::{
    COUNTER_BITS, Claim, Epoch, Holder, NODE_LEASE, Presence, REVOCATION, Renewed, first_epoch,
};
use crate::event_log::partition_of;
use crate::{DeviceStore, StoreError, lock};

/// So many that one hash stays small, so few that a node's identities are restored in few calls.
const BUCKETS: u32 = 256;
const CONNECT: Duration = Duration::from_secs(2);
/// A server that takes longer counts as away.
const ANSWER: Duration = Duration::from_secs(2);

/// Presence on one Redis server, by `redis://` or `rediss://`.
pub struct RedisPresence {
    client: Client,
    prefix: String,
    /// Where generations come from.
    devices: Arc<dyn DeviceStore>,
    link: Mutex<Option<Link>>,
    /// Connections so far.
    links: AtomicU64,
    /// Of who connects anew; the others wait for it.
    connecting: Turn<()>,
    scripts: Scripts,
    trips: Mutex<BTreeMap<&'static str, u64>>,
}

/// A connection, and what was found at its other end.
#[derive(Clone)]
struct Link {
    connection: MultiplexedConnection,
    /// The server's run: another one after every start.
    run: String,
    /// Of this process's connections.
    number: u64,
}

struct Scripts {
    claim: Script,
    release: Script,
    revoke: Script,
    renew: Script,
    lease: Script,
    restore: Script,
}

/// KEYS: bucket, marker of a revocation. ARGV: run, generation, field, node, auth version, whether
/// the generation was taken for this call: only then may a bucket begin to count, be it that the
/// server is another one or that it was flushed. An entry is `generation:counter node`.
const CLAIM: &str = r"
local revoked = redis.call('GET', KEYS[2])
if revoked and tonumber(ARGV[5]) < tonumber(revoked) then return {'revoked'} end
local run, generation = unpack(redis.call('HMGET', KEYS[1], '.run', '.generation'))
if run ~= ARGV[1] then
  if ARGV[6] ~= '1' or tonumber(generation or 0) >= tonumber(ARGV[2]) then return {'stale'} end
  generation = ARGV[2]
  redis.call('HSET', KEYS[1], '.run', ARGV[1], '.generation', generation, '.counter', 0)
end
local counter = redis.call('HINCRBY', KEYS[1], '.counter', 1)
local former = redis.call('HGET', KEYS[1], ARGV[3])
redis.call('HSET', KEYS[1], ARGV[3], generation .. ':' .. counter .. ' ' .. ARGV[4])
return {'granted', generation .. ':' .. counter, former}
";

/// KEYS: bucket. ARGV: field, `generation:counter `.
const RELEASE: &str = r"
local entry = redis.call('HGET', KEYS[1], ARGV[1])
if entry and string.sub(entry, 1, #ARGV[2]) == ARGV[2] then
  redis.call('HDEL', KEYS[1], ARGV[1])
end
";

/// KEYS: bucket, marker. ARGV: field, auth version, milliseconds.
const REVOKE: &str = r"
local revoked = redis.call('GET', KEYS[2])
local version = ARGV[2]
if revoked and tonumber(revoked) > tonumber(version) then version = revoked end
redis.call('SET', KEYS[2], version, 'PX', ARGV[3])
return redis.call('HGET', KEYS[1], ARGV[1])
";

/// KEYS: the node's lease. ARGV: run, milliseconds. Whether what the node claimed is still here.
const RENEW: &str = r"
local known = redis.call('GET', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return known == ARGV[1]
";

/// KEYS: the lease. ARGV: holder, milliseconds. Whether it is the holder's.
const LEASE: &str = r"
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return false end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return true
";

/// KEYS: bucket. ARGV: node, then of each identity field, generation, counter. Puts entries back
/// where there is none, or an older one. The fields that somebody else has taken since.
const RESTORE: &str = r"
local taken = {}
for at = 2, #ARGV, 3 do
  local entry = redis.call('HGET', KEYS[1], ARGV[at])
  local mine, my = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local generation, counter = -1, -1
  if entry then
    generation, counter = string.match(entry, '^(%d+):(%d+) ')
    generation, counter = tonumber(generation), tonumber(counter)
  end
  if generation > mine or (generation == mine and counter > my) then
    table.insert(taken, ARGV[at])
  elseif generation ~= mine or counter ~= my then
    local text = ARGV[at + 1] .. ':' .. ARGV[at + 2] .. ' ' .. ARGV[1]
    redis.call('HSET', KEYS[1], ARGV[at], text)
  end
end
return taken
";

impl RedisPresence {
    /// Connects, so that a wrong URL is known at once. `url` may end in `?sslrootcert=FILE`, the PEM
    /// file of the CA to trust in place of the system's, and `prefix=NAME`, of all keys (`dunlin`).
    pub async fn open(url: &str, devices: Arc<dyn DeviceStore>) -> Result<Self, StoreError> {
        let (server, query) = url.split_once('?').unwrap_or((url, ""));
        let Options { ca, prefix } = options(query)?;
        let presence = Self {
            client: client(server, ca)?,
            prefix: prefix.unwrap_or("dunlin").to_owned(),
            devices,
            link: Mutex::new(None),
            links: AtomicU64::new(0),
            connecting: Turn::new(()),
            trips: Mutex::default(),
            scripts: Scripts {
                claim: Script::new(CLAIM),
                release: Script::new(RELEASE),
                revoke: Script::new(REVOKE),
                renew: Script::new(RENEW),
                lease: Script::new(LEASE),
                restore: Script::new(RESTORE),
            },
        };
        presence.link().await?;
        Ok(presence)
    }

    /// The connection, made anew if it was lost. The library's manager of connections would do so
    /// unseen; here it must be known which run of the server is at the other end.
    async fn link(&self) -> Result<Link, StoreError> {
        let known = || lock(&self.link).clone();
        if let Some(link) = known() {
            return Ok(link);
        }
        let _turn = self.connecting.lock().await;
        // Somebody else may have connected meanwhile.
        if let Some(link) = known() {
            return Ok(link);
        }
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(ANSWER));
        let mut connection = self
            .client
            .get_multiplexed_async_connection_with_config(&settings)
            .await
            .map_err(unavailable)?;
        let info: InfoDict = redis::cmd("INFO")
            .arg("server")
            .query_async(&mut connection)
            .await
            .map_err(unavailable)?;
        let run = info.get::<String>("run_id").ok_or_else(|| {
            StoreError::unavailable("presence", "the server does not tell its run_id")
        })?;
        let link = Link { connection, run, number: self.links.fetch_add(1, Ordering::Relaxed) };
        *lock(&self.link) = Some(link.clone());
        Ok(link)
    }

    /// Forgets a connection that does not work any more, or that must not be used any more.
    fn lost(&self, link: &Link) {
        let mut known = lock(&self.link);
        if known.as_ref().is_some_and(|known| known.number == link.number) {
            *known = None;
        }
    }

    /// What a failed call means for the connection and the caller.
    fn failed(&self, link: &Link, error: RedisError) -> StoreError {
        // A demoted or failing server refuses writes: its name may lead to another one by now.
        let refused = matches!(error.code(), Some("READONLY" | "MASTERDOWN" | "LOADING"));
        if refused || error.is_unrecoverable_error() || error.is_io_error() || error.is_timeout() {
            self.lost(link);
        }
        unavailable(error)
    }

    /// How often each kind of operation has waited for the server, what is done once a connection
    /// or a script left out.
    pub fn round_trips(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.trips).clone()
    }

    fn count(&self, kind: &'static str) {
        *lock(&self.trips).entry(kind).or_default() += 1;
    }

    /// `kind` is what it is counted as.
    async fn run<T: FromRedisValue>(
        &self,
        kind: &'static str,
        link: &mut Link,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, StoreError> {
        self.count(kind);
        let answer = script.invoke_async(&mut link.connection).await;
        answer.map_err(|error| self.failed(link, error))
    }
}

#[async_trait]
impl Presence for RedisPresence {
    async fn claim(
        &self,
        id: &Identity,
        node: &str,
        auth_version: u64,
    ) -> Result<Claim, StoreError> {
        let Place { bucket, revoked, field } = self.place(id);
        let mut link = self.link().await?;
        let mut generation = None;
        loop {
            let mut script = self.scripts.claim.key(&bucket);
            script.key(&revoked).arg(&link.run).arg(generation.unwrap_or(0)).arg(&field);
            script.arg(node).arg(auth_version).arg(u8::from(generation.is_some()));
            let answer: Vec<Option<String>> = self.run("claim", &mut link, &script).await?;
            let words: Vec<_> = answer.iter().map(Option::as_deref).collect();
            match words[..] {
                [Some("revoked")] => return Ok(Claim::Revoked),
                [Some("granted"), Some(epoch), former] => {
                    let epoch = parse_epoch(epoch)?;
                    let former = former.map(parse_entry).transpose()?;
                    return Ok(Claim::Granted { epoch, former });
                }
                [Some("stale")] if generation.is_none() => {
                    generation = Some(self.devices.epoch_generation_next().await?);
                }
                // The server has changed between two calls on one connection, or is not one.
                [Some("stale")] => {
                    self.lost(&link);
                    return Err(StoreError::unavailable("presence", "the server has changed"));
                }
                _ => return Err(nonsense()),
            }
        }
    }

    async fn release(&self, id: &Identity, epoch: Epoch) -> Result<(), StoreError> {
        let Place { bucket, field, .. } = self.place(id);
        let mut script = self.scripts.release.key(bucket);
        script.arg(field).arg(format!("{} ", text(epoch)));
        self.run("release", &mut self.link().await?, &script).await
    }

    async fn holder(&self, id: &Identity) -> Result<Option<Holder>, StoreError> {
        let Place { bucket, field, .. } = self.place(id);
        let mut link = self.link().await?;
        self.count("holder");
        let entry =
            redis::cmd("HGET").arg(bucket).arg(field).query_async(&mut link.connection).await;
        let entry: Option<String> = entry.map_err(|error| self.failed(&link, error))?;
        entry.as_deref().map(parse_entry).transpose()
    }

    async fn revoke(&self, id: &Identity, auth_version: u64) -> Result<Option<Holder>, StoreError> {
        let Place { bucket, revoked, field } = self.place(id);
        let mut script = self.scripts.revoke.key(bucket);
        script.key(revoked).arg(field).arg(auth_version).arg(millis(REVOCATION));
        let entry: Option<String> = self.run("revoke", &mut self.link().await?, &script).await?;
        entry.as_deref().map(parse_entry).transpose()
    }

    async fn node_renew(&self, node: &str) -> Result<Renewed, StoreError> {
        let mut link = self.link().await?;
        let mut script = self.scripts.renew.key(self.key("node", node));
        script.arg(&link.run).arg(millis(NODE_LEASE));
        let kept: bool = self.run("node_renew", &mut link, &script).await?;
        Ok(if kept { Renewed::Kept } else { Renewed::Lost })
    }

    async fn node_lives(&self, node: &str) -> Result<bool, StoreError> {
        let mut link = self.link().await?;
        self.count("node_lives");
        let lives = redis::cmd("EXISTS")
            .arg(self.key("node", node))
            .query_async(&mut link.connection)
            .await;
        lives.map_err(|error| self.failed(&link, error))
    }

    async fn lease_take(&self, name: &str, holder: &str) -> Result<bool, StoreError> {
        let mut script = self.scripts.lease.key(self.key("lease", name));
        script.arg(holder).arg(millis(NODE_LEASE));
        self.run("lease_take", &mut self.link().await?, &script).await
    }

    async fn restore(
        &self,
        node: &str,
        held: &[(Identity, Epoch)],
    ) -> Result<Vec<Identity>, StoreError> {
        let mut buckets: HashMap<String, ScriptInvocation<'_>> = HashMap::new();
        for (id, epoch) in held {
            let Place { bucket, field, .. } = self.place(id);
            let script = buckets.entry(bucket).or_insert_with_key(|bucket| {
                let mut script = self.scripts.restore.key(bucket);
                script.arg(node);
                script
            });
            let (generation, counter) = parts(*epoch);
            script.arg(field).arg(generation).arg(counter);
        }
        let link = self.link().await?;
        let restoring = buckets.values().map(|script| {
            let mut link = link.clone();
            async move { self.run::<Vec<String>>("restore", &mut link, script).await }
        });
        let taken = try_join_all(restoring).await?.concat();
        let ids = taken.iter().map(|field| Identity::parse(field.trim_start_matches('=')));
        ids.collect::<Result<_, _>>().map_err(|_| nonsense())
    }
}

impl RedisPresence {
    fn place(&self, id: &Identity) -> Place {
        // A hash that every process of every version has.
        let bucket = partition_of(id.as_str().as_bytes(), BUCKETS);
        let prefix = &self.prefix;
        Place {
            bucket: format!("{prefix}:{{{bucket}}}:held"),
            revoked: format!("{prefix}:{{{bucket}}}:revoked:{id}"),
            // No identity is taken for what the bucket knows of itself.
            field: format!("={id}"),
        }
    }

    pub(super) fn key(&self, kind: &str, name: &str) -> String {
        format!("{}:{kind}:{name}", self.prefix)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// An epoch's generation and counter: one number of both is too long for a script's arithmetic.
fn parts(epoch: Epoch) -> (u64, u64) {
    (epoch >> COUNTER_BITS, epoch & ((1 << COUNTER_BITS) - 1))
}

fn text(epoch: Epoch) -> String {
    let (generation, counter) = parts(epoch);
    format!("{generation}:{counter}")
}

fn parse_epoch(text: &str) -> Result<Epoch, StoreError> {
    let parse = || {
        let (generation, counter) = text.split_once(':')?;
        Some(first_epoch(generation.parse().ok()?) + counter.parse::<u64>().ok()?)
    };
    parse().ok_or_else(nonsense)
}

fn parse_entry(text: &str) -> Result<Holder, StoreError> {
    let (epoch, node) = text.split_once(' ').ok_or_else(nonsense)?;
    Ok(Holder { node: node.to_owned(), epoch: parse_epoch(epoch)? })
}

fn nonsense() -> StoreError {
    StoreError::unavailable("presence", "Redis holds what no hub of this version has written")
}

/// What may stand behind the `?` of a URL, beside what the server itself is told by it.
#[derive(Default)]
struct Options<'a> {
    /// PEM file of the CA to trust in place of the system's.
    ca: Option<&'a str>,
    /// Of all keys: hubs that share a server have different ones.
    prefix: Option<&'a str>,
}

fn options(query: &str) -> Result<Options<'_>, StoreError> {
    let mut options = Options::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("sslrootcert", file)) => options.ca = Some(file),
            Some(("prefix", prefix)) => options.prefix = Some(prefix),
            _ => {
                let name = pair.split('=').next().unwrap_or_default();
                let what = format!("a Redis URL takes sslrootcert and prefix, not {name:?}");
                return Err(StoreError::unavailable("presence", what));
            }
        }
    }
    Ok(options)
}

fn client(server: &str, ca: Option<&str>) -> Result<Client, StoreError> {
    // Of the whole process: who was here first has chosen it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // Small commands must not wait for the acknowledgement of those before them.
    let tcp = TcpSettings::default().set_nodelay(true);
    let server = server.into_connection_info().map_err(unavailable)?.set_tcp_settings(tcp);
    let Some(file) = ca else { return Client::open(server).map_err(unavailable) };
    let ca = fs::read(file).map_err(|error| {
        StoreError::unavailable("presence", format!("cannot read {file}: {error}"))
    })?;
    let trusted = TlsCertificates { client_tls: None, root_cert: Some(ca) };
    Client::build_with_tls(server, trusted).map_err(unavailable)
}

fn unavailable(error: RedisError) -> StoreError {
    StoreError::unavailable("presence", error)
}

/// Where an identity is kept.
struct Place {
    bucket: String,
    revoked: String,
    field: String,
}
