//! A Proxmox VE API for these tests: HTTPS on loopback, one node, just what the provider asks for. It
//! records every request, and tasks run for a set number of looks instead of a time, so that the same
//! plan always leads to the same conversation. (The lab's node is the true one; it is not needed here.)

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, ext::ReasonPhrase, service::service_fn};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring::default_provider, pki_types::PrivateKeyDer},
};

/// The token the configurations use.
pub const TOKEN: &str = "blockhost@pve!tf=00000000-0000-0000-0000-000000000000";

pub type Form = BTreeMap<String, String>;

/// A request as it came. `path` is without `/api2/json`, UPIDs in it are replaced by the word.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub form: Form,
    pub content_type: Option<String>,
    pub authorization: Option<String>,
}

impl Seen {
    /// `METHOD path  key=value  key=value`
    pub fn line(&self) -> String {
        let form: String = self.form.iter().map(|(key, value)| format!("  {key}={value}")).collect();
        format!("{} {}{form}", self.method, self.path)
    }
}

/// An answer instead of the usual one, `times` times.
pub struct Rule {
    pub method: &'static str,
    /// What the path has to end with.
    pub path: &'static str,
    /// The status; 0: none, the connection is cut.
    pub code: u16,
    pub reason: String,
    pub times: usize,
}

#[derive(Clone, Default)]
pub struct Guest {
    pub status: &'static str,
    pub lock: Option<&'static str>,
    pub pool: Option<String>,
    pub config: Map<String, Value>,
}

struct Task {
    looks: usize,
    exit: String,
    done: Option<Done>,
}

#[derive(Clone)]
enum Done {
    Unlock(i64),
    Status(i64, &'static str),
    Remove(i64),
    Resize(i64, String, u64),
}

/// The node.
#[derive(Default)]
pub struct Node {
    pub guests: BTreeMap<i64, Guest>,
    pub snippets: BTreeMap<String, String>,
    pub requests: Vec<Seen>,
    pub rules: Vec<Rule>,
    /// Exit statuses of tasks by type (`qmstop`), where they are not `OK`.
    pub exits: BTreeMap<&'static str, String>,
    /// How often a clone's task is found running.
    pub clone_looks: usize,
    /// How often a deleted guest still answers to a look at its status.
    pub ghost_looks: usize,
    /// What the agent answers: none yet, else an HTTP error.
    pub agent_error: Option<(u16, &'static str)>,
    /// How long the agent takes for it.
    pub agent_takes: Duration,
    /// Faults by point, each for one time; `None`: there is no `/lab` here at all.
    pub lab: Option<BTreeMap<String, Value>>,
    /// The points passed.
    pub points: Vec<String>,
    tasks: BTreeMap<String, Task>,
}

struct Refusal(u16, String, Value);
type Answer = Result<Value, Refusal>;

fn refuse(code: u16, reason: impl Into<String>) -> Refusal {
    Refusal(code, reason.into(), Value::Null)
}

impl Node {
    fn new() -> Self {
        let template = json!({"name": "tpl", "template": 1, "memory": "2048", "cores": 1, "sockets": 1, "numa": 0,
            "boot": "order=scsi0", "scsihw": "virtio-scsi-pci", "ostype": "l26", "agent": "1", "serial0": "socket",
            "scsi0": "local-lvm:base-9001-disk-0,size=2252M", "ide2": "local-lvm:vm-9001-cloudinit,media=cdrom",
            "net0": "virtio=BC:24:11:00:00:01,bridge=vmbr0", "smbios1": "uuid=7b1c1f5e-0000-4000-8000-000000000001"});
        let mut node = Node { clone_looks: 2, lab: Some(BTreeMap::new()), ..Node::default() };
        node.add(9001, "stopped", &template);
        node
    }

    pub fn add(&mut self, id: i64, status: &'static str, config: &Value) {
        let config = config.as_object().unwrap().clone();
        self.guests.insert(id, Guest { status, config, ..Guest::default() });
    }

    fn guest(&mut self, id: i64) -> Result<&mut Guest, Refusal> {
        let missing =
            || refuse(500, format!("Configuration file 'nodes/pve/qemu-server/{id}.conf' does not exist"));
        self.guests.get_mut(&id).ok_or_else(missing)
    }

    fn task(&mut self, kind: &'static str, id: i64, looks: usize, done: Option<Done>) -> Answer {
        let number = self.tasks.len() + 0x1001;
        let upid = format!("UPID:pve:{number:08X}:0001A2B3:6B03AF29:{kind}:{id}:root@pam!t:");
        let exit = self.exits.get(kind).cloned().unwrap_or_else(|| "OK".into());
        self.tasks.insert(upid.clone(), Task { looks, exit, done });
        Ok(json!(upid))
    }

