//! HTTP/1.1 over TLS to one endpoint, with connections kept open between calls.
//!
//! hyper is used because it hands out the reason phrase, in which Proxmox tells what went wrong.

use super::ApiError;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::{client::conn::http1::SendRequest, ext::ReasonPhrase};
use hyper_util::rt::TokioIo;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
        SupportedProtocolVersion,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{
            WebPkiSupportedAlgorithms, ring::default_provider, verify_tls12_signature, verify_tls13_signature,
        },
        pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
        version::{TLS12, TLS13},
    },
};

/// How the server's certificate is treated.
#[derive(Clone, Copy, Debug)]
pub struct TlsSettings {
    /// Any certificate will do.
    pub insecure: bool,
    /// TLS 1.2 will do; the real provider wants 1.3 when nothing is said.
    pub allow_tls12: bool,
}

/// An answer as it came.
pub struct RawAnswer {
    /// The status code.
    pub status: u16,
    /// The reason phrase; the code's usual one when there is no other.
    pub reason: String,
    /// The body.
    pub body: Vec<u8>,
}

type Sender = SendRequest<Full<Bytes>>;

/// The way to one endpoint.
pub struct Connection {
    address: String,
    host: HeaderValue,
    server_name: ServerName<'static>,
    tls: TlsSettings,
    /// Connections not in use at the moment. Each carries one call at a time.
    idle: Mutex<Vec<Sender>>,
}

impl Connection {
    /// A connection for `https://HOST[:PORT]`; nothing is opened yet.
    pub fn new(endpoint: &str, tls: TlsSettings) -> Result<Self, String> {
        let wrong = |what: &str| format!("the endpoint {endpoint:?} is not usable: {what}");
        let uri: http::Uri = endpoint.parse().map_err(|error| wrong(&format!("{error}")))?;
        let authority = uri.authority().ok_or_else(|| wrong("no host"))?;
        let name = authority.host().trim_matches(['[', ']']).to_string();
        Ok(Self {
            address: format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(443)),
            host: HeaderValue::from_str(authority.as_str()).map_err(|_| wrong("strange characters"))?,
            server_name: ServerName::try_from(name).map_err(|_| wrong("no host name"))?,
            tls,
            idle: Mutex::default(),
        })
    }

    /// The whole address of a path, as Go's HTTP client names it in its errors.
    pub fn address_of(&self, path: &str) -> String {
        format!("https://{}{path}", self.host.to_str().unwrap_or_default())
    }

    /// Sends one request and reads the answer whole. Fails only when there is no answer; the error says why, in Go's
    /// words, and not what was asked.
    pub async fn exchange(
        &self,
        method: Method,
        path: &str,
        authorization: Option<&str>,
        content_type: Option<&str>,
        body: String,
    ) -> Result<RawAnswer, ApiError> {
        let bad = |error: http::Error| ApiError::Unreachable(error.to_string());
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, &self.host);
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        if let Some(content_type) = content_type {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        let request = request.body(Full::new(Bytes::from(body))).map_err(bad)?;
        let broken = |error: hyper::Error| ApiError::Unreachable(broken_words(&error));

        let mut sender = self.sender().await?;
        let answer = sender.send_request(request).await.map_err(broken)?;
        let status = answer.status();
        let reason = answer.extensions().get::<ReasonPhrase>();
        let reason = reason.map(|reason| String::from_utf8_lossy(reason.as_bytes()).into_owned());
        let reason = reason.unwrap_or_else(|| status.canonical_reason().unwrap_or_default().to_string());
        let body = answer.into_body().collect().await.map_err(broken)?.to_bytes().to_vec();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        Ok(RawAnswer { status: status.as_u16(), reason, body })
    }

    async fn sender(&self) -> Result<Sender, ApiError> {
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(mut sender) = idle else { break };
            // One that the server has closed meanwhile is dropped here.
            if sender.ready().await.is_ok() {
                return Ok(sender);
            }
        }
        let unreachable = |what: String| ApiError::Unreachable(format!("dial tcp {}: {what}", self.address));
        let refused = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::ConnectionRefused => unreachable("connect: connection refused".into()),
            _ => unreachable(error.to_string()),
        };
        let config = client_config(self.tls).map_err(unreachable)?;
        let stream = TcpStream::connect(&self.address).await.map_err(refused)?;
        stream.set_nodelay(true).map_err(|e| unreachable(e.to_string()))?;
        let stream = TlsConnector::from(Arc::new(config))
            .connect(self.server_name.clone(), stream)
            .await
            .map_err(|error| ApiError::Unreachable(tls_words(&error)))?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| ApiError::Unreachable(broken_words(&error)))?;
        // It ends with the sender or with the server; the sender learns of it.
        tokio::spawn(connection);
        Ok(sender)
    }
}

/// Go's words for a connection that ended before the answer did.
fn broken_words(error: &hyper::Error) -> String {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        match kind {
            Some(std::io::ErrorKind::ConnectionReset) => return "read: connection reset by peer".into(),
            Some(std::io::ErrorKind::BrokenPipe) => return "write: broken pipe".into(),
            _ => cause = error.source(),
        }
    }
    "EOF".into()
}

/// Go's words for what rustls found, as far as people search for them.
fn tls_words(error: &std::io::Error) -> String {
    let text = error.to_string();
    if text.contains("invalid peer certificate") {
        format!("tls: failed to verify certificate: x509: {text}")
    } else if text.contains("ProtocolVersion") {
        format!("remote error: tls: protocol version not supported ({text})")
    } else {
        format!("tls: {text}")
    }
}

fn client_config(settings: TlsSettings) -> Result<ClientConfig, String> {
    static BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
    static NEWEST: &[&SupportedProtocolVersion] = &[&TLS13];
    let provider = Arc::new(default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(if settings.allow_tls12 { BOTH } else { NEWEST })
        .map_err(|error| error.to_string())?;
    Ok(if settings.insecure {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(algorithms)))
            .with_no_client_auth()
    } else {
        builder.with_root_certificates(system_roots()).with_no_client_auth()
    })
}

/// The certificates Go trusts on Linux: those of `SSL_CERT_FILE`, else of the system's bundle. A bundle
/// that cannot be read trusts nobody.
fn system_roots() -> RootCertStore {
    let file =
        std::env::var_os("SSL_CERT_FILE").unwrap_or_else(|| "/etc/ssl/certs/ca-certificates.crt".into());
    let mut roots = RootCertStore::empty();
    if let Ok(certificates) = CertificateDer::pem_file_iter(file) {
        roots.add_parsable_certificates(certificates.flatten());
    }
    roots
}

/// `insecure = true`: the lab's certificate is its own.
#[derive(Debug)]
struct AnyCertificate(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
