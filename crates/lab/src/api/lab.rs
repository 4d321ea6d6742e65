//! The lab's own paths, outside the API: faults for the provider, and snippets in place of its ssh upload.

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::{Reply, reply};
use crate::node::{Shared, files};

/// Answers a request below `/lab/`. Needs no token: whoever reaches it is on this machine.
pub(crate) async fn answer(node: &Shared, request: Request<Incoming>) -> Reply {
    let path = request.uri().path().to_owned();
    let body = match request.into_body().collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => Bytes::new(),
    };
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    match path.as_str() {
        "/lab/fault" => {
            let point = body["point"].as_str().unwrap_or_default();
            reply(StatusCode::OK, None, &fault(node, point))
        }
        "/lab/snippet" => match store(node, &body) {
            Ok(()) => reply(StatusCode::OK, None, &json!({"data": null})),
            Err(why) => reply(StatusCode::BAD_REQUEST, None, &json!({"data": null, "message": why})),
        },
        _ => {
            let mut response = Response::new(Full::default());
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    }
}

/// What happens at a point of somebody else: `{"action": null}` or the fault. Who asks obeys.
pub(crate) fn fault(node: &Shared, point: &str) -> Value {
    match node.faults.take(point) {
        Some(action) => serde_json::to_value(action).unwrap_or_else(|_| json!({"action": null})),
        None => json!({"action": null}),
    }
}

/// Stores a snippet: `{"volid": "local:snippets/x.yaml", "text": …}`.
fn store(node: &Shared, body: &Value) -> Result<(), String> {
    let (volid, text) = (body["volid"].as_str().unwrap_or_default(), body["text"].as_str());
    let name = volid
        .strip_prefix("local:snippets/")
        .filter(|name| !name.is_empty() && !name.contains('/') && !name.starts_with('.'))
        .ok_or_else(|| format!("not a snippet's volume id: '{volid}'"))?;
    let text = text.ok_or("text is missing")?;
    let folder = node.state().files.snippets();
    if !folder.is_dir() {
        return Err(format!("{}: No such file or directory", folder.display()));
    }
    files::replace(&folder.join(name), text.as_bytes());
    Ok(())
}
