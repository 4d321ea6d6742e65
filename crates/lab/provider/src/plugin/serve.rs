//! The go-plugin handshake and a unary gRPC server on a unix socket, straight on h2.
//!
//! terraform starts the provider with a cookie in the environment, reads one line from its standard
//! output (`1|6|unix|SOCKET|grpc|CERTIFICATE`), connects once and keeps that connection for its whole
//! life. When it goes, terraform has gone, and so does this process, whatever it was doing: an
//! operation under way on the node is left to the node, as with the real provider.

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use bytes::{BufMut, Bytes, BytesMut};
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use std::{
    io::{self, Write},
    pin::Pin,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixListener,
    signal::unix::{SignalKind, signal},
    sync::Notify,
    time::timeout,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring::default_provider,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

/// What terraform sets so that nobody starts a provider by hand.
const COOKIE: (&str, &str) =
    ("TF_PLUGIN_MAGIC_COOKIE", "d602bf8f470bc67ca7faa0386276bbdd4330efaf76d1a219cb4d6991ca9872b2");
const SHUTDOWN: &str = "/plugin.GRPCController/Shutdown";
/// How long a shut-down connection may linger; terraform closes it at once.
const LINGER: Duration = Duration::from_millis(200);

/// How long terraform has to connect after the handshake (its own limit is 60 s too).
const CONNECT: Duration = Duration::from_secs(60);

/// The answer to a call: a message, an error's text, or none for a method that does not exist.
pub type Reply = Option<Result<Vec<u8>, String>>;
/// Answers one call, given the method's path and the request's message.
pub type Handler = Arc<dyn Fn(String, Bytes) -> Pin<Box<dyn Future<Output = Reply> + Send>> + Send + Sync>;

/// Serves until terraform goes. Fails when it was not terraform that started this, or when the socket
/// cannot be made.
pub async fn run(handler: Handler) -> io::Result<()> {
    if std::env::var(COOKIE.0).as_deref() != Ok(COOKIE.1) {
        return Err(io::Error::other(
            "this is a stand-in for a terraform provider, for tests: terraform starts it, people do not",
        ));
    }
    // Ctrl-C reaches the whole process group; terraform decides what it means (StopProvider).
    let mut interrupts = signal(SignalKind::interrupt())?;
    tokio::spawn(async move { while interrupts.recv().await.is_some() {} });

    let folder = std::env::var_os("PLUGIN_UNIX_SOCKET_DIR").filter(|folder| !folder.is_empty());
    let folder = folder.map_or_else(std::env::temp_dir, Into::into);
    let path = folder.join(format!("plugin-proxmox-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path)?;
    let encrypted = std::env::var_os("PLUGIN_CLIENT_CERT").is_some_and(|certificate| !certificate.is_empty());
    let (tls, certificate) = if encrypted {
        let (tls, certificate) = acceptor().map_err(io::Error::other)?;
        (Some(tls), certificate)
    } else {
        (None, String::new())
    };
    {
        let mut out = io::stdout().lock();
        writeln!(out, "1|6|unix|{}|grpc|{certificate}", path.display())?;
        out.flush()?;
    }
    let accepted = timeout(CONNECT, listener.accept()).await;
    // One connection is all there will be; the name left behind would litter the folder.
    let _ = std::fs::remove_file(&path);
    let (stream, _) = accepted.map_err(|_| io::Error::other("terraform did not connect"))??;
    match tls {
        Some(tls) => connection(tls.accept(stream).await?, handler).await,
        None => connection(stream, handler).await,
    }
    Ok(())
}

fn acceptor() -> Result<(TlsAcceptor, String), Box<dyn std::error::Error + Send + Sync>> {
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_string()])?;
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    let text = STANDARD_NO_PAD.encode(certificate.der());
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    // terraform's own certificate is P-521, which ring cannot verify: it is not asked for.
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)?;
    config.alpn_protocols = vec![b"h2".to_vec()]; // grpc-go insists on ALPN
    Ok((TlsAcceptor::from(Arc::new(config)), text))
}

/// Serves one connection until it ends, or until a shutdown has had time to be answered.
async fn connection<S: AsyncRead + AsyncWrite + Unpin>(stream: S, handler: Handler) {
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 23);
    let Ok(mut connection) = builder.handshake(stream).await else {
        return;
    };
    let stop = Arc::new(Notify::new());
    let lingering = async {
        stop.notified().await;
        tokio::time::sleep(LINGER).await;
    };
    tokio::pin!(lingering);
    loop {
        let next = tokio::select! {
            next = connection.accept() => next,
            () = &mut lingering => return,
        };
        // A reset here is how every run of terraform ends.
        let Some(Ok((request, response))) = next else {
            return;
        };
        let (handler, stop) = (handler.clone(), stop.clone());
        tokio::spawn(async move {
            let ending = request.uri().path() == SHUTDOWN;
            // A peer that has gone away cannot be answered, and there is nobody to tell.
            let _ = call(request, response, handler).await;
            if ending {
                stop.notify_one();
            }
        });
    }
}

async fn call(
    request: Request<h2::RecvStream>,
    mut response: SendResponse<Bytes>,
    handler: Handler,
) -> Result<(), h2::Error> {
    let path = request.uri().path().to_string();
    let reply = match path.as_str() {
        SHUTDOWN => Some(Ok(Vec::new())),
        path if path.starts_with("/plugin.") => None,
        _ => {
            let mut body = request.into_body();
            let mut frame = BytesMut::new();
            while let Some(chunk) = body.data().await {
                let chunk = chunk?;
                body.flow_control().release_capacity(chunk.len())?;
                frame.extend_from_slice(&chunk);
            }
            // five bytes of frame: a compression flag and the length
            let message = if frame.len() > 5 { frame.freeze().slice(5..) } else { Bytes::new() };
            handler(path, message).await
        }
    };
    let mut head = Response::new(());
    head.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    match reply {
        Some(Ok(message)) => {
            let mut stream = response.send_response(head, false)?;
            let mut frame = BytesMut::with_capacity(message.len() + 5);
            frame.put_u8(0);
            frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
            frame.put_slice(&message);
            stream.send_data(frame.freeze(), false)?;
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            stream.send_trailers(trailers)?;
        }
        Some(Err(error)) => {
            const INTERNAL: &str = "13";
            let text = error.replace(|c: char| !c.is_ascii_graphic(), " ");
            let text = HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("error"));
            head.headers_mut().insert("grpc-status", HeaderValue::from_static(INTERNAL));
            head.headers_mut().insert("grpc-message", text);
            response.send_response(head, true)?;
        }
        None => {
            const UNIMPLEMENTED: &str = "12";
            head.headers_mut().insert("grpc-status", HeaderValue::from_static(UNIMPLEMENTED));
            response.send_response(head, true)?;
        }
    }
    Ok(())
}
