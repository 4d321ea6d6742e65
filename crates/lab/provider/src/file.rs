//! The resource `proxmox_virtual_environment_file`, for snippets: what VMs of the older package have beside
//! them.
//!
//! The real provider writes the file over ssh as root. The stand-in has no ssh; it sends the text to
//! `POST <endpoint>/lab/snippet` with `{"volid": "local:snippets/x.yaml", "text": …}` instead, and says so
//! when the API has no such path. All the rest, the calls before and after it, refresh and delete, is the
//! real one's conversation.

use crate::{
    api::{Api, ApiError, list, segment, text},
    diagnostic::Diagnostic,
    value::Value,
    version::Version,
};
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::json;
use std::{collections::BTreeMap, fs, path::Path};

/// Uploads the planned file. The answer is the new state (null when there is none to remember).
pub async fn create(api: &Api, planned: &Value) -> (Value, Vec<Diagnostic>) {
    let mut state = planned.clone();
    match upload(api, &mut state).await {
        Ok(()) => {
            state.settle();
            (state, Vec::new())
        }
        Err(error) => (Value::Null, vec![error]),
    }
}

/// Refreshes a state; null when the file is gone from the storage. A local source that has vanished marks
/// the file as changed, which plans its replacement; one that was edited is not noticed.
pub async fn read(api: &Api, state: &Value) -> (Value, Vec<Diagnostic>) {
    let refresh = async {
        api.point("read.file.before").await?;
        let found = find(api, state, 10, 0.1).await?;
        api.point("read.file.after").await?;
        Ok::<_, ApiError>(found)
    };
    match refresh.await {
        Ok(false) => (Value::Null, Vec::new()),
        Ok(true) => {
            let mut state = state.clone();
            if let Some(source) = state.list_mut("source_file").and_then(|blocks| blocks.first_mut()) {
                let gone = source.text("path").is_some_and(|path| !is_url(path) && !Path::new(path).exists());
                source.set("changed", gone);
            }
            (state, Vec::new())
        }
        Err(error) => (state.clone(), vec![error.into()]),
    }
}

/// What changes in place (`overwrite`, `timeout_upload`, `upload_mode`) is the next upload's business.
pub fn update(planned: &Value) -> Value {
    let mut state = planned.clone();
    state.settle();
    state
}

/// Deletes the file; that it is gone already is fine.
pub async fn delete(api: &Api, state: &Value) -> (Value, Vec<Diagnostic>) {
    let path = format!("{}/{}", content_path(state), segment(state.text("id").unwrap_or_default()));
    let remove = async {
        api.point("delete.file.before").await?;
        let worth = |error: &ApiError| error.code() != Some(403) && !error.is_missing(api.version);
        match api.again(10, 0.1, worth, || api.delete(&path)).await {
            Err(error) if !error.is_missing(api.version) => return Err(error),
            _ => {}
        }
        api.point("delete.file.after").await
    };
    match remove.await {
        Ok(()) => (Value::Null, Vec::new()),
        Err(error) => (state.clone(), vec![error.into()]),
    }
}

/// The state an import of `node/datastore:type/name` starts from.
pub fn import(id: &str) -> Result<Value, Diagnostic> {
    let parts = id.split_once('/').and_then(|(node, volume)| {
        let (storage, rest) = volume.split_once(':')?;
        let (kind, name) = rest.split_once('/')?;
        Some([
            ("node_name", node),
            ("id", volume),
            ("datastore_id", storage),
            ("content_type", kind),
            ("file_name", name),
        ])
    });
    let parts = parts.ok_or_else(|| {
        Diagnostic::error(format!(
            "unexpected format of ID ({id}), expected node/datastore_id:content_type/file_name"
        ))
    })?;
    let entries: BTreeMap<_, _> =
        parts.into_iter().map(|(key, text)| (key.to_string(), text.into())).collect();
    Ok(Value::Object(entries))
}

fn content_path(state: &Value) -> String {
    let of = |key: &str| segment(state.text(key).unwrap_or_default());
    format!("/nodes/{}/storage/{}/content", of("node_name"), of("datastore_id"))
}

fn is_url(path: &str) -> bool {
    path.starts_with("http://") || path.starts_with("https://")
}

/// Name, text, and what the state tells about the source.
struct Source {
    name: String,
    text: String,
    modified: Option<DateTime<Utc>>,
}

fn source(state: &Value) -> Result<Source, Diagnostic> {
    match (state.block("source_file"), state.block("source_raw")) {
        (Some(_), Some(_)) => {
            Err(Diagnostic::error("please specify \"source_file.path\" or \"source_raw\" - not both"))
        }
        (None, None) => Err(Diagnostic::error("missing argument \"source_file.path\" or \"source_raw\"")),
        (None, Some(raw)) => Ok(Source {
            name: raw.text("file_name").unwrap_or_default().into(),
            text: raw.text("data").unwrap_or_default().into(),
            modified: None,
        }),
        (Some(file), None) => {
            let path = file.text("path").unwrap_or_default();
            if is_url(path) {
                return Err(Diagnostic::error("the stand-in provider uploads local files only"));
            }
            let failed = |error| Diagnostic::error(format!("failed to open {path:?}: {error}"));
            let text = fs::read_to_string(path).map_err(failed)?;
            let modified = fs::metadata(path).and_then(|meta| meta.modified()).map_err(failed)?;
            let own = Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned());
            let name = file.text("file_name").map(str::to_string).or(own).unwrap_or_default();
            Ok(Source { name, text, modified: Some(modified.into()) })
        }
    }
}

