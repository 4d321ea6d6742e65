//! A node that is reached by another address than loopback: a network namespace of its own with 192.0.2.1 in it, and
//! there somebody who speaks TLS with a certificate of the test's choice and hands on to the node what he is told.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, ensure};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::Lab;

/// What is spoken to outside; an address of RFC 5737, which no network has.
const ADDRESS: &str = "192.0.2.1";

/// Runs `work` in a thread whose network is a new one: loopback and 192.0.2.1. What the thread starts (labs, commands)
/// is in it too; nothing of it stays.
///
/// # Errors
/// Namespaces cannot be made here: it takes root.
///
/// # Panics
/// When `work` does.
pub fn in_own_network(work: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    // What matters to the product is the address, not the interface that has it.
    let script = format!("ip link set lo up && ip address add {ADDRESS}/32 dev lo && echo ready && exec cat");
    // It ends with us, however we end: its standard input does.
    let mut holder = Command::new("unshare")
        .args(["--net", "sh", "-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("failed to start unshare")?;
    let done = enter_and_run(&mut holder, work);
    let _ = holder.kill();
    let _ = holder.wait();
    done
}

fn enter_and_run(holder: &mut Child, work: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    let mut line = String::new();
    BufReader::new(holder.stdout.take().context("no output")?).read_line(&mut line)?;
    ensure!(line == "ready\n", "a network namespace cannot be made here; it takes root");
    let network = std::fs::File::open(format!("/proc/{}/ns/net", holder.id()))?;
    let thread = std::thread::spawn(move || -> anyhow::Result<()> {
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&network), Some(LinkNameSpaceType::Network))?;
        work();
        Ok(())
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Which certificate is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// By the authority in [`Outside::authority`], for the address that is spoken to.
    Good,
    /// By another authority.
    OfAStranger,
    /// By itself.
    SelfSigned,
    /// By the right authority, for another address.
    ForAnother,
    /// By the right authority, until 2020.
    Expired,
}

impl Shown {
    /// Those that nobody may accept.
    pub const BAD: [Shown; 4] = [Shown::OfAStranger, Shown::SelfSigned, Shown::ForAnother, Shown::Expired];
}

/// What has reached him since he was last asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heard {
    /// Connections, those included that ended with the handshake.
    pub connections: usize,
    /// What was sent to him and could be decrypted.
    pub bytes: Vec<u8>,
}

/// Somebody with a certificate, between the commands and the node.
pub struct Outside {
    address: SocketAddr,
    authority: Authority,
    stranger: Authority,
    acceptor: Arc<Mutex<TlsAcceptor>>,
    heard: Arc<Mutex<Heard>>,
    _runtime: tokio::runtime::Runtime,
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> anyhow::Result<Authority> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key)?.pem();
        Ok(Authority { issuer: Issuer::new(params, key), pem })
    }
}

impl Outside {
    /// Listens on 192.0.2.1, with a good certificate to begin with; to be called in [`in_own_network`].
    ///
    /// # Errors
    /// The address is not there, or the lab's files are not.
    pub fn before(lab: &Lab) -> anyhow::Result<Outside> {
        let listener = std::net::TcpListener::bind((ADDRESS, 0)).context("failed to listen outside")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let node: SocketAddr = lab.endpoint()?.trim_start_matches("https://").parse()?;
        let connector = connector(lab)?;
        let (authority, stranger) = (Authority::new()?, Authority::new()?);
        let acceptor = Arc::new(Mutex::new(acceptor(Shown::Good, &authority, &stranger)?));
        let heard = Arc::<Mutex<Heard>>::default();
        // Its threads are born in the network of this one.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (now, log) = (acceptor.clone(), heard.clone());
        runtime.spawn(async move {
            let Ok(listener) = TcpListener::from_std(listener) else { return };
            while let Ok((stream, _)) = listener.accept().await {
                log.lock().unwrap_or_else(PoisonError::into_inner).connections += 1;
                let acceptor = now.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let (connector, log) = (connector.clone(), log.clone());
                tokio::spawn(async move {
                    // A client that refuses, or goes away, is what the tests are about.
                    let _ = hand_on(stream, acceptor, node, connector, log).await;
                });
            }
        });
        Ok(Outside { address, authority, stranger, acceptor, heard, _runtime: runtime })
    }

    /// `https://192.0.2.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The PEM text of the authority that is to be trusted.
    pub fn authority(&self) -> &str {
        &self.authority.pem
    }

    /// Shows this certificate to whoever comes from now on.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn show(&self, which: Shown) -> anyhow::Result<()> {
        let acceptor = acceptor(which, &self.authority, &self.stranger)?;
        *self.acceptor.lock().unwrap_or_else(PoisonError::into_inner) = acceptor;
        Ok(())
    }

    /// What has come since the last call.
    pub fn heard(&self) -> Heard {
        std::mem::take(&mut *self.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn hand_on(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    node: SocketAddr,
    connector: TlsConnector,
    log: Arc<Mutex<Heard>>,
) -> anyhow::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(acceptor.accept(stream).await?);
    let name = ServerName::try_from("localhost")?;
    let node = connector.connect(name, TcpStream::connect(node).await?).await?;
    let (mut from_node, mut to_node) = tokio::io::split(node);
    let there = async {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let read = from_client.read(&mut buffer).await?;
            if read == 0 {
                return to_node.shutdown().await;
            }
            log.lock().unwrap_or_else(PoisonError::into_inner).bytes.extend(&buffer[..read]);
            to_node.write_all(&buffer[..read]).await?;
        }
    };
    let back = tokio::io::copy(&mut from_node, &mut to_client);
    tokio::select! {
        done = there => done?,
        done = back => drop(done?),
    }
    Ok(())
}

fn connector(lab: &Lab) -> anyhow::Result<TlsConnector> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(lab.path("node/etc/ssl/pve-ssl.pem"))?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn acceptor(which: Shown, authority: &Authority, stranger: &Authority) -> anyhow::Result<TlsAcceptor> {
    let key = KeyPair::generate()?;
    let address = if which == Shown::ForAnother { "192.0.2.99" } else { ADDRESS };
    let mut params = CertificateParams::new([address.to_owned()])?;
    if which == Shown::Expired {
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 1);
    }
    let certificate = match which {
        Shown::SelfSigned => params.self_signed(&key)?,
        Shown::OfAStranger => params.signed_by(&key, &stranger.issuer)?,
        _ => params.signed_by(&key, &authority.issuer)?,
    };
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // No session is taken up again: each connection sees the certificate.
    config.send_tls13_tickets = 0;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