    fn task_status(&mut self, upid: &str) -> Answer {
        let task = self.tasks.get_mut(upid).ok_or_else(|| refuse(400, "no such task"))?;
        if task.looks > 0 {
            task.looks -= 1;
            return Ok(json!({"status": "running", "upid": upid}));
        }
        let (exit, done) = (task.exit.clone(), task.done.take());
        let worked = exit == "OK" || exit.starts_with("WARNINGS");
        match done.filter(|_| worked) {
            Some(Done::Unlock(id)) => self.guest(id)?.lock = None,
            Some(Done::Status(id, status)) => self.guest(id)?.status = status,
            Some(Done::Remove(id)) if self.ghost_looks > 0 => self.guest(id)?.status = "ghost",
            Some(Done::Remove(id)) => {
                self.guests.remove(&id);
            }
            Some(Done::Resize(id, disk, bytes)) => {
                let old = self.guest(id)?.config[&disk].as_str().unwrap().to_string();
                let mut parts: Vec<_> = old.split(',').filter(|part| !part.starts_with("size=")).collect();
                let size = format!("size={}G", bytes >> 30);
                parts.push(&size);
                let text = parts.join(",");
                self.guest(id)?.config.insert(disk, json!(text));
            }
            None => {}
        }
        Ok(json!({"status": "stopped", "exitstatus": exit, "upid": upid}))
    }

    fn clone_guest(&mut self, source: i64, form: &Form) -> Answer {
        let id: i64 = form["newid"].parse().unwrap();
        if self.guests.contains_key(&id) {
            return Err(refuse(500, format!("unable to create VM {id}: config file already exists")));
        }
        let mut config = self.guest(source)?.config.clone();
        config.remove("template");
        let storage = form.get("storage").map_or("local-lvm", String::as_str);
        config.insert("scsi0".into(), json!(format!("{storage}:vm-{id}-disk-0,size=2252M")));
        config.insert("ide2".into(), json!(format!("{storage}:vm-{id}-cloudinit,media=cdrom")));
        config.insert("net0".into(), json!(format!("virtio=BC:24:11:00:01:{:02X},bridge=vmbr0", id & 255)));
        for key in ["name", "description"] {
            if let Some(text) = form.get(key) {
                config.insert(key.into(), json!(text));
            }
        }
        if self.exits.get("qmclone").is_none_or(|exit| exit.starts_with("WARNINGS")) {
            let pool = form.get("pool").cloned();
            self.guests.insert(id, Guest { status: "stopped", lock: Some("clone"), pool, config });
        }
        self.task("qmclone", source, self.clone_looks, Some(Done::Unlock(id)))
    }

    fn configure(&mut self, id: i64, form: &Form) -> Answer {
        let guest = self.guest(id)?;
        if let Some(lock) = guest.lock {
            return Err(refuse(500, format!("VM is locked ({lock})")));
        }
        for key in form.get("delete").map_or("", String::as_str).split(',') {
            guest.config.remove(key);
        }
        for (key, text) in form.iter().filter(|(key, _)| *key != "delete") {
            let bus = key.trim_end_matches(|c: char| c.is_ascii_digit());
            let stored = if bus == "net" {
                let pairs: Form = text
                    .split(',')
                    .filter_map(|p| p.split_once('='))
                    .map(|(k, v)| (k.into(), v.into()))
                    .collect();
                let mac = pairs.get("macaddr").cloned().unwrap_or(format!("BC:24:11:AA:00:{:02X}", id & 255));
                let rest = pairs.iter().filter(|(key, _)| !["model", "macaddr"].contains(&key.as_str()));
                let rest: String = rest.map(|(key, value)| format!(",{key}={value}")).collect();
                json!(format!("{}={mac}{rest}", pairs["model"]))
            } else if matches!(bus, "scsi" | "ide") && key != "scsihw" {
                let mut parts = text.split(',').filter(|part| !part.is_empty());
                let volume = parts.next().unwrap().trim_start_matches("file=");
                match volume.strip_suffix(":cloudinit") {
                    Some(storage) => json!(format!("{storage}:vm-{id}-cloudinit,media=cdrom")),
                    None => json!(parts.fold(volume.to_string(), |text, part| text + "," + part)),
                }
            } else if ["onboot", "cores", "sockets", "numa", "balloon", "protection"].contains(&key.as_str())
            {
                json!(text.parse::<i64>().unwrap())
            } else {
                json!(text)
            };
            guest.config.insert(key.clone(), stored);
        }
        Ok(Value::Null)
    }

