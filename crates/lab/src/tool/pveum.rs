//! `pveum`: users, roles, access rules, tokens, pools.

use serde_json::{Value, json};

use super::getopt::{Parsed, Takes, parse};
use super::{ToolOutput, pretty};
use crate::api::{self, Params};
use crate::node::Shared;
use crate::node::access::{Caller, Token};
use crate::node::refusal::{Outcome, Refusal};

const OPTIONS: &[(&str, Takes)] = &[
    ("comment", Takes::Value),
    ("enable", Takes::Flag),
    ("privsep", Takes::Flag),
    ("expire", Takes::Value),
    ("regenerate", Takes::Flag),
    ("privs", Takes::Value),
    ("append", Takes::Flag),
    ("users", Takes::Value),
    ("tokens", Takes::Value),
    ("roles", Takes::Value),
    ("propagate", Takes::Flag),
    ("delete", Takes::Flag),
    ("output-format", Takes::Value),
];

/// Runs `pveum`.
pub(crate) async fn run(node: &Shared, argv: &[String]) -> Outcome<ToolOutput> {
    let parsed = parse(argv, OPTIONS)?;
    let words: Vec<&str> = parsed.words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["user", "add", user] | ["useradd", user] => add_user(node, user, &parsed),
        ["user", "delete", user] | ["userdel", user] => {
            let mut state = node.state();
            state.access.users.remove(*user);
            state.access.tokens.retain(|id, _| id.split('!').next() != Some(user));
            state.access.rules.retain(|rule| rule.subject.split('!').next() != Some(user));
            Ok(ToolOutput::default())
        }
        ["user", "token", "add", user, token] => add_token(node, user, token, &parsed),
        ["user", "token", "modify", user, token] => modify_token(node, user, token, &parsed),
        ["user", "token", "remove" | "delete", user, token] => {
            let id = format!("{user}!{token}");
            let gone = node.state().access.tokens.remove(&id);
            gone.map(|_| ToolOutput::default()).ok_or_else(|| no_such_token(&id))
        }
        ["role", act @ ("add" | "modify"), role] => set_role(node, act, role, &parsed),
        ["roleadd", role] => set_role(node, "add", role, &parsed),
        ["rolemod", role] => set_role(node, "modify", role, &parsed),
        ["role", "delete", role] => {
            let gone = node.state().access.roles.remove(*role);
            gone.map(|_| ToolOutput::default())
                .ok_or_else(|| Refusal::die(format!("role '{role}' does not exist")))
        }
        ["acl", act @ ("modify" | "delete"), path] => change_rules(node, act, path, &parsed),
        ["aclmod", path] => change_rules(node, "modify", path, &parsed),
        ["acldel", path] => change_rules(node, "delete", path, &parsed),
        ["pool", "add", pool] => {
            let mut params = vec![("poolid".to_owned(), (*pool).to_owned())];
            params.extend(parsed.get("comment").map(|text| ("comment".to_owned(), text.to_owned())));
            api::dispatch(node, &Caller::Root, "POST", "/pools", &Params::of(params)).await?;
            Ok(ToolOutput::default())
        }
        ["pool", "delete", pool] => {
            let mut state = node.state();
            if state.guests.values().any(|guest| guest.pool.as_deref() == Some(pool)) {
                return Err(Refusal::die(format!("delete pool failed: pool '{pool}' is not empty")));
            }
            let gone = state.pools.remove(*pool);
            gone.map(|_| ToolOutput::default())
                .ok_or_else(|| Refusal::die(format!("delete pool failed: pool '{pool}' does not exist")))
        }
        ["pool", "list"] => {
            let pools = api::dispatch(node, &Caller::Root, "GET", "/pools", &Params::default()).await?;
            Ok(show(&pools, &parsed))
        }
        words => match list(node, words) {
            Some(rows) => Ok(show(&json!(rows), &parsed)),
            None => Err(Refusal::die(format!("ERROR: unknown command 'pveum {}'", words.join(" ")))),
        },
    }
}

/// What the commands print that only list; `None` of other commands.
fn list(node: &Shared, words: &[&str]) -> Option<Vec<Value>> {
    let access = &node.state().access;
    Some(match words {
        ["user", "list"] => access.users.keys().map(|user| json!({"userid": user})).collect(),
        ["user", "token", "list", user] => {
            let prefix = format!("{user}!");
            let own = access.tokens.iter().filter_map(|(id, token)| Some((id.strip_prefix(&prefix)?, token)));
            own.map(|(id, token)| json!({"tokenid": id, "privsep": u8::from(token.privsep), "expire": 0}))
                .collect()
        }
        ["role", "list"] => {
            let roles = access.roles.iter().map(|(role, privs)| {
                json!({"roleid": role, "privs": privs.iter().cloned().collect::<Vec<_>>().join(",")})
            });
            roles.collect()
        }
        ["acl", "list"] => {
            let rules = access.rules.iter().map(|rule| {
                let kind = if rule.subject.contains('!') { "token" } else { "user" };
                json!({"path": rule.path, "ugid": rule.subject, "roleid": rule.role, "type": kind,
                    "propagate": u8::from(rule.propagate)})
            });
            rules.collect()
        }
        _ => return None,
    })
}

fn show(value: &Value, parsed: &Parsed) -> ToolOutput {
    match parsed.get("output-format") {
        Some("json") => ToolOutput::text(format!("{value}\n")),
        _ => ToolOutput::text(pretty::print(value)),
    }
}

