//! Where devices connect to: a hub, or a plain MQTT broker as its peer.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use dunlin_auth::connection_string::Signer;
use dunlin_auth::{ConnectionString, Key};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use crate::args::{Broker, Hub};
use crate::scenario::Auth;
use crate::tls::Stream;

/// Connections from one source address: its ports must also last for those of the run before,
/// which the kernel keeps for a minute.
const PER_SOURCE: usize = 4_000;

/// A hub, with the right to manage its devices.
#[derive(Clone)]
pub struct Login {
    pub hostname: String,
    /// `host[:port]` of the REST API.
    pub authority: String,
    pub policy: String,
    pub key: Key,
    /// Of the certificate that the devices show instead of a token.
    pub thumbprint: Option<String>,
}

impl Login {
    pub fn https_port(&self) -> Result<u16> {
        match self.authority.rsplit_once(':') {
            Some((_, port)) => port.parse().context("the port of HostName is not a number"),
            None => Ok(443),
        }
    }
}

/// What devices connect to.
pub struct Target {
    ip: IpAddr,
    /// Of MQTT; of several brokers each.
    ports: Vec<u16>,
    name: ServerName<'static>,
    /// Without a certificate of ours. None: no TLS at all, with a broker.
    pub tls: Option<Arc<ClientConfig>>,
    /// Of devices that show a certificate.
    x509_tls: Option<Arc<ClientConfig>>,
    /// `None`: a broker.
    pub hub: Option<Login>,
}

/// The hub asks for less: CONNACK 3.
#[derive(Debug)]
pub struct Throttled;

impl std::fmt::Display for Throttled {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("CONNACK 3")
    }
}

impl std::error::Error for Throttled {}

impl Target {
    pub fn of(hub: &Hub, broker: &Broker) -> Result<Self> {
        if let Some(first) = broker.broker.first() {
            let at = |text: &str| {
                let (host, port) = text.rsplit_once(':')?;
                Some((host.to_owned(), port.parse::<u16>().ok()?))
            };
            let at = |text| at(text).context("--broker takes HOST:PORT");
            let (host, port) = at(first)?;
            let mut ports = vec![port];
            for other in &broker.broker[1..] {
                let (other, port) = at(other)?;
                if other != host {
                    bail!("--broker: several of them differ in their port only");
                }
                ports.push(port);
            }
            let tls = broker.broker_ca.as_deref().map(|ca| tls(Some(ca), None)).transpose()?;
            return Self::at(&host, None, ports, tls);
        }
        let login = login(hub)?;
        let ca = hub.ca.as_deref();
        let target =
            Self::at(&login.hostname, hub.address, vec![hub.mqtt_port], Some(tls(ca, None)?))?;
        let x509_tls = shown(hub)?.map(|shown| tls(ca, Some(shown))).transpose()?;
        Ok(Self { x509_tls, hub: Some(login), ..target })
    }

    fn at(
        host: &str,
        address: Option<IpAddr>,
        ports: Vec<u16>,
        tls: Option<Arc<ClientConfig>>,
    ) -> Result<Self> {
        let ip = match address {
            Some(ip) => ip,
            None => resolve(host)?,
        };
        let name = ServerName::try_from(host.to_owned()).context("not a host name")?;
        Ok(Self { ip, ports, name, tls, x509_tls: None, hub: None })
    }

    /// The hub that is driven, where nothing else will do.
    pub fn hub(&self) -> Result<&Login> {
        self.hub.as_ref().context("only a hub can do this: leave out --broker")
    }

    /// Host, and the ports of MQTT.
    pub fn address(&self) -> String {
        let ports: Vec<_> = self.ports.iter().map(u16::to_string).collect();
        format!("{}:{}", self.name.to_str(), ports.join(","))
    }

    /// For the device with this number.
    pub fn mqtt_port(&self, number: usize) -> u16 {
        self.ports[number % self.ports.len()]
    }

    pub fn https_port(&self) -> Result<u16> {
        self.hub()?.https_port()
    }

    /// For devices of this kind.
    pub fn tls_for(&self, auth: Auth) -> Result<Option<Arc<ClientConfig>>> {
        match auth {
            Auth::Sas => Ok(self.tls.clone()),
            Auth::X509 => {
                let tls = self.x509_tls.clone();
                tls.map(Some).context("auth x509 needs --x509 and --x509-key")
            }
        }
    }

    /// A connection for the device with this number, by TLS if there is any.
    pub async fn connect(
        &self,
        port: u16,
        tls: Option<&Arc<ClientConfig>>,
        number: usize,
    ) -> Result<Stream> {
        let socket = self.dial(port, number).await?;
        let Some(tls) = tls else { return Ok(Stream::Plain(socket)) };
        let connecting = TlsConnector::from(tls.clone()).connect(self.name.clone(), socket);
        let stream = connecting.await.map_err(|error| anyhow!("TLS: {error}"))?;
        Ok(Stream::Tls(Box::new(stream)))
    }