    fn qemu(&mut self, method: &Method, id: i64, rest: &[&str], form: &Form) -> Answer {
        let rest = rest.join("/");
        if (method, rest.as_str()) == (&Method::POST, "clone") {
            return self.clone_guest(id, form);
        }
        self.guest(id)?;
        match (method.as_str(), rest.as_str()) {
            ("GET", "config") => Ok(Value::Object(self.guest(id)?.config.clone())),
            ("PUT", "config") => self.configure(id, form),
            ("GET", "status/current") => {
                if self.guest(id)?.status == "ghost" {
                    match self.ghost_looks.checked_sub(1) {
                        Some(left) => self.ghost_looks = left,
                        None => drop(self.guests.remove(&id)),
                    }
                }
                let guest = self.guest(id)?;
                let mut status = json!({"status": guest.status, "vmid": id});
                if let Some(lock) = guest.lock {
                    status["lock"] = json!(lock);
                }
                Ok(status)
            }
            ("POST", "status/start") => self.task("qmstart", id, 1, Some(Done::Status(id, "running"))),
            ("POST", "status/stop") => self.task("qmstop", id, 1, Some(Done::Status(id, "stopped"))),
            ("POST", "status/shutdown") => self.task("qmshutdown", id, 1, Some(Done::Status(id, "stopped"))),
            ("POST", "status/reboot") => self.task("qmreboot", id, 1, None),
            ("PUT", "resize") => {
                let done = Done::Resize(id, form["disk"].clone(), form["size"].parse().unwrap());
                self.task("resize", id, 1, Some(done))
            }
            ("POST", "move_disk") => {
                let guest = self.guest(id)?;
                let old =
                    guest.config[&form["disk"]].as_str().unwrap().split_once(':').unwrap().1.to_string();
                guest.config.insert(form["disk"].clone(), json!(format!("{}:{old}", form["storage"])));
                self.task("qmmove", id, 1, None)
            }
            ("DELETE", "") => self.task("qmdestroy", id, 1, Some(Done::Remove(id))),
            ("GET", "agent/network-get-interfaces") => match self.agent_error {
                Some((code, reason)) => Err(refuse(code, reason)),
                None => Ok(json!({"result": [
                    {"name": "lo", "hardware-address": "00:00:00:00:00:00",
                     "ip-addresses": [{"ip-address": "127.0.0.1", "ip-address-type": "ipv4"}]},
                    {"name": "eth0", "hardware-address": "bc:24:11:aa:00:01",
                     "ip-addresses": [{"ip-address": "192.0.2.10", "ip-address-type": "ipv4"}]}]})),
            },
            _ => Err(refuse(501, format!("Method '{method} {rest}' not implemented"))),
        }
    }

    fn storage(&mut self, method: &Method, rest: &[&str]) -> Answer {
        match (method.as_str(), rest) {
            ("GET", ["local", "content"]) => {
                let volume = |(volid, text): (&String, &String)| json!({"volid": volid, "content": "snippets", "size": text.len()});
                Ok(self.snippets.iter().map(volume).collect())
            }
            ("DELETE", ["local", "content", volid]) => match self.snippets.remove(*volid) {
                Some(_) => Ok(Value::Null),
                None => Err(refuse(500, format!("volume '{volid}' does not exist"))),
            },
            ("GET", [_, "content", volid]) => {
                Ok(json!({"path": format!("/dev/{volid}"), "format": "raw", "size": 1}))
            }
            _ => Err(refuse(501, "storage: not implemented")),
        }
    }

    fn route(&mut self, method: &Method, path: &str, query: &Form, form: &Form) -> Answer {
        let rule = self
            .rules
            .iter_mut()
            .find(|rule| rule.times > 0 && rule.method == method.as_str() && path.ends_with(rule.path));
        if let Some(rule) = rule {
            rule.times -= 1;
            return Err(refuse(rule.code, rule.reason.clone()));
        }
        let parts: Vec<String> = path
            .trim_matches('/')
            .split('/')
            .map(|part| percent_decode_str(part).decode_utf8().unwrap().into_owned())
            .collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        match parts.as_slice() {
            ["version"] => Ok(json!({"version": "9.0.5", "release": "9.0", "repoid": "abc"})),
            ["cluster", "nextid"] => match query.get("vmid") {
                Some(id) if self.guests.contains_key(&id.parse().unwrap()) => {
                    let errors = json!({"vmid": format!("VM {id} already exists")});
                    Err(Refusal(400, "Parameter verification failed.".into(), errors))
                }
                Some(id) => Ok(json!(id)),
                None => Ok(json!((100..).find(|id| !self.guests.contains_key(id)).unwrap().to_string())),
            },
            ["cluster", "resources"] => {
                let guest = |(id, guest): (&i64, &Guest)| json!({"vmid": id, "node": "pve", "type": "qemu", "status": guest.status});
                Ok(self.guests.iter().map(guest).collect())
            }
            ["pools"] | ["pools", _] => {
                let members = self.guests.iter().filter(|(_, guest)| guest.pool.is_some());
                let members: Value = members.map(|(id, _)| json!({"vmid": id, "type": "qemu"})).collect();
                Ok(match (parts.get(1), query.get("poolid")) {
                    (Some(_), _) => json!({"members": members}),
                    (None, Some(pool)) => json!([{"poolid": pool, "members": members}]),
                    (None, None) => json!([{"poolid": "blockhost"}]),
                })
            }
            ["storage", name] => {
                Ok(json!({"storage": name, "type": "dir", "path": "/var/lib/vz", "content": "snippets"}))
            }
            ["nodes", "pve", "tasks", upid, "status"] => self.task_status(upid),
            ["nodes", "pve", "tasks", _, "log"] => {
                Ok(json!([{"n": 1, "t": "WARN: the lab says so"}, {"n": 2, "t": "done"}]))
            }
            ["nodes", "pve", "storage", rest @ ..] => self.storage(method, rest),
            ["nodes", "pve", "qemu", id, rest @ ..] => self.qemu(method, id.parse().unwrap(), rest, form),
            _ => Err(refuse(501, format!("Method '{method} {path}' not implemented"))),
        }
    }