fn no_such_token(id: &str) -> Refusal {
    Refusal::die(format!(
        "no such token '{}' for user '{}'",
        id.split('!').nth(1).unwrap_or(""),
        id.split('!').next().unwrap_or("")
    ))
}

fn add_user(node: &Shared, user: &str, parsed: &Parsed) -> Outcome<ToolOutput> {
    let right = user.split_once('@').is_some_and(|(name, realm)| !name.is_empty() && !realm.is_empty())
        && !user.contains(|c: char| c.is_whitespace() || c == ':' || c == '/');
    if !right {
        return Err(Refusal::parameter(
            "userid",
            format!("value '{user}' does not look like a valid user name"),
        ));
    }
    let mut state = node.state();
    if state.access.users.contains_key(user) {
        return Err(Refusal::die(format!("create user failed: user '{user}' already exists")));
    }
    state.access.users.insert(user.into(), parsed.get("comment").unwrap_or("").into());
    Ok(ToolOutput::default())
}

/// The secret of a new token is told once.
fn add_token(node: &Shared, user: &str, token: &str, parsed: &Parsed) -> Outcome<ToolOutput> {
    let mut state = node.state();
    if !state.access.users.contains_key(user) {
        return Err(Refusal::die(format!("no such user ('{user}')")));
    }
    let right = token.starts_with(|c: char| c.is_ascii_alphabetic())
        && token.len() > 1
        && token.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    if !right {
        return Err(Refusal::parameter(
            "tokenid",
            format!("value '{token}' does not match the regex pattern"),
        ));
    }
    let id = format!("{user}!{token}");
    if state.access.tokens.contains_key(&id) {
        return Err(Refusal::parameter("tokenid", "Token already exists."));
    }
    let privsep = parsed.get("privsep").is_none() || parsed.flag("privsep");
    let secret = uuid::Uuid::new_v4().to_string();
    state.access.tokens.insert(id.clone(), Token { secret: secret.clone(), privsep });
    let info = privsep_json(node, privsep);
    Ok(show(&json!({"full-tokenid": id, "info": info, "value": secret}), parsed))
}

/// Version 8 tells it as a text.
fn privsep_json(node: &Shared, privsep: bool) -> Value {
    let privsep = u8::from(privsep);
    if node.options.pve == 8 { json!({"privsep": privsep.to_string()}) } else { json!({"privsep": privsep}) }
}

/// `--regenerate` is known from version 9 on.
fn modify_token(node: &Shared, user: &str, token: &str, parsed: &Parsed) -> Outcome<ToolOutput> {
    if parsed.get("regenerate").is_some() && node.options.pve < 9 {
        return Err(Refusal::with_code(400, "Unknown option: regenerate\n400 unable to parse option"));
    }
    let id = format!("{user}!{token}");
    let mut state = node.state();
    let own = state.access.tokens.get_mut(&id).ok_or_else(|| no_such_token(&id))?;
    if parsed.get("privsep").is_some() {
        own.privsep = parsed.flag("privsep");
    }
    let mut answer = privsep_json(node, own.privsep);
    if parsed.flag("regenerate") {
        own.secret = uuid::Uuid::new_v4().to_string();
        answer = json!({"full-tokenid": id, "info": answer, "value": own.secret});
    }
    Ok(show(&answer, parsed))
}

fn set_role(node: &Shared, act: &str, role: &str, parsed: &Parsed) -> Outcome<ToolOutput> {
    let mut wanted = api::split_list(parsed.get("privs").unwrap_or(""));
    let mut state = node.state();
    let known = state.access.roles.get(role).cloned();
    match (act, &known) {
        ("add", Some(_)) => return Err(Refusal::die(format!("role '{role}' already exists"))),
        ("modify", None) => return Err(Refusal::die(format!("role '{role}' does not exist"))),
        _ => {}
    }
    if parsed.flag("append") {
        wanted.extend(known.into_iter().flatten());
    }
    let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
    state.access.set_role(role, &wanted)?;
    Ok(ToolOutput::default())
}

/// Rules on a VMID may be set before there is such a guest, but on none below the lowest.
fn is_path(path: &str) -> bool {
    path.strip_prefix("/vms/").is_none_or(|vmid| vmid.parse().is_ok_and(|vmid: u32| vmid >= 100))
}

fn change_rules(node: &Shared, act: &str, path: &str, parsed: &Parsed) -> Outcome<ToolOutput> {
    let mut state = node.state();
    if !is_path(path) {
        return Err(Refusal::parameter("path", format!("invalid ACL path '{path}'")));
    }
    let list = |name: &str| api::split_list(parsed.get(name).unwrap_or(""));
    let (roles, subjects) = (list("roles"), [list("users"), list("tokens")].concat());
    if roles.is_empty() {
        return Err(Refusal::parameter("roles", "property is missing and it is not optional"));
    }
    for role in &roles {
        if !state.access.roles.contains_key(role) {
            return Err(Refusal::parameter("roles", format!("role '{role}' does not exist")));
        }
        for subject in &subjects {
            let known = state.access.users.contains_key(subject) || state.access.tokens.contains_key(subject);
            if !known {
                return Err(Refusal::die(format!("user '{subject}' does not exist")));
            }
            if act == "delete" || parsed.flag("delete") {
                state
                    .access
                    .rules
                    .retain(|rule| !(rule.path == path && rule.subject == *subject && rule.role == *role));
            } else {
                let propagate = parsed.get("propagate").is_none() || parsed.flag("propagate");
                state.access.grant(path, subject, role, propagate);
            }
        }
    }
    Ok(ToolOutput::default())
}