    pub async fn dial(&self, port: u16, number: usize) -> Result<TcpStream> {
        let dial = async {
            let v4 = self.ip.is_ipv4();
            let socket = if v4 { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            if let Some(source) = source(self.ip, number, std::process::id()) {
                socket.bind(SocketAddr::new(source, 0))?;
            }
            let stream = socket.connect(SocketAddr::new(self.ip, port)).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        dial.await.map_err(|error: std::io::Error| anyhow!("TCP: {error}"))
    }
}

/// Over loopback there are many source addresses to connect from, so that ports do not run out.
fn source(target: IpAddr, number: usize, salt: u32) -> Option<IpAddr> {
    let IpAddr::V4(target) = target else { return None };
    if !target.is_loopback() {
        return None;
    }
    // Two runs shortly after one another start at different addresses.
    let place = salt as usize * 5 + number / PER_SOURCE;
    Some(Ipv4Addr::new(127, 0, 1, (1 + place % 250) as u8).into())
}

/// The login of the command line, which must be a shared access policy's.
fn login(hub: &Hub) -> Result<Login> {
    let text = hub.login.as_deref().context(
        "set DUNLIN_LOGIN or --login to the hub's owner connection string (or give --broker)",
    )?;
    let parsed = ConnectionString::parse(text)?;
    let hostname = parsed.hostname().to_owned();
    let Signer::Policy(policy) = parsed.signer else {
        bail!("the connection string is a device's; the load test needs the owner's");
    };
    let thumbprint = shown(hub)?.map(|(certificate, _)| {
        let digest = ring::digest::digest(&ring::digest::SHA256, &certificate);
        digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    });
    Ok(Login { hostname, authority: parsed.host, policy, key: parsed.key, thumbprint })
}

/// The certificate that the devices show, and its key.
type Shown = (CertificateDer<'static>, PrivateKeyDer<'static>);

fn shown(hub: &Hub) -> Result<Option<Shown>> {
    let (Some(certificate), Some(key)) = (&hub.x509, &hub.x509_key) else { return Ok(None) };
    let unread = |path: &Path| format!("cannot read {} as PEM", path.display());
    let shown = CertificateDer::from_pem_file(certificate);
    let key_of_it = PrivateKeyDer::from_pem_file(key);
    Ok(Some((shown.with_context(|| unread(certificate))?, key_of_it.with_context(|| unread(key))?)))
}

/// IPv4 first: a hub on a developer's machine listens on 127.0.0.1.
fn resolve(host: &str) -> Result<IpAddr> {
    let found = (host, 0).to_socket_addrs();
    let found =
        found.with_context(|| format!("cannot resolve {host}; --address names its address"));
    let found: Vec<_> = found?.map(|address| address.ip()).collect();
    let v4 = found.iter().find(|address| address.is_ipv4());
    v4.or(found.first()).copied().with_context(|| format!("{host} has no address"))
}

/// The certificate verified, by the system's roots if no CA is named. Every handshake is a full one:
/// `Ticket::resuming` makes another of it.
fn tls(ca: Option<&Path>, shown: Option<Shown>) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(ca) => {
            let certificates = CertificateDer::pem_file_iter(ca)
                .with_context(|| format!("cannot read the CA {}", ca.display()))?;
            for certificate in certificates {
                roots.add(certificate.with_context(|| format!("{} is not PEM", ca.display()))?)?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        bail!("no CA certificate to trust: set DUNLIN_CA or --ca to the hub's");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = match shown {
        Some((certificate, key)) => config.with_client_auth_cert(vec![certificate], key)?,
        None => config.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

#[cfg(test)]
impl Target {
    /// A broker.
    pub fn at_port(port: u16) -> Result<Self> {
        Self::at("localhost", Some(Ipv4Addr::LOCALHOST.into()), vec![port], None)
    }

    /// A hub without TLS, whose HTTPS is at this port.
    pub fn hub_at_port(port: u16) -> Result<Self> {
        let key = Key::from_base64("MDEyMzQ1Njc4OWFiY2RlZg==")?;
        let (hostname, policy) = ("localhost".to_owned(), "iothubowner".to_owned());
        let authority = format!("localhost:{port}");
        let login = Login { hostname, authority, policy, key, thumbprint: None };
        Ok(Self { hub: Some(login), ..Self::at_port(1)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_spread_over_loopback_only() {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let at = |number, salt| source(loopback, number, salt).map(|ip| ip.to_string());
        assert_eq!(at(0, 0).as_deref(), Some("127.0.1.1"));
        assert_eq!(at(3_999, 0).as_deref(), Some("127.0.1.1"));
        assert_eq!(at(4_000, 0).as_deref(), Some("127.0.1.2"));
        assert_eq!(at(0, 49).as_deref(), Some("127.0.1.246"));
        assert_eq!(at(19_999, 49).as_deref(), Some("127.0.1.250"));
        assert_eq!(source(IpAddr::from([10, 0, 0, 1]), 0, 0), None);
    }
}
