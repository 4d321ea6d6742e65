//! The HTTPS API on loopback: TLS 1.3, a self-signed certificate, tokens, Proxmox' envelopes and status lines.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::node::Shared;
use crate::node::access::Caller;
use crate::node::pause;
use crate::node::refusal::{Outcome, Refusal};

mod cluster;
mod figures;
mod guest;
mod lab;
mod params;
mod routes;

pub(crate) use guest::split_list;
pub(crate) use lab::fault;
pub(crate) use params::Params;
pub(crate) use routes::dispatch;

/// Bodies above this are refused.
const BODY_LIMIT: usize = 512 << 10;

/// Makes the certificate, puts it where a node has its own, and gives the acceptor.
pub(crate) fn acceptor(dir: &Path) -> anyhow::Result<TlsAcceptor> {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    let folder = dir.join("node/etc/ssl");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("pve-ssl.pem"), certified.cert.pem())?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves until the program ends.
pub(crate) async fn serve(node: Shared, listener: TcpListener, acceptor: TlsAcceptor) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors, say: a moment later there may be some again.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let (node, acceptor) = (node.clone(), acceptor.clone());
        tokio::spawn(async move {
            // A client that fails its handshake or goes away is its own affair.
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            // A task of its own: Proxmox carries a request out although its client has gone (`facts/proxmox.md`), and
            // hyper drops what a connection that was closed waits for.
            let service = service_fn(move |request| {
                let answer = tokio::spawn(answer(node.clone(), request));
                async move { answer.await.map_err(io::Error::other)? }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

type Reply = Response<Full<Bytes>>;

async fn answer(node: Shared, request: Request<Incoming>) -> io::Result<Reply> {
    let path = request.uri().path().to_owned();
    if path.starts_with("/lab/") {
        return Ok(lab::answer(&node, request).await);
    }
    let Some(raw) = path.strip_prefix("/api2/json") else {
        return Ok(refused(&Refusal::with_code(404, format!("no such file '{path}'"))));
    };
    let method = request.method().clone();
    let path = routes::decode(raw.trim_end_matches('/'));
    let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok()).map(String::from);
    // A real node reads the body first too, and refuses what it cannot read before it knows who asks.
    let params = match read(request, &method).await {
        Ok(params) => params,
        Err(refusal) => return Ok(logged(&node, &method, &path, &Params::default(), refusal)),
    };
    let caller = node.state().access.authenticate(header.as_deref());
    let caller = match caller {
        Ok(caller) => caller,
        Err(refusal) => {
            pause(node.timing().auth_delay).await;
            return Ok(logged(&node, &method, &path, &params, refusal));
        }
    };
    match act(&node, &caller, &method, raw, &path, &params).await {
        Ok(data) => {
            node.log.add("api", format!("{method} {path}"), Some(200), params.json());
            Ok(reply(StatusCode::OK, None, &json!({"data": data})))
        }
        // No answer: the connection is cut off.
        Err(refusal) if refusal.cut_off => {
            node.log.add("api", format!("{method} {path}"), None, params.json());
            Err(io::Error::other("cut off by a fault"))
        }
        Err(refusal) => Ok(logged(&node, &method, &path, &params, refusal)),
    }
}

async fn act(
    node: &Shared,
    caller: &Caller,
    method: &Method,
    raw: &str,
    path: &str,
    params: &Params,
) -> Outcome<Value> {
    let point = format!("api.{method} {path}");
    node.faults.pass(&format!("{point}.before")).await?;
    let data = dispatch(node, caller, method.as_str(), raw, params).await?;
    node.faults.pass(&format!("{point}.after")).await?;
    Ok(data)
}

async fn read(request: Request<Incoming>, method: &Method) -> Outcome<Params> {
    let headers = request.headers();
    if let Some(encoding) = headers.get(TRANSFER_ENCODING) {
        let encoding = encoding.to_str().unwrap_or_default();
        return Err(Refusal::with_code(
            501,
            match encoding.eq_ignore_ascii_case("chunked") {
                true => "chunked transfer encoding not supported".to_owned(),
                false => format!("Unknown transfer encoding '{encoding}'"),
            },
        ));
    }
    let length: usize = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    let takes_body = *method == Method::POST || *method == Method::PUT;
    if !takes_body && length > 0 {
        return Err(Refusal::with_code(501, format!("Unexpected content for method '{method}'")));
    }
    if length > BODY_LIMIT {
        // Read and thrown away, so that the answer is not lost with a connection closed on unread bytes.
        let _ = Limited::new(request.into_body(), 16 * BODY_LIMIT).collect().await;
        return Err(Refusal::with_code(501, "for data too large"));
    }
    let json = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|kind| kind.starts_with("application/json"));
    let query = request.uri().query().unwrap_or("").to_owned();
    let body = Limited::new(request.into_body(), BODY_LIMIT)
        .collect()
        .await
        .map_err(|error| Refusal::with_code(400, format!("bad request: {error}")))?
        .to_bytes();
    Params::read(&query, &body, json)
}

fn logged(node: &Shared, method: &Method, path: &str, params: &Params, refusal: Refusal) -> Reply {
    let mut detail = params.json();
    detail["refusal"] = json!(refusal.message);
    node.log.add("api", format!("{method} {path}"), Some(i32::from(refusal.code)), detail);
    refused(&refusal)
}

fn refused(refusal: &Refusal) -> Reply {
    let status = StatusCode::from_u16(refusal.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if status == StatusCode::UNAUTHORIZED {
        let mut response = Response::new(Full::default());
        *response.status_mut() = status;
        set_reason(&mut response, &refusal.message);
        return response;
    }
    let mut body = json!({"data": null, "message": format!("{}\n", refusal.message)});
    if !refusal.errors.is_empty() {
        body["errors"] =
            refusal.errors.iter().map(|(name, why)| (name.clone(), json!(format!("{why}\n")))).collect();
    }
    reply(status, Some(&refusal.message), &body)
}

fn reply(status: StatusCode, reason: Option<&str>, body: &Value) -> Reply {
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = status;
    let kind = http::HeaderValue::from_static("application/json;charset=UTF-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    if let Some(reason) = reason {
        set_reason(&mut response, reason);
    }
    response
}

/// The text of an error is also the reason phrase of the status line, its first line.
fn set_reason(response: &mut Reply, text: &str) {
    let line = text.lines().next().unwrap_or("").to_owned();
    if let Ok(reason) = ReasonPhrase::try_from(line.into_bytes()) {
        response.extensions_mut().insert(reason);
    }
}
