//! The calls of terraform's provider protocol 6, each brought to the operation it stands for.
//!
//! Field numbers are those of the protocol's messages. Like the SDK of the real provider, plans and
//! results say that they follow its legacy type system, so that terraform tolerates defaults on attributes
//! that are not computed.

use crate::{
    api::{Api, Client, Pace, TlsSettings},
    diagnostic::{Diagnostic, write_path},
    file,
    plugin::{
        serve::Reply,
        wire::{Fields, Message},
    },
    schema::{Block, FILE, Schema, Step, VM, same},
    value::Value,
    version::Version,
    vm,
};
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::time::Instant;

/// No operation lasts longer; those with a limit of their own set it themselves.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// This process as terraform sees it.
pub struct Provider {
    version: Version,
    schema: Schema,
    configured: OnceLock<Configured>,
}

struct Configured {
    client: Arc<Client>,
    pace: Pace,
    numbers: vm::Numbers,
}

impl Provider {
    /// A provider of this version, not configured yet.
    pub fn new(version: Version) -> Result<Self, String> {
        Ok(Self { version, schema: Schema::of(version)?, configured: OnceLock::new() })
    }

    /// Answers one call.
    pub async fn call(&self, path: &str, body: &[u8]) -> Reply {
        let method = path.strip_prefix("/tfplugin6.Provider/")?;
        let fields = match Fields::read(body) {
            Ok(fields) => fields,
            Err(error) => return Some(Err(error.to_string())),
        };
        let mut out = Message::new();
        let done = match method {
            "GetProviderSchema" => {
                self.write_schema(&mut out);
                Ok(())
            }
            "ValidateProviderConfig" => {
                self.refusals(&self.schema.provider, fields.get(1), &mut out);
                Ok(())
            }
            "ConfigureProvider" => {
                if let Err(error) = self.configure(&value(fields.get(2))) {
                    out.message(1, |m| error.write(m));
                }
                Ok(())
            }
            // A create is not cancelled by the wish to stop; whoever waits for it gets it whole.
            "StopProvider" => Ok(()),
            "ValidateResourceConfig" => {
                self.block(&fields).map(|block| self.refusals(block, fields.get(2), &mut out))
            }
            "UpgradeResourceState" => self.upgrade(&fields, &mut out),
            "ReadResource" => self.read(&fields, &mut out).await,
            "PlanResourceChange" => self.plan(&fields, &mut out).await,
            "ApplyResourceChange" => self.apply(&fields, &mut out).await,
            "ImportResourceState" => self.import(&fields, &mut out),
            _ => return None,
        };
        Some(done.map(|()| out.0))
    }

    fn block(&self, fields: &Fields<'_>) -> Result<&Block, String> {
        let kind = fields.text(1);
        self.schema.resource(&kind).ok_or_else(|| format!("no resource type {kind}"))
    }

    fn write_schema(&self, out: &mut Message) {
        let schema = |m: &mut Message, block: &Block| {
            m.message(2, |m| block.write(m));
        };
        out.message(1, |m| schema(m, &self.schema.provider));
        for (kind, block) in &self.schema.resources {
            out.message(2, |m| {
                m.text(1, kind).message(2, |m| schema(m, block));
            });
        }
    }

    fn refusals(&self, block: &Block, config: &[u8], out: &mut Message) {
        for refusal in block.refusals(&value(config), self.version) {
            let diagnostic = Diagnostic { path: refusal.path, ..Diagnostic::error(refusal.message) };
            out.message(1, |m| diagnostic.write(m));
        }
    }

    /// Takes the configuration; what it leaves out comes from `PROXMOX_VE_…`. No call is made.
    fn configure(&self, config: &Value) -> Result<(), Diagnostic> {
        if ["endpoint", "api_token"].iter().any(|key| config.get(key).has_unknown()) {
            return Ok(()); // a plan in which another resource is to tell them
        }
        let given = |key: &str| match config.text(key) {
            Some(text) => text.to_string(),
            None => std::env::var(format!("PROXMOX_VE_{}", key.to_uppercase())).unwrap_or_default(),
        };
        let truth =
            |key: &str| config.bool(key).unwrap_or_else(|| matches!(given(key).as_str(), "1" | "true"));
        let mut whole = config.clone();
        whole.set("endpoint", given("endpoint"));
        whole.set("api_token", given("api_token"));
        // What the environment gave has not been checked yet.
        if let Some(refusal) = self.schema.provider.refusals(&whole, self.version).into_iter().next() {
            return Err(Diagnostic { path: refusal.path, ..Diagnostic::error(refusal.message) });
        }
        let tls = TlsSettings {
            insecure: truth("insecure"),
            allow_tls12: !matches!(given("min_tls").as_str(), "" | "1.3"),
        };
        let client = Client::new(&given("endpoint"), &given("api_token"), tls).map_err(Diagnostic::error)?;
        let bound = |key: &str, default| config.int(key).unwrap_or(default);
        let range = (bound("random_vm_id_start", 10_000), bound("random_vm_id_end", 99_999));
        let numbers = vm::Numbers::new(truth("random_vm_ids").then_some(range));
        // terraform configures a provider once.
        let _ = self.configured.set(Configured {
            client: Arc::new(client),
            pace: Pace::from_environment(),
            numbers,
        });
        Ok(())
    }

    fn api(&self) -> Result<(Api, &vm::Numbers), String> {
        let configured = self.configured.get().ok_or("the provider is not configured")?;
        let api = Api {
            client: configured.client.clone(),
            version: self.version,
            pace: configured.pace,
            deadline: Instant::now() + FOREVER,
        };
        Ok((api, &configured.numbers))
    }

