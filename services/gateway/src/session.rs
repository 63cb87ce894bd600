//! HOT PATH: a device's session, whatever protocol carries it. Heads translate, nothing more.

use std::cell::Cell;
use std::sync::Arc;

use dunlin_model::event::header;
use dunlin_model::{ErrorCode, HubError, Identity, Session, Subscriptions};
use dunlin_proto::v1::{AuthScope, AuthenticateRequest, AuthenticateResponse, SessionReport};
use dunlin_runtime::clock;
use dunlin_storage::event_log::{Completions, Full, Header, Record, TOPIC_D2C, Token};
use dunlin_storage::presence::Epoch;
use smallvec::SmallVec;

use crate::commands::Leases;
use crate::gateway::Gateway;
use crate::table::Address;

/// One connected identity. Dropped, it gives up its slot and its presence.
pub struct DeviceSession {
    gateway: Arc<Gateway>,
    identity: Identity,
    key: u64,
    epoch: Epoch,
    generation_id: Box<str>,
    /// Plug and Play model, stamped on every message.
    model_id: Option<Box<str>>,
    /// Unix seconds: when its token or certificate has run out, the clock skew allowed for.
    ends: u64,
    scope: AuthScope,
    /// What it is to be told of.
    subscriptions: Cell<Subscriptions>,
    /// Whether they outlive the connection.
    durable: bool,
    /// Unix seconds of the last packet, as far as it was looked at; 0 until it is settled. It fits
    /// where the compiler would pad.
    heard: Cell<u32>,
}

impl DeviceSession {
    /// A session that holds the identity's slot in this process, not yet the cluster's.
    pub(crate) fn new(
        gateway: Arc<Gateway>,
        identity: Identity,
        key: u64,
        granted: AuthenticateResponse,
        session: Session,
        durable: bool,
    ) -> Self {
        let scope = granted.scope();
        Self {
            gateway,
            identity,
            key,
            epoch: 0,
            generation_id: granted.generation_id.into(),
            model_id: session.model_id.map(Into::into),
            ends: granted.expires.saturating_add(dunlin_model::limits::SAS_SKEW_SECONDS),
            scope,
            subscriptions: Cell::new(session.subscriptions),
            durable,
            heard: Cell::new(0),
        }
    }

    /// Fails if another connection has the slot by now.
    pub(crate) fn must_hold(&self) -> Result<(), HubError> {
        if self.gateway.table.holds(&self.identity, self.key) { Ok(()) } else { Err(overtaken()) }
    }

    /// The claim was granted. Fails if another connection took the slot meanwhile.
    pub(crate) fn settle(&mut self, epoch: Epoch) -> Result<(), HubError> {
        self.epoch = epoch;
        if self.gateway.table.settle(&self.identity, self.key, epoch) {
            let now = clock::unix_millis();
            self.heard.set(seconds(now));
            self.gateway.reports.connected(&self.identity, &self.generation_id, epoch, now);
            Ok(())
        } else {
            Err(overtaken())
        }
    }

    /// Notes when the device was last heard of (Unix seconds), for when it has gone.
    pub fn heard(&self, at: u64) {
        self.heard.set(u32::try_from(at).unwrap_or(u32::MAX));
    }

    /// Has the registry told that the device is connected and was heard of then (Unix seconds).
    pub fn report_activity(&self, at: u64) {
        self.heard(at);
        let at = i64::try_from(at).unwrap_or(i64::MAX).saturating_mul(1_000);
        self.gateway.reports.active(&self.identity, &self.generation_id, self.epoch, at);
    }

    pub fn subscriptions(&self) -> Subscriptions {
        self.subscriptions.get()
    }

    pub fn set_subscriptions(&self, subscriptions: Subscriptions) {
        self.subscriptions.set(subscriptions);
    }

    /// Whether its subscriptions outlive the connection.
    pub fn is_durable(&self) -> bool {
        self.durable
    }

    /// The session as it is to be stored.
    pub fn report(&self) -> SessionReport {
        let session = Session {
            subscriptions: self.subscriptions.get(),
            model_id: self.model_id.as_deref().map(str::to_owned),
        };
        SessionReport {
            identity: self.identity.as_str().to_owned(),
            generation_id: self.generation_id.to_string(),
            epoch: self.epoch,
            session: Some(session.into()),
            keep_subscriptions: false,
        }
    }

    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Unix seconds at which the connection must end.
    pub fn ends(&self) -> u64 {
        self.ends
    }

    /// What it leases of C2D messages.
    pub fn leases(&self) -> Arc<Leases> {
        Leases::new(self.gateway.clone(), self.identity.clone(), self.epoch)
    }

