//! Errors of the API in the real provider's classes and wording.

use super::connection::RawAnswer;
use crate::version::{LATER, Version};
use serde_json::Value as Json;

/// Why a call brought nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ApiError {
    /// The API answered with an error.
    #[error("{text}")]
    Answer {
        /// The HTTP status.
        code: u16,
        /// The provider's sentence about it, with reason phrase, parameter errors and message.
        text: String,
    },
    /// There was no answer: connection refused or broken, TLS refused.
    #[error("{0}")]
    Unreachable(String),
    /// The operation's time was over.
    #[error("context deadline exceeded")]
    Deadline,
    /// An answer that is no JSON.
    #[error("failed to decode HTTP response - Reason: {0}")]
    Malformed(String),
    /// `null` where an object, a list or a UPID belongs.
    #[error("the server did not include a data object in the response")]
    NoData,
    /// Something else that ended the step, said whole.
    #[error("{0}")]
    Other(String),
}

impl ApiError {
    /// The HTTP status, when there was an answer.
    pub fn code(&self) -> Option<u16> {
        if let Self::Answer { code, .. } = self { Some(*code) } else { None }
    }

    /// Whether the node's side failed (5xx).
    pub fn is_server_side(&self) -> bool {
        self.code().is_some_and(|code| code >= 500)
    }

    /// The class "resource does not exist": 404, or 500 with one of three wordings, of which 0.93.0 does not know the
    /// last. That Proxmox also says `unable to find configuration file for VM N` is known to neither.
    pub fn is_missing(&self, version: Version) -> bool {
        match self {
            Self::Answer { code: 404, .. } => true,
            Self::Answer { code: 500, text } => {
                ["does not exist", "no such resource"].iter().any(|w| text.contains(w))
                    || version >= LATER && text.contains("No such file or directory")
            }
            _ => false,
        }
    }

    /// The class "already exists".
    pub fn is_taken(&self) -> bool {
        matches!(self, Self::Answer { text, .. } if text.contains("already exists"))
    }

    /// Whether the text holds these words.
    pub fn says(&self, words: &str) -> bool {
        self.to_string().contains(words)
    }
}

/// The error of an answer that is no success: status code, reason phrase, the errors of single parameters, and the
/// message of the body where it has lines that the reason phrase has not.
pub fn of_answer(answer: &RawAnswer) -> ApiError {
    let body: Json = serde_json::from_slice(&answer.body).unwrap_or_default();
    let mut details = Vec::new();
    if let Some(Json::Object(errors)) = body.get("errors") {
        for (key, why) in errors {
            let why = why.as_str().map_or_else(|| why.to_string(), |why| why.trim_end().to_string());
            details.push(format!("{key}: {why}"));
        }
    }
    let has_more = |message: &&str| {
        message.lines().map(str::trim).any(|line| !line.is_empty() && line != answer.reason.trim())
    };
    if let Some(message) = body.get("message").and_then(Json::as_str).filter(has_more) {
        details.push(message.trim_end().to_string());
    }
    let mut text = format!("received an HTTP {} response - Reason: {}", answer.status, answer.reason);
    if !details.is_empty() {
        text += &format!(" ({})", details.join(" - "));
    }
    ApiError::Answer { code: answer.status, text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(status: u16, reason: &str, body: &str) -> ApiError {
        of_answer(&RawAnswer { status, reason: reason.into(), body: body.as_bytes().to_vec() })
    }

    const OLD: Version = Version(0, 93, 0);

    #[test]
    fn classes() {
        let gone = "Configuration file 'nodes/pve/qemu-server/101.conf' does not exist";
        for version in [OLD, LATER] {
            let missing = |status, reason: &str, body: &str| error(status, reason, body).is_missing(version);
            assert!(missing(500, gone, ""));
            assert!(missing(500, "", &format!(r#"{{"data":null,"message":"{gone}\n"}}"#)));
            assert!(missing(404, "Not Found", ""));
            assert!(!missing(500, "unable to find configuration file for VM 101 on node 'pve'", ""));
            assert!(!missing(403, gone, ""));
            assert_eq!(missing(500, "open: No such file or directory", ""), version == LATER);
        }
        assert!(error(500, "unable to create VM 101: config file already exists", "").is_taken());
    }

    #[test]
    fn wording() {
        let refused = error(
            400,
            "Parameter verification failed.",
            r#"{"data":null,"errors":{"vmid":"VM 101 already exists"}}"#,
        );
        assert_eq!(
            refused.to_string(),
            "received an HTTP 400 response - Reason: Parameter verification failed. (vmid: VM 101 already exists)"
        );
        assert_eq!(
            error(401, "no such token", "").to_string(),
            "received an HTTP 401 response - Reason: no such token"
        );
        assert_eq!(
            error(500, "storage is full", r#"{"data":null,"message":"storage is full\n"}"#).to_string(),
            "received an HTTP 500 response - Reason: storage is full"
        );
        assert_eq!(
            error(500, "clone failed", r#"{"data":null,"message":"clone failed\nno space\n"}"#).to_string(),
            "received an HTTP 500 response - Reason: clone failed (clone failed\nno space)"
        );
    }
}
