//! HOT PATH: the TLS layer of a connection, on rustls' unbuffered API.
//!
//! Nothing is kept while a connection is idle but rustls' own state: records are read in ntex' read
//! buffer, which goes back to its pool when empty, and written through one scratch per thread.

use std::any::{Any, TypeId};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::task::Poll;

use ntex::io::{Filter, FilterBuf, FilterLayer, Io, Layer};
use ntex::util::{BytePages, BytesMut};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus,
};
use rustls::{Error, ServerConfig};

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; 20 * 1024]);
}

/// A connection's TLS state.
pub struct TlsFilter {
    engine: RefCell<Engine>,
    /// Bytes of the read buffer that rustls has looked at and left there: part of a record, or
    /// records with part of a handshake message. It must be shown them again in every call: it
    /// holds positions in them, and panics where they are not.
    left: Cell<u32>,
}

enum Engine {
    Live(Box<UnbufferedServerConnection>),
    /// Closed by either side or failed; what was to be said is in the write buffer.
    Dead,
}

/// Takes the server's part of a TLS handshake. On failure the client has been sent an alert.
pub async fn accept<F: Filter>(
    io: Io<F>,
    config: Arc<ServerConfig>,
) -> io::Result<Io<Layer<TlsFilter, F>>> {
    let connection = UnbufferedServerConnection::new(config).map_err(io::Error::other)?;
    let engine = RefCell::new(Engine::Live(Box::new(connection)));
    let io = io.add_filter(TlsFilter { engine, left: Cell::new(0) });
    // A ClientHello that was there before the filter has been processed, but ntex does not write
    // what came of it.
    io.flush(false).await?;
    loop {
        match io.filter().stage() {
            Stage::Established => return Ok(io),
            Stage::Failed => {
                // Lets the alert out before the socket closes.
                let _ = io.shutdown().await;
                return Err(io::Error::new(io::ErrorKind::InvalidData, "TLS handshake failed"));
            }
            Stage::Handshaking => {
                if io.read_notify().await?.is_none() && io.filter().stage() != Stage::Established {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        }
    }
}

#[derive(PartialEq, Eq)]
enum Stage {
    Handshaking,
    Established,
    Failed,
}

impl TlsFilter {
    fn stage(&self) -> Stage {
        match &*self.engine.borrow() {
            Engine::Dead => Stage::Failed,
            // TLS 1.3 lets a server write before the client has finished: that is not yet "done".
            Engine::Live(connection) if connection.is_handshaking() => Stage::Handshaking,
            Engine::Live(_) => Stage::Established,
        }
    }

    /// Runs `write` on what rustls has left in the read buffer. `false` if that is gone.
    fn with_left(&self, buf: &FilterBuf<'_>, write: impl FnOnce(&mut [u8]) -> bool) -> bool {
        let left = self.left.get() as usize;
        buf.with_read_src(|source| match source {
            Some(source) => source.get_mut(..left).is_some_and(write),
            None => left == 0 && write(&mut []),
        })
    }

    /// Says that TLS ends, if it can be said.
    fn say_end(&self, connection: &mut UnbufferedServerConnection, buf: &FilterBuf<'_>) {
        buf.with_write_buffers(|_, out| {
            self.with_left(buf, |left| encrypt(connection, left, None, out))
        });
    }
}

/// What came of feeding records to rustls.
struct Progress {
    consumed: usize,
    peer_closed: bool,
    failed: Option<Error>,
}

/// Feeds what is in `records`; plaintext goes to `plain`, handshake messages and alerts to `out`.
fn process(
    connection: &mut UnbufferedServerConnection,
    records: &mut [u8],
    plain: &mut BytesMut,
    out: &mut BytePages,
) -> Progress {
    let mut progress = Progress { consumed: 0, peer_closed: false, failed: None };
    loop {
        // After a failure only the alert is collected, by one more call with the same bytes: with
        // others rustls panics, and so it does if it has to refuse them twice.
        let collecting = progress.failed.is_some();
        let rest = &mut records[progress.consumed..];
        let UnbufferedStatus { mut discard, state, .. } = connection.process_tls_records(rest);
        let mut more = true;
        match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    match record {
                        Ok(record) => {
                            plain.extend_from_slice(record.payload);
                            discard += record.discard;
                        }
                        Err(error) => {
                            progress.failed = Some(error);
                            break;
                        }
                    }
                }
            }
            Ok(ConnectionState::EncodeTlsData(message)) => put_message(message, out),
            Ok(ConnectionState::TransmitTlsData(message)) => message.done(),
            Ok(ConnectionState::PeerClosed) => progress.peer_closed = true,
            Ok(_) => more = false,
            Err(_) if progress.failed.is_some() => more = false,
            Err(error) => progress.failed = Some(error),
        }
        progress.consumed += discard;
        if !more || collecting {
            progress.consumed = progress.consumed.min(records.len());
            return progress;
        }
    }
}