    /// Hands a D2C message to the event log, stamped with what the hub knows of its sender.
    /// Durable, and to be acknowledged, when `sink` is told so for `token`.
    pub fn send<'a>(
        &'a self,
        properties: impl Iterator<Item = Header<'a>>,
        body: &'a [u8],
        token: Token,
        sink: Option<&Arc<dyn Completions>>,
    ) -> Result<(), Full> {
        let sender = Sender {
            identity: &self.identity,
            generation_id: &self.generation_id,
            scope: self.scope,
            model_id: self.model_id.as_deref(),
        };
        self.gateway.append(sender, properties, body, token, sink)
    }
}

impl Drop for DeviceSession {
    fn drop(&mut self) {
        self.gateway.table.remove(&self.identity, self.key);
        if self.epoch != 0 {
            self.gateway.release(self.identity.clone(), self.epoch);
        }
        if self.heard.get() != 0 {
            let generation_id = std::mem::take(&mut self.generation_id);
            let heard = i64::from(self.heard.get()) * 1_000;
            self.gateway.reports.ended(self.identity.clone(), generation_id, self.epoch, heard);
        }
    }
}

fn overtaken() -> HubError {
    HubError::new(
        ErrorCode::ServerBusy,
        "the identity was claimed or revoked by someone else while it connected",
    )
}

/// Who sends a message, as the hub stamps it.
#[derive(Clone, Copy)]
pub struct Sender<'a> {
    pub identity: &'a Identity,
    pub generation_id: &'a str,
    pub scope: AuthScope,
    pub model_id: Option<&'a str>,
}

impl Gateway {
    /// See [`DeviceSession::send`].
    pub fn append<'a>(
        &self,
        sender: Sender<'a>,
        properties: impl Iterator<Item = Header<'a>>,
        body: &'a [u8],
        token: Token,
        sink: Option<&Arc<dyn Completions>>,
    ) -> Result<(), Full> {
        let stamp = |name, value| Header { name, value: Some(value) };
        let mut headers: SmallVec<[Header<'a>; 20]> = properties.collect();
        headers.push(stamp(header::CONNECTION_DEVICE_ID, sender.identity.device_id()));
        if let Some(module) = sender.identity.module_id() {
            headers.push(stamp(header::CONNECTION_MODULE_ID, module));
        }
        headers.push(stamp(header::AUTH_GENERATION_ID, sender.generation_id));
        headers.push(stamp(header::AUTH_METHOD, auth_method(sender.scope)));
        headers.push(stamp(header::MESSAGE_SOURCE, "Telemetry"));
        if let Some(model_id) = sender.model_id {
            headers.push(stamp(header::DATA_SCHEMA, model_id));
        }
        let record = Record {
            key: sender.identity.device_id().as_bytes(),
            headers: &headers,
            body,
            enqueued: clock::unix_millis(),
        };
        let appended = self.events.append(TOPIC_D2C, record, token, sink);
        match appended {
            Ok(()) => self.metrics.taken(body.len()),
            Err(Full) => self.metrics.full(),
        }
        appended
    }
}

fn seconds(unix_millis: i64) -> u32 {
    u32::try_from(unix_millis / 1_000).unwrap_or(u32::MAX)
}

/// `iothub-connection-auth-method`.
fn auth_method(scope: AuthScope) -> &'static str {
    match scope {
        AuthScope::Hub => r#"{"scope":"hub","type":"sas","issuer":"iothub"}"#,
        AuthScope::Module => r#"{"scope":"module","type":"sas","issuer":"iothub"}"#,
        AuthScope::Device | AuthScope::Unspecified => {
            r#"{"scope":"device","type":"sas","issuer":"iothub"}"#
        }
        AuthScope::DeviceCertificate => r#"{"scope":"device","type":"x509","issuer":"external"}"#,
        AuthScope::ModuleCertificate => r#"{"scope":"module","type":"x509","issuer":"external"}"#,
    }
}

/// By what a client proves who it is.
pub enum Credentials {
    SasToken(String),
    /// DER, leaf first: those of its TLS handshake.
    Certificates(Vec<Vec<u8>>),
}

impl Credentials {
    /// What the registry is asked.
    pub fn into_request(self, identity: &Identity) -> AuthenticateRequest {
        let identity = identity.to_string();
        match self {
            Self::SasToken(sas_token) => {
                AuthenticateRequest { identity, sas_token, certificates: Vec::new() }
            }
            Self::Certificates(certificates) => {
                AuthenticateRequest { identity, sas_token: String::new(), certificates }
            }
        }
    }
}

/// Whom a connection wants to be, and where it is to be reached.
pub struct Claimant {
    pub identity: Identity,
    pub credentials: Credentials,
    pub address: Address,
    /// Whether what was stored of its session is to be forgotten, and nothing kept.
    pub clean_session: bool,
    /// Plug and Play model it speaks of.
    pub model_id: Option<String>,
}
