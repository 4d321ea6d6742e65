//! The only access to the node's HTTPS API: a token, a deadline for every call, checked certificates (hazards H23,
//! H31).

use super::clock::Deadline;
use super::doors::Doors;
use crate::value::api_endpoint::host_of;
use crate::value::token::ApiToken;
use crate::value::web_address::is_loopback;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

/// Why an API request failed. For a missing VM the API answers HTTP 500, and it refuses with 403 before checking
/// existence, so none of these proves an absence (H39, H49).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// The connection could not be made, or broke.
    #[error("cannot reach the Proxmox API at {endpoint}: {why}")]
    Unreachable {
        /// The endpoint that was queried.
        endpoint: String,
        /// The reason as the library words it.
        why: String,
    },
    /// The token is wrong, expired, or its user disabled (401).
    #[error(
        "the Proxmox API does not accept the token {token_id} (HTTP 401): it is wrong, expired or was deleted; renew it with blockhost-provisioner-setup token"
    )]
    BadToken {
        /// `user@realm!name`.
        token_id: String,
    },
    /// The token's role lacks a privilege (403).
    #[error("the token {token_id} may not do this (HTTP 403): {message}")]
    Forbidden {
        /// `user@realm!name`.
        token_id: String,
        /// Names the path and the privilege.
        message: String,
    },
    /// PVE's own 595, 596 and 599: its proxy could not reach the daemon or the node in time.
    #[error(
        "the Proxmox API answered HTTP {status} to {request}: its proxy could not reach pvedaemon or the node in time, so the node is down or overloaded (systemctl status pvedaemon)"
    )]
    Overloaded {
        /// The HTTP status.
        status: u16,
        /// Method and path.
        request: String,
    },
    /// Any other status.
    #[error("the Proxmox API answered HTTP {status} to {request}: {message}{}", look_for(*status))]
    Status {
        /// The HTTP status.
        status: u16,
        /// Method and path.
        request: String,
        /// PVE's message.
        message: String,
    },
    /// The answer is not a JSON envelope.
    #[error("the Proxmox API sent an unexpected answer to {0}")]
    NotUnderstood(String),
}

/// Advice for a status that is the server's own fault.
fn look_for(status: u16) -> &'static str {
    if status == 500 { "; see journalctl -u pvedaemon" } else { "" }
}

/// A client of the node's API.
pub struct ProxmoxApi {
    doors: Doors,
    agent: ureq::Agent,
    endpoint: String,
    token: ApiToken,
}

impl ProxmoxApi {
    /// A client for `endpoint` (`https://host:8006`). `extra_certificates` names a PEM file with the node's own CA, if
    /// there is one; only a connection to loopback goes unchecked.
    pub fn new(
        doors: Doors,
        endpoint: &str,
        token: ApiToken,
        extra_certificates: Option<PathBuf>,
    ) -> anyhow::Result<ProxmoxApi> {
        let endpoint = endpoint.trim_end_matches('/');
        let host = host_of(endpoint).ok_or_else(|| {
            anyhow::anyhow!("the API endpoint {endpoint:?} must look like https://127.0.0.1:8006")
        })?;
        let tls = if is_loopback(host) {
            TlsConfig::builder().disable_verification(true)
        } else {
            TlsConfig::builder().root_certs(RootCerts::new_with_certs(&certificates(extra_certificates)))
        };
        let config = ureq::Agent::config_builder()
            .tls_config(tls.build())
            .http_status_as_error(false)
            .https_only(true)
            .max_redirects(0)
            .proxy(None)
            .build();
        Ok(ProxmoxApi { doors, agent: config.new_agent(), endpoint: endpoint.to_string(), token })
    }

    /// Sends GET `path` (below `/api2/json`, including the query) and returns the value of `data`. Repeated until the
    /// deadline while the node is overloaded (H22), since a GET changes nothing.
    pub fn get(&self, path: &str, deadline: Deadline) -> Result<Value, ApiError> {
        let mut pause = Duration::from_millis(200);
        let mut overloaded = None;
        loop {
            match (self.request("GET", path, &[], deadline), overloaded.take()) {
                (Err(error @ ApiError::Overloaded { .. }), _) if deadline.left() > pause => {
                    overloaded = Some(error);
                    self.doors.sleep(pause);
                    pause = (pause * 2).min(Duration::from_secs(3));
                }
                // Our own limit cut the last request short; the node's previous answer counts.
                (Err(ApiError::Unreachable { .. }), Some(before)) if deadline.passed() => return Err(before),
                (other, _) => return other,
            }
        }
    }

    /// Sends POST `path` with form fields and returns the value of `data`.
    pub fn post(&self, path: &str, fields: &[(&str, &str)], deadline: Deadline) -> Result<Value, ApiError> {
        self.request("POST", path, fields, deadline)
    }

    /// Sends PUT `path` with form fields and returns the value of `data`.
    pub fn put(&self, path: &str, fields: &[(&str, &str)], deadline: Deadline) -> Result<Value, ApiError> {
        self.request("PUT", path, fields, deadline)
    }