    fn upgrade(&self, fields: &Fields<'_>, out: &mut Message) -> Result<(), String> {
        let raw = Fields::read(fields.get(3)).map_err(|error| error.to_string())?;
        let json = serde_json::from_slice(raw.get(1)).map_err(|error| format!("state: {error}"))?;
        let state = self.block(fields)?.shape(&Value::from_json(&json));
        out.message(1, |m| write_value(m, &state));
        Ok(())
    }

    async fn read(&self, fields: &Fields<'_>, out: &mut Message) -> Result<(), String> {
        let (api, _) = self.api()?;
        let block = self.block(fields)?;
        let state = value(fields.get(2));
        let (new, said) = match fields.text(1).as_str() {
            VM => vm::read(&api, &state).await,
            _ => file::read(&api, &state).await,
        };
        let new = if new.is_null() { new } else { block.shape(&new) };
        out.message(1, |m| write_value(m, &new));
        write_all(out, 2, &said);
        out.bytes(3, fields.get(3));
        Ok(())
    }

    async fn plan(&self, fields: &Fields<'_>, out: &mut Message) -> Result<(), String> {
        let block = self.block(fields)?;
        let kind = fields.text(1);
        let (prior, mut planned) = (value(fields.get(2)), value(fields.get(3)));
        let step = if kind == VM { "vm" } else { "file" };
        let mut said = Vec::new();
        // Before the provider is configured (its configuration depends on something unknown) none can ask.
        if let Ok((api, _)) = self.api()
            && let Err(error) = api.point(&format!("plan.{step}.before")).await
        {
            said.push(Diagnostic::from(error));
        }
        if !planned.is_null() {
            block.fill(&mut planned, &prior);
        }
        let mut replaced = Vec::new();
        if !prior.is_null() && !planned.is_null() {
            if kind == VM {
                keep_equal(&prior, &mut planned);
            }
            replaced = block.replaced(&prior, &planned);
            let moved = prior.text("node_name") != planned.text("node_name");
            if kind == VM && moved && planned.bool("migrate") != Some(true) {
                replaced.push(vec![Step::Attribute("node_name".into())]);
            }
        }
        if let Ok((api, _)) = self.api()
            && let Err(error) = api.point(&format!("plan.{step}.after")).await
        {
            said.push(Diagnostic::from(error));
        }
        out.message(1, |m| write_value(m, &planned));
        for path in replaced {
            out.message(2, |m| write_path(m, &path));
        }
        out.bytes(3, fields.get(5));
        write_all(out, 4, &said);
        out.bool(5, true);
        Ok(())
    }

    async fn apply(&self, fields: &Fields<'_>, out: &mut Message) -> Result<(), String> {
        let (api, numbers) = self.api()?;
        let block = self.block(fields)?;
        let (prior, planned) = (value(fields.get(2)), value(fields.get(3)));
        let is_vm = fields.text(1) == VM;
        let (new, said) = match (prior.is_null(), planned.is_null()) {
            (true, _) if is_vm => vm::create(&api, &planned, numbers).await,
            (true, _) => file::create(&api, &planned).await,
            (false, true) if is_vm => vm::delete(&api, &prior).await,
            (false, true) => file::delete(&api, &prior).await,
            (false, false) if is_vm => vm::update(&api, &prior, &planned).await,
            (false, false) => (file::update(&planned), Vec::new()),
        };
        let new = if new.is_null() { new } else { block.shape(&new) };
        out.message(1, |m| write_value(m, &new));
        out.bytes(2, fields.get(5));
        write_all(out, 3, &said);
        out.bool(4, true);
        Ok(())
    }

    fn import(&self, fields: &Fields<'_>, out: &mut Message) -> Result<(), String> {
        let block = self.block(fields)?;
        let (kind, id) = (fields.text(1), fields.text(2));
        let imported = if kind == FILE { file::import(&id) } else { vm::import(&id) };
        match imported {
            Ok(state) => {
                let state = block.shape(&state);
                out.message(1, |m| {
                    m.text(1, &kind).message(2, |m| write_value(m, &state));
                });
            }
            Err(error) => {
                out.message(2, |m| error.write(m));
            }
        }
        Ok(())
    }
}

/// In a VM tags in another order, and blanks around a description, are no change.
fn keep_equal(prior: &Value, planned: &mut Value) {
    let sorted = |value: &Value| {
        let mut tags: Vec<String> =
            value.text_list("tags").iter().map(|tag| tag.trim().to_string()).collect();
        tags.sort_unstable();
        tags
    };
    if sorted(prior) == sorted(planned) && !planned.get("tags").has_unknown() {
        planned.set("tags", prior.get("tags").clone());
    }
    let trimmed = |value: &Value| value.text("description").unwrap_or_default().trim().to_string();
    if trimmed(prior) == trimmed(planned) && !same(prior.get("description"), planned.get("description")) {
        planned.set("description", prior.get("description").clone());
    }
}

/// The value of a `DynamicValue`: msgpack, or JSON where terraform prefers that.
fn value(dynamic: &[u8]) -> Value {
    let Ok(fields) = Fields::read(dynamic) else {
        return Value::Null;
    };
    match (fields.get(1), fields.get(2)) {
        ([], []) => Value::Null,
        ([], json) => serde_json::from_slice(json).map(|json| Value::from_json(&json)).unwrap_or_default(),
        (mut msgpack, _) => Value::from_msgpack(&mut msgpack).unwrap_or_default(),
    }
}

fn write_value(out: &mut Message, value: &Value) {
    out.bytes(1, &value.to_msgpack());
}

fn write_all(out: &mut Message, field: u32, said: &[Diagnostic]) {
    for diagnostic in said {
        out.message(field, |m| diagnostic.write(m));
    }
}