    fn lab(&mut self, path: &str, body: &Value) -> Answer {
        let Some(faults) = &mut self.lab else {
            return Err(refuse(404, "Not Found"));
        };
        let text = |key: &str| body[key].as_str().unwrap().to_string();
        match path {
            "/lab/fault" => {
                self.points.push(text("point"));
                Ok(faults.remove(&text("point")).unwrap_or(json!({"action": null})))
            }
            "/lab/snippet" => {
                self.snippets.insert(text("volid"), text("text"));
                Ok(json!({}))
            }
            _ => Err(refuse(404, "Not Found")),
        }
    }
}

/// The API while it runs; it ends with the value.
pub struct Pve {
    node: Arc<Mutex<Node>>,
    pub port: u16,
    _runtime: tokio::runtime::Runtime,
}

impl Pve {
    pub fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let node = Arc::new(Mutex::new(Node::new()));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let signed =
            rcgen::generate_simple_self_signed(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
        let key = PrivateKeyDer::try_from(signed.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![signed.cert.der().clone()], key)
            .unwrap();
        let tls = TlsAcceptor::from(Arc::new(config));
        let shared = node.clone();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, node) = (tls.clone(), shared.clone());
                tokio::spawn(async move {
                    let Ok(stream) = tls.accept(stream).await else {
                        return;
                    };
                    let service = service_fn(move |request| serve(node.clone(), request));
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { node, port, _runtime: runtime }
    }

    /// The node, to look at or to change.
    pub fn node(&self) -> MutexGuard<'_, Node> {
        self.node.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The requests to the API since the last time this was asked.
    pub fn take_requests(&self) -> Vec<Seen> {
        std::mem::take(&mut self.node().requests)
    }
}

async fn serve(
    node: Arc<Mutex<Node>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Box<dyn std::error::Error + Send + Sync>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let field =
        |name| head.headers.get(name).map(|value: &http::HeaderValue| value.to_str().unwrap().to_string());
    let pairs = |bytes: &[u8]| form_urlencoded::parse(bytes).into_owned().collect::<Form>();
    let full = head.uri.path();
    let lock = || node.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if full.contains("/agent/") {
        let takes = lock().agent_takes;
        tokio::time::sleep(takes).await;
    }
    let mut node = lock();
    let answer = if let Some(path) = full.strip_prefix("/api2/json") {
        let form = pairs(&body);
        let shown: Vec<&str> =
            path.split('/').map(|part| if part.starts_with("UPID:") { "UPID" } else { part }).collect();
        let query = head.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        node.requests.push(Seen {
            method: head.method.to_string(),
            path: shown.join("/") + &query,
            form: form.clone(),
            content_type: field(header::CONTENT_TYPE),
            authorization: field(header::AUTHORIZATION),
        });
        let query = pairs(head.uri.query().unwrap_or_default().as_bytes());
        node.route(&head.method, path, &query, &form).map(|data| json!({ "data": data }))
    } else {
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        node.lab(full, &body)
    };
    let (code, reason, json) = match answer {
        Ok(json) => (200, None, json),
        Err(Refusal(0, ..)) => return Err("cut".into()),
        Err(Refusal(code, reason, errors)) => {
            let mut body = json!({"data": null, "message": format!("{reason}\n")});
            if !errors.is_null() {
                body["errors"] = errors;
            }
            (code, Some(reason), body)
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(json.to_string())));
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    if let Some(reason) = reason {
        response.extensions_mut().insert(ReasonPhrase::try_from(reason.into_bytes()).unwrap());
    }
    Ok(response)
}
