//! A small HTTPS client that shows what is on the wire, and shorthands for the tools.
#![allow(dead_code, reason = "each test program uses its part")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Output;
use std::sync::Arc;

use lab::Lab;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub code: u16,
    pub reason: String,
    /// The body; null when there was none.
    pub body: Value,
}

impl Reply {
    pub fn data(&self) -> &Value {
        assert_eq!(self.code, 200, "{self:?}");
        &self.body["data"]
    }

    pub fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or("").trim_end()
    }
}

/// Sends these bytes and reads until the node closes.
pub fn raw(lab: &Lab, request: &str) -> String {
    let certificate = CertificateDer::from_pem_file(lab.path("node/etc/ssl/pve-ssl.pem")).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let address = lab.endpoint().unwrap().replace("https://", "");
    let mut stream = rustls::StreamOwned::new(connection, TcpStream::connect(address).unwrap());
    // A node that refuses may close before it has read everything.
    let _ = stream.write_all(request.as_bytes());
    let mut bytes = Vec::new();
    // The end of the connection without its last TLS word is an end too.
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// One request with these headers and this body.
pub fn request(lab: &Lab, method: &str, path: &str, headers: &str, body: &str) -> Reply {
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let text = raw(
        lab,
        &format!(
            "{method} /api2/json{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}{length}\r\n{body}"
        ),
    );
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.lines().next().unwrap_or("");
    let mut words = status.splitn(3, ' ').skip(1);
    Reply {
        code: words.next().and_then(|code| code.parse().ok()).unwrap_or(0),
        reason: words.next().unwrap_or("").to_owned(),
        body: serde_json::from_str(body).unwrap_or(Value::Null),
    }
}

/// One request with the lab's token; the body is form-encoded.
pub fn api(lab: &Lab, method: &str, path: &str, body: &str) -> Reply {
    let headers = format!(
        "Authorization: PVEAPIToken={}\r\nContent-Type: application/x-www-form-urlencoded\r\n",
        lab.token()
    );
    request(lab, method, path, &headers, body)
}

/// What a tool said, as text, and its exit code (-1: killed by a signal).
#[derive(Debug, PartialEq, Eq)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Runs one of the lab's tools: `run(&lab, "qm status 100")`.
pub fn run(lab: &Lab, line: &str) -> Said {
    let words: Vec<&str> = line.split(' ').collect();
    words_of(lab, &words)
}

/// The same, word by word.
pub fn words_of(lab: &Lab, words: &[&str]) -> Said {
    lab.tool(words[0]).args(&words[1..]).output().unwrap().into()
}

/// The same, which must succeed; gives stdout.
pub fn ok(lab: &Lab, line: &str) -> String {
    let said = run(lab, line);
    assert_eq!(said.code, 0, "{line}: {said:?}");
    said.out
}

/// A node without terraform and root agent: what the node's own tests need.
pub fn node() -> lab::LabBuilder {
    Lab::builder().no_terraform().no_root_agent()
}

/// The same with guest 100, a running clone in our pool.
pub fn with_guest(builder: lab::LabBuilder) -> Lab {
    let lab = builder.start().unwrap();
    ok(&lab, "qm clone 9001 100 --name web-1 --full 1 --pool blockhost");
    ok(&lab, "qm start 100");
    lab
}
