//! The Proxmox VE API as the real provider uses it: what it sends, how it reads answers and errors, what
//! it tries again and how often.
//!
//! `connection.rs` has TLS and HTTP, `error.rs` the classes of error, `task.rs` the waiting for tasks.

mod connection;
mod error;
mod task;

pub use connection::TlsSettings;
pub use error::ApiError;
pub use task::{Ended, Tolerance};

use crate::version::Version;
use connection::{Connection, RawAnswer};
use http::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value as Json;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::Instant;

/// What stays as it is in a path's segment (Go's `url.PathEscape`).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'=')
    .remove(b':')
    .remove(b'@');

/// Escapes one segment of a path: a UPID, a volume's name.
pub fn segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

/// The parameters of a call, sent in the order of their names, as Go's `url.Values` are.
pub type Form = BTreeMap<String, String>;

/// A form from pairs.
pub fn form<const N: usize>(pairs: [(&str, String); N]) -> Form {
    pairs.into_iter().map(|(key, value)| (key.to_string(), value)).collect()
}

/// How long things take where the real provider has fixed times.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Between two looks at a task or a status; one second in the real provider. Longer pauses (before a
    /// clone is tried again, for instance) are multiples of it. Deadlines given in the configuration are
    /// not touched.
    pub poll: Duration,
}

impl Pace {
    /// One second, or `LAB_POLL_MS` milliseconds when that is set.
    pub fn from_environment() -> Self {
        let set = std::env::var("LAB_POLL_MS").ok().and_then(|text| text.parse().ok());
        Self { poll: Duration::from_millis(set.unwrap_or(1000)) }
    }
}

/// The API at one endpoint with one token.
pub struct Client {
    connection: Connection,
    authorization: String,
}

impl Client {
    /// A client for an endpoint such as `https://127.0.0.1:8006` (a path in it is ignored, as by the real
    /// provider). Nothing is connected yet: a wrong endpoint shows at the first call.
    pub fn new(endpoint: &str, token: &str, tls: TlsSettings) -> Result<Self, String> {
        let connection = Connection::new(endpoint, tls)?;
        Ok(Self { connection, authorization: format!("PVEAPIToken={token}") })
    }
}

/// The client within one operation: its version's habits and its deadline.
#[derive(Clone)]
pub struct Api {
    /// The connection and the token.
    pub client: Arc<Client>,
    /// Whose habits are followed.
    pub version: Version,
    /// How fast is polled.
    pub pace: Pace,
    /// When the operation is over whatever happens.
    pub deadline: Instant,
}

impl Api {
    /// The same with another deadline, `limit` from now on but not later than the present one.
    pub fn within(&self, limit: Duration) -> Self {
        Self { deadline: self.deadline.min(Instant::now() + limit), ..self.clone() }
    }

    /// Sleeps `polls` polls, or fails when the deadline comes first.
    pub async fn pause(&self, polls: f64) -> Result<(), ApiError> {
        let until = Instant::now() + self.pace.poll.mul_f64(polls);
        tokio::time::sleep_until(until.min(self.deadline)).await;
        if until > self.deadline { Err(ApiError::Deadline) } else { Ok(()) }
    }

    /// `GET`; three tries when the connection fails.
    pub async fn get(&self, path: &str) -> Result<Json, ApiError> {
        let mut failed = 0;
        loop {
            match self.once(Method::GET, path, None).await {
                Err(ApiError::Unreachable(_)) if failed < 2 => failed += 1,
                other => return other,
            }
            self.pause(f64::from(failed) * 0.1).await?;
        }
    }

    /// `POST`, once.
    pub async fn post(&self, path: &str, form: &Form) -> Result<Json, ApiError> {
        self.once(Method::POST, path, Some(form)).await
    }

    /// `POST` without parameters, once: no body, and no type for one.
    pub async fn post_nothing(&self, path: &str) -> Result<Json, ApiError> {
        self.once(Method::POST, path, None).await
    }

    /// `PUT`, once.
    pub async fn put(&self, path: &str, form: &Form) -> Result<Json, ApiError> {
        self.once(Method::PUT, path, Some(form)).await
    }

    /// `DELETE`, once.
    pub async fn delete(&self, path: &str) -> Result<Json, ApiError> {
        self.once(Method::DELETE, path, None).await
    }

    /// Does `act` until it succeeds, `worth` says no, or `tries` are used up; the pauses in polls double
    /// from `first` on. The error is the last one.
    pub async fn again<T, F: Future<Output = Result<T, ApiError>>>(
        &self,
        tries: u32,
        first: f64,
        worth: impl Fn(&ApiError) -> bool,
        act: impl Fn() -> F,
    ) -> Result<T, ApiError> {
        let mut failed = 0;
        loop {
            match act().await {
                Err(error) if failed + 1 < tries && worth(&error) => {
                    self.pause(first * f64::from(1u32 << failed)).await?;
                    failed += 1;
                }
                other => return other,
            }
        }
    }