/// Runs `write` on the thread's scratch, growing it as asked, and appends what it wrote to `out`.
/// `write` answers with a length, the size it needs, or `None` for nothing to write.
fn with_scratch(
    out: &mut BytePages,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>,
) -> bool {
    SCRATCH.with_borrow_mut(|scratch| {
        loop {
            match write(scratch) {
                Ok(length) => {
                    out.extend_from_slice(&scratch[..length]);
                    return true;
                }
                Err(Some(needed)) if needed > scratch.len() => scratch.resize(needed, 0),
                Err(_) => return false,
            }
        }
    })
}

/// A handshake message, a key update or an alert of rustls' own.
fn put_message<Data>(mut message: EncodeTlsData<'_, Data>, out: &mut BytePages) {
    with_scratch(out, |scratch| {
        message.encode(scratch).map_err(|error| match error {
            EncodeError::InsufficientSize(size) => Some(size.required_size),
            EncodeError::AlreadyEncoded => None,
        })
    });
}

fn needed(error: EncryptError) -> Option<usize> {
    match error {
        EncryptError::InsufficientSize(size) => Some(size.required_size),
        EncryptError::EncryptExhausted => None,
    }
}

/// Encrypts `plain` (`None`: a close_notify) behind whatever rustls wants to say first. `false` if
/// it cannot be done, now (handshaking) or ever.
fn encrypt(
    connection: &mut UnbufferedServerConnection,
    left: &mut [u8],
    plain: Option<&[u8]>,
    out: &mut BytePages,
) -> bool {
    loop {
        match connection.process_tls_records(left).state {
            Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                return with_scratch(out, |scratch| {
                    match plain {
                        Some(plain) => traffic.encrypt(plain, scratch),
                        None => traffic.queue_close_notify(scratch),
                    }
                    .map_err(needed)
                });
            }
            Ok(ConnectionState::EncodeTlsData(message)) => put_message(message, out),
            Ok(ConnectionState::TransmitTlsData(message)) => message.done(),
            Ok(ConnectionState::PeerClosed) => {}
            _ => return false,
        }
    }
}

/// What a client has presented in its TLS handshake, DER, leaf first. The hub asks for it by
/// `query` of a connection once; beside the one that rustls has, only HTTPS keeps a copy.
pub struct ClientCertificates(pub Vec<Vec<u8>>);

impl FilterLayer for TlsFilter {
    fn query(&self, id: TypeId) -> Option<Box<dyn Any>> {
        if id != TypeId::of::<ClientCertificates>() {
            return None;
        }
        let engine = self.engine.borrow();
        let Engine::Live(connection) = &*engine else { return None };
        let certificates = connection.peer_certificates()?.iter().map(|one| one.to_vec()).collect();
        Some(Box::new(ClientCertificates(certificates)))
    }

    fn process_read_buf(&self, buf: &FilterBuf<'_>) -> io::Result<()> {
        let mut engine = self.engine.borrow_mut();
        let Engine::Live(connection) = &mut *engine else {
            // Whatever arrives after the end is dropped, or it would be read again for ever.
            buf.with_read_src(|source| *source = None);
            return Ok(());
        };
        let progress = buf.with_read_buffers(|source, plain| {
            let mut nothing = BytesMut::new();
            let records = source.as_mut().unwrap_or(&mut nothing);
            buf.with_write_buffers(|_, out| {
                let progress = process(connection, records, plain, out);
                records.advance_to(progress.consumed);
                progress
            })
        });
        let left = buf.with_read_src(|source| source.as_ref().map_or(0, |source| source.len()));
        self.left.set(u32::try_from(left).unwrap_or(u32::MAX));
        if let Some(error) = progress.failed {
            tracing::debug!(%error, "TLS failed");
            *engine = Engine::Dead;
            buf.io().close();
        } else if progress.peer_closed {
            self.say_end(connection, buf);
            *engine = Engine::Dead;
            buf.io().close();
        }
        Ok(())
    }

    fn process_write_buf(&self, buf: &FilterBuf<'_>) -> io::Result<()> {
        let mut engine = self.engine.borrow_mut();
        buf.with_write_buffers(|plain, out| {
            let Engine::Live(connection) = &mut *engine else {
                plain.clear();
                return Ok(());
            };
            while let Some(page) = plain.take() {
                let page = page.as_ref();
                if !self.with_left(buf, |left| encrypt(connection, left, Some(page), out)) {
                    return Err(io::Error::other("TLS cannot encrypt: before or after its time"));
                }
            }
            Ok(())
        })
    }

    fn shutdown(&self, buf: &FilterBuf<'_>) -> io::Result<Poll<()>> {
        let mut engine = self.engine.borrow_mut();
        if let Engine::Live(connection) = &mut *engine {
            self.say_end(connection, buf);
            *engine = Engine::Dead;
        }
        Ok(Poll::Ready(()))
    }
}

impl fmt::Debug for TlsFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsFilter")
    }
}
