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
use tokio_rustls::client::TlsStream;

use crate::args::{Broker, Hub};

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
    pub ip: IpAddr,
    pub mqtt_port: u16,
    pub name: ServerName<'static>,
    /// Of devices, which may show a certificate.
    pub tls: Arc<ClientConfig>,
    pub back_end_tls: Arc<ClientConfig>,
    /// `None`: a broker.
    pub hub: Option<Login>,
}

impl Target {
    pub fn of(hub: &Hub, broker: &Broker) -> Result<Self> {
        if let Some(broker_at) = &broker.broker {
            let (host, port) = broker_at.rsplit_once(':').context("--broker takes HOST:PORT")?;
            let port = port.parse().context("--broker takes HOST:PORT")?;
            let ca = broker.broker_ca.as_deref().context("--broker-ca is missing")?;
            return Self::at(host, (port, None), [tls(ca, None)?, tls(ca, None)?], None);
        }
        let login = login(hub)?;
        let ca = hub.ca.as_deref().context("set DUNLIN_CA or --ca to the hub's CA certificate")?;
        let host = login.hostname.clone();
        let tls = [tls(ca, shown(hub)?)?, tls(ca, None)?];
        Self::at(&host, (hub.mqtt_port, hub.address), tls, Some(login))
    }

    fn at(
        host: &str,
        (mqtt_port, address): (u16, Option<IpAddr>),
        [tls, back_end_tls]: [Arc<ClientConfig>; 2],
        hub: Option<Login>,
    ) -> Result<Self> {
        let ip = match address {
            Some(ip) => ip,
            None => resolve(host, mqtt_port)?.ip(),
        };
        let name = ServerName::try_from(host.to_owned()).context("not a host name")?;
        Ok(Self { ip, mqtt_port, name, tls, back_end_tls, hub })
    }

    /// The hub that is driven, where nothing else will do.
    pub fn hub(&self) -> Result<&Login> {
        self.hub.as_ref().context("only a hub can do this: leave out --broker")
    }

    pub fn https_port(&self) -> Result<u16> {
        self.hub()?.https_port()
    }

    /// A TLS connection for the device with this number.
    pub async fn connect(
        &self,
        port: u16,
        tls: &Arc<ClientConfig>,
        number: usize,
    ) -> Result<TlsStream<TcpStream>> {
        let socket = self.dial(port, number).await.map_err(|error| anyhow!("TCP: {error}"))?;
        TlsConnector::from(tls.clone())
            .connect(self.name.clone(), socket)
            .await
            .map_err(|error| anyhow!("TLS: {error}"))
    }

    async fn dial(&self, port: u16, number: usize) -> std::io::Result<TcpStream> {
        let socket = if self.ip.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(source) = source(self.ip, number, std::process::id()) {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        let stream = socket.connect(SocketAddr::new(self.ip, port)).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
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
fn resolve(host: &str, port: u16) -> Result<SocketAddr> {
    let found: Vec<_> = (host, port)
        .to_socket_addrs()
        .with_context(|| format!("cannot resolve {host}; --address names its address"))?
        .collect();
    let v4 = found.iter().find(|address| address.is_ipv4());
    v4.or(found.first()).copied().with_context(|| format!("{host} has no address"))
}

/// TLS 1.3, the certificate verified, every handshake a full one: a resumed one would measure less.
fn tls(ca: &Path, shown: Option<Shown>) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(ca)
        .with_context(|| format!("cannot read the CA {}", ca.display()))?;
    for certificate in certificates {
        roots.add(certificate.with_context(|| format!("{} is not PEM", ca.display()))?)?;
    }
    if roots.is_empty() {
        bail!("{} holds no certificate", ca.display());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots);
    let mut config = match shown {
        Some((certificate, key)) => config.with_client_auth_cert(vec![certificate], key)?,
        None => config.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
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