    /// The same where the real provider tells of every try: `All attempts fail:`, then a numbered line for each, which
    /// begins with `what` was attempted. `act` is told which try it is, from 1 on. The deadline ends it with its own words.
    pub async fn again_telling<T, F: Future<Output = Result<T, ApiError>>>(
        &self,
        tries: u32,
        pause: impl Fn(u32) -> f64,
        what: &str,
        worth: impl Fn(&ApiError) -> bool,
        act: impl Fn(u32) -> F,
    ) -> Result<T, ApiError> {
        let (mut attempt, mut told) = (1, String::from("All attempts fail:"));
        loop {
            let error = match act(attempt).await {
                Err(ApiError::Deadline) => return Err(ApiError::Deadline),
                Err(error) => error,
                done => return done,
            };
            told += &format!("\n#{attempt}: {what}{error}");
            if attempt >= tries || !worth(&error) {
                return Err(ApiError::Other(told));
            }
            self.pause(pause(attempt)).await?;
            attempt += 1;
        }
    }

    /// `POST` of JSON outside `/api2`, to the lab's own part of its API (no token).
    pub async fn lab(&self, path: &str, body: &Json) -> Result<Json, ApiError> {
        let answer =
            self.exchange(Method::POST, path, Some("application/json"), body.to_string(), false).await?;
        if answer.status != 200 {
            return Err(error::of_answer(&answer));
        }
        serde_json::from_slice(&answer.body).map_err(|error| ApiError::Malformed(error.to_string()))
    }

    async fn once(&self, method: Method, path: &str, form: Option<&Form>) -> Result<Json, ApiError> {
        let body =
            form.map(|form| form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish());
        let kind = form.map(|_| "application/x-www-form-urlencoded");
        let answer =
            self.exchange(method, &format!("/api2/json{path}"), kind, body.unwrap_or_default(), true).await?;
        if !(200..300).contains(&answer.status) {
            return Err(error::of_answer(&answer));
        }
        let json: Json =
            serde_json::from_slice(&answer.body).map_err(|error| ApiError::Malformed(error.to_string()))?;
        Ok(json.get("data").cloned().unwrap_or_default())
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        kind: Option<&str>,
        body: String,
        token: bool,
    ) -> Result<RawAnswer, ApiError> {
        let authorization = token.then_some(self.client.authorization.as_str());
        let connection = &self.client.connection;
        let exchange = connection.exchange(method.clone(), path, authorization, kind, body);
        let answer =
            tokio::time::timeout_at(self.deadline, exchange).await.map_err(|_| ApiError::Deadline)?;
        answer.map_err(|error| match error {
            ApiError::Unreachable(why) => {
                let below = path.strip_prefix("/api2/json/").unwrap_or(path);
                // Go writes the method as a word here.
                let (first, rest) = method.as_str().split_at(1);
                let call = format!("{first}{} \"{}\"", rest.to_lowercase(), connection.address_of(path));
                ApiError::Unreachable(format!(
                    "failed to perform HTTP {method} request (path: {below}) - Reason: {call}: {why}"
                ))
            }
            other => other,
        })
    }
}

/// Pauses that double: `first` polls after the first failure.
pub fn doubling(first: f64) -> impl Fn(u32) -> f64 {
    move |failed| first * f64::from(1u32 << failed.saturating_sub(1).min(16))
}

/// The text of a field; empty when it is none.
pub fn text<'a>(json: &'a Json, key: &str) -> &'a str {
    json.get(key).and_then(Json::as_str).unwrap_or_default()
}

/// A whole number that may come as a number or as text.
pub fn int(json: &Json, key: &str) -> Option<i64> {
    match json.get(key)? {
        Json::Number(number) => number.as_f64().map(|number| number as i64),
        Json::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// A truth value: 1, `true`; the text "1" is false to the real provider.
pub fn truth(json: &Json, key: &str) -> Option<bool> {
    match json.get(key)? {
        Json::Bool(truth) => Some(*truth),
        Json::Number(number) => Some(number.as_i64() == Some(1)),
        _ => Some(false),
    }
}

/// The elements of a list; the real provider takes null for an error here.
pub fn list(json: Json) -> Result<Vec<Json>, ApiError> {
    if let Json::Array(items) = json { Ok(items) } else { Err(ApiError::NoData) }
}

/// The text an answer consists of, a UPID mostly; null is an error.
pub fn string(json: Json) -> Result<String, ApiError> {
    if let Json::String(text) = json { Ok(text) } else { Err(ApiError::NoData) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_escaped_as_go_does() {
        assert_eq!(segment("UPID:pve:1:qmclone:9001:root@pam!t:"), "UPID:pve:1:qmclone:9001:root@pam%21t:");
        assert_eq!(segment("local:snippets/a b.yaml"), "local:snippets%2Fa%20b.yaml");
        assert_eq!(segment("local-lvm:vm-101-disk-0"), "local-lvm:vm-101-disk-0");
    }

    #[test]
    fn json_as_the_real_provider_reads_it() {
        let json = serde_json::json!({"a": 1, "b": "1", "c": true, "n": "2048", "m": 2048});
        assert_eq!(
            ["a", "b", "c", "x"].map(|key| truth(&json, key)),
            [Some(true), Some(false), Some(true), None]
        );
        assert_eq!(["n", "m", "x"].map(|key| int(&json, key)), [Some(2048), Some(2048), None]);
        assert!(list(Json::Null).is_err() && string(Json::Null).is_err());
    }
}