    /// Sends one request; only POST and PUT have fields.
    fn request(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        deadline: Deadline,
    ) -> Result<Value, ApiError> {
        let request = format!("{method} {path}");
        if let Some(machine) = self.doors.machine() {
            return match machine.api(method, path, fields) {
                Ok((status, envelope)) => self.judge(&request, status, &envelope),
                Err(why) => Err(ApiError::Unreachable { endpoint: self.endpoint.clone(), why }),
            };
        }
        let url = format!("{}/api2/json{path}", self.endpoint);
        let limit = Some(limit(deadline));
        let answer = match method {
            "GET" => {
                let call = self.agent.get(url).header("Authorization", self.authorization());
                call.config().timeout_global(limit).build().call()
            }
            _ => {
                let call = if method == "POST" { self.agent.post(url) } else { self.agent.put(url) };
                let call = call.header("Authorization", self.authorization());
                call.config().timeout_global(limit).build().send_form(fields.iter().copied())
            }
        };
        self.read(&request, answer)
    }

    fn authorization(&self) -> String {
        format!("PVEAPIToken={}", self.token.reveal())
    }

    fn read(
        &self,
        request: &str,
        answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<Value, ApiError> {
        let mut answer = answer.map_err(|error| ApiError::Unreachable {
            endpoint: self.endpoint.clone(),
            why: why_unreachable(&error).replace(self.token.secret_part(), "[secret]"),
        })?;
        let status = answer.status().as_u16();
        let body = answer.body_mut().read_to_string().unwrap_or_default();
        self.judge(request, status, &serde_json::from_str(&body).unwrap_or_default())
    }

    fn judge(&self, request: &str, status: u16, envelope: &Value) -> Result<Value, ApiError> {
        tracing::debug!("Proxmox API: {request}: HTTP {status}");
        let token_id = self.token.id().to_string();
        // A proxy in between may repeat what we sent (H30).
        let words = || message_of(envelope).replace(self.token.secret_part(), "[secret]");
        match status {
            200 => match envelope.get("data") {
                Some(data) => Ok(data.clone()),
                None => Err(ApiError::NotUnderstood(request.to_string())),
            },
            401 => Err(ApiError::BadToken { token_id }),
            403 => Err(ApiError::Forbidden { token_id, message: words() }),
            595 | 596 | 599 => Err(ApiError::Overloaded { status, request: request.to_string() }),
            _ => Err(ApiError::Status { status, request: request.to_string(), message: words() }),
        }
    }
}

/// Why there was no answer, with the next step if known.
fn why_unreachable(error: &ureq::Error) -> String {
    let hint = "is pveproxy running? (systemctl status pveproxy; the address is in provider.tf.json)";
    match error {
        ureq::Error::Timeout(_) => format!("no answer in time; {hint}"),
        ureq::Error::Io(io) if io.kind() == std::io::ErrorKind::ConnectionRefused => {
            format!("connection refused; {hint}")
        }
        other => other.to_string(),
    }
}

/// PVE's own text: `message` (servers since January 2025) and the parameter errors, on one line.
fn message_of(envelope: &Value) -> String {
    let mut words: Vec<String> = Vec::new();
    if let Some(message) = envelope.get("message").and_then(Value::as_str) {
        words.push(message.trim().replace('\n', " "));
    }
    if let Some(errors) = envelope.get("errors").and_then(Value::as_object) {
        words.extend(
            errors.iter().map(|(key, why)| format!("{key}: {}", why.as_str().unwrap_or_default().trim())),
        );
    }
    if words.is_empty() { "no reason was given".to_string() } else { words.join(" - ") }
}

fn limit(deadline: Deadline) -> Duration {
    deadline.left().max(Duration::from_millis(1))
}

/// Refuses a configuration that would send the token to an unchecked certificate on anything but loopback (hazard H31).
/// Checked here, before any command queries the API or starts terraform, which reads this file itself. A string may be
/// a terraform expression, so any but "false" counts as true.
pub fn refuse_unchecked(path: &Path, provider: &Value) -> anyhow::Result<()> {
    let checked = match provider.get("insecure") {
        None | Some(Value::Null | Value::Bool(false)) => true,
        Some(Value::String(text)) => text == "false",
        Some(_) => false,
    };
    let endpoint = provider.get("endpoint").and_then(|value| value.as_str());
    let local = endpoint.is_none_or(|text| host_of(text).is_some_and(is_loopback));
    if let Some(plain) = endpoint.filter(|text| text.starts_with("http://")) {
        anyhow::bail!("{}: the API endpoint {plain:?} must look like https://127.0.0.1:8006", path.display());
    }
    anyhow::ensure!(
        checked || local,
        "{}: provider.proxmox.insecure: the API token would go over an unchecked certificate to {}, which is not this \
         machine; set insecure to false and add the node's CA (/etc/pve/pve-root-ca.pem) to this machine's \
         (/usr/local/share/ca-certificates, update-ca-certificates)",
        path.display(),
        endpoint.unwrap_or_default()
    );
    Ok(())
}

/// The system's authorities and the node's own CA, if the operator installed one.
pub(super) fn certificates(extra: Option<PathBuf>) -> Vec<Certificate<'static>> {
    let files = [Some(PathBuf::from("/etc/ssl/certs/ca-certificates.crt")), extra];
    let texts = files.into_iter().flatten().filter_map(|path| crate::host::read_file::bytes(path).ok());
    texts
        .flat_map(|pem| {
            parse_pem(&pem)
                .filter_map(|item| match item {
                    Ok(PemItem::Certificate(certificate)) => Some(certificate),
                    _ => None,
                })
                .collect::<Vec<_>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_the_parameter() {
        let envelope = serde_json::json!({"data": null, "message": "Parameter verification failed.\n", "errors": {"vmid": "VM 100 already exists"}});
        assert_eq!(message_of(&envelope), "Parameter verification failed. - vmid: VM 100 already exists");
    }
}