/// The content type of a file name's extension.
fn guess(name: &str) -> Option<&'static str> {
    let has = |extensions: &[&str]| extensions.iter().any(|extension| name.ends_with(extension));
    if has(&[".iso", ".img"]) {
        Some("iso")
    } else if has(&[".yaml", ".yml"]) {
        Some("snippets")
    } else if has(&[".tar.gz", ".tar.xz", ".tar.zst"]) {
        Some("vztmpl")
    } else {
        None
    }
}

async fn upload(api: &Api, state: &mut Value) -> Result<(), Diagnostic> {
    let source = source(state)?;
    let kind = state.text("content_type").map(str::to_string).or(guess(&source.name).map(str::to_string));
    if kind.as_deref() != Some("snippets") {
        let kind = kind.unwrap_or_else(|| "an unknown content type".into());
        return Err(Diagnostic::error(format!("the stand-in provider uploads snippets only, not {kind}")));
    }
    let storage = state.text("datastore_id").unwrap_or_default().to_string();
    let volume = format!("{storage}:snippets/{}", source.name);
    state.set("id", volume.as_str());
    state.set("content_type", "snippets");
    state.set("file_name", source.name.as_str());
    state.set("file_size", i64::try_from(source.text.len()).unwrap_or(i64::MAX));
    let date = source.modified.map(|at| at.to_rfc3339_opts(SecondsFormat::Secs, true));
    let tag = source.modified.map(|at| format!("{:x}-{:x}", at.timestamp(), source.text.len()));
    state.set("file_modification_date", date.unwrap_or_default());
    state.set("file_tag", tag.unwrap_or_default());

    api.point("create.file.before").await?;
    // Only its version is wanted, and it is not missed.
    let _ = api.get("/version").await;
    let there = find(api, state, 10, 0.1).await?;
    if there && state.bool("overwrite") == Some(false) {
        return Err(Diagnostic::error(format!("file {volume:?} already exists")));
    }
    let datastore = api.get(&format!("/storage/{}", segment(&storage))).await;
    let datastore = datastore
        .map_err(|error| Diagnostic::error(format!("failed to determine the datastore path: {error}")))?;
    if text(&datastore, "path").is_empty() {
        return Err(Diagnostic::error(format!("failed to determine the datastore path of {storage:?}")));
    }
    match api.lab("/lab/snippet", &json!({"volid": volume, "text": source.text})).await {
        Ok(_) => {}
        Err(error) if matches!(error.code(), Some(404 | 501)) => {
            return Err(Diagnostic::error(format!(
                "the API has no /lab/snippet, which the stand-in provider needs where the real one uploads over ssh: {error}"
            )));
        }
        Err(error) => return Err(Diagnostic::error(format!("error transferring file: {error}"))),
    }
    let _ = api.get("/version").await;
    let tries = if api.version >= Version(0, 95, 1) { 5 } else { 1 };
    if !appeared(api, state, tries).await? {
        return Err(Diagnostic::error(format!("failed to read file from {volume:?}")));
    }
    api.point("create.file.after").await?;
    Ok(())
}

/// Looks `tries` times, over about three seconds.
async fn appeared(api: &Api, state: &Value, tries: u32) -> Result<bool, ApiError> {
    for attempt in 0..tries {
        if find(api, state, 10, 0.1).await? {
            return Ok(true);
        }
        if attempt + 1 < tries {
            api.pause(0.2 * f64::from(1u32 << attempt)).await?;
        }
    }
    Ok(false)
}

/// Whether the storage lists the file. Tried again on every error but 403, which takes about 51 seconds
/// for a wrong token or an endpoint that refuses.
async fn find(api: &Api, state: &Value, tries: u32, first: f64) -> Result<bool, ApiError> {
    let kind = state.text("content_type").unwrap_or("snippets");
    let path = format!("{}?content={kind}", content_path(state));
    let worth = |error: &ApiError| error.code() != Some(403);
    let volumes = api.again(tries, first, worth, || async { list(api.get(&path).await?) }).await?;
    Ok(volumes.iter().any(|volume| Some(text(volume, "volid")) == state.text("id")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_are_taken_apart() {
        let state = import("pve/local:snippets/a.yaml").unwrap();
        assert_eq!((state.text("id"), state.text("node_name")), (Some("local:snippets/a.yaml"), Some("pve")));
        assert_eq!(state.text("file_name"), Some("a.yaml"));
        assert!(import("local:snippets").is_err());
    }

    #[test]
    fn content_types_are_guessed() {
        assert_eq!(
            ["a.yml", "b.iso", "c.tar.zst", "d"].map(guess),
            [Some("snippets"), Some("iso"), Some("vztmpl"), None]
        );
    }
}
