//! What the SDK beneath the real provider does with a schema between configuration and state.

use super::Block;
use crate::value::Value;
use std::collections::BTreeMap;

/// A step into a value: an attribute's name or a list's index.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Into an attribute of an object.
    Attribute(String),
    /// Into an element of a list.
    Element(usize),
}

impl Block {
    /// Fills the proposed new value: defaults where nothing is given; where a computed attribute has no
    /// value, the prior one, or unknown when there is none.
    pub fn fill(&self, proposed: &mut Value, prior: &Value) {
        let Value::Object(entries) = proposed else { return };
        for attribute in &self.attributes {
            let entry = entries.entry(attribute.name.clone()).or_default();
            if entry.is_null() {
                if let Some(default) = &attribute.default {
                    *entry = default.clone();
                } else if attribute.computed {
                    *entry =
                        if prior.is_null() { Value::Unknown } else { prior.get(&attribute.name).clone() };
                }
            }
        }
        for nested in &self.blocks {
            let entry = entries.entry(nested.name.clone()).or_default();
            match entry {
                Value::List(items) => {
                    for (index, item) in items.iter_mut().enumerate() {
                        let before = prior.list(&nested.name).get(index).unwrap_or(&Value::Null);
                        nested.block.fill(item, before);
                    }
                }
                Value::Null if nested.as_attribute && prior.is_null() => *entry = Value::Unknown,
                Value::Null if nested.as_attribute => *entry = prior.get(&nested.name).clone(),
                _ => {}
            }
        }
    }

    /// Where `old` and `new` differ in something that cannot be changed in place.
    pub fn replaced(&self, old: &Value, new: &Value) -> Vec<Vec<Step>> {
        let mut paths = Vec::new();
        self.find_replaced(old, new, &mut Vec::new(), &mut paths);
        paths
    }

    fn find_replaced(&self, old: &Value, new: &Value, at: &mut Vec<Step>, paths: &mut Vec<Vec<Step>>) {
        for attribute in self.attributes.iter().filter(|attribute| attribute.replace) {
            if !same(old.get(&attribute.name), new.get(&attribute.name)) {
                paths.push([at.as_slice(), &[Step::Attribute(attribute.name.clone())]].concat());
            }
        }
        for nested in &self.blocks {
            let (before, after) = (old.list(&nested.name), new.list(&nested.name));
            at.push(Step::Attribute(nested.name.clone()));
            for index in 0..before.len().max(after.len()) {
                let pair = (before.get(index), after.get(index));
                at.push(Step::Element(index));
                match pair {
                    (Some(before), Some(after)) => nested.block.find_replaced(before, after, at, paths),
                    // A block that comes or goes differs in all it holds, given or not.
                    _ if nested.replace => paths.push(at.clone()),
                    _ => {}
                }
                at.pop();
            }
            at.pop();
        }
    }

    /// A state as another version or an import left it, brought to this schema's shape: what is missing
    /// is null (blocks: none), what is not known here is dropped.
    pub fn shape(&self, state: &Value) -> Value {
        let mut entries = BTreeMap::new();
        for attribute in &self.attributes {
            entries.insert(attribute.name.clone(), state.get(&attribute.name).clone());
        }
        for nested in &self.blocks {
            let items = state.list(&nested.name).iter().map(|item| nested.block.shape(item)).collect();
            entries.insert(nested.name.clone(), Value::List(items));
        }
        Value::Object(entries)
    }
}

/// Whether two values say the same; the SDK does not tell absent from empty.
pub fn same(old: &Value, new: &Value) -> bool {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::Text(text) => text.is_empty(),
        Value::List(items) => items.is_empty(),
        _ => false,
    };
    old == new || (empty(old) && empty(new))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{schema::*, version::Version};
    use serde_json::json;

    fn vm(version: Version) -> Block {
        Schema::of(version).unwrap().resource(VM).unwrap().clone()
    }

    fn planned(block: &Block, config: Json, prior: &Value) -> Value {
        let mut value = block.shape(&Value::from_json(&config));
        // an absent attribute arrives as null, not as an empty list
        if config.get("network_device").is_none() && block.blocks.iter().any(|b| b.as_attribute) {
            value.set("network_device", Value::Null);
        }
        block.fill(&mut value, prior);
        value
    }

    #[test]
    fn defaults_and_unknowns() {
        for version in [Version(0, 93, 0), Version(0, 111, 1)] {
            let block = vm(version);
            let config = json!({"node_name": "pve", "clone": [{"vm_id": 9001}], "cpu": [{"cores": 2}]});
            let created = planned(&block, config, &Value::Null);
            assert_eq!(created.int("timeout_clone"), Some(1800));
            assert_eq!(created.block("clone").unwrap().bool("full"), Some(true));
            assert_eq!(created.block("cpu").unwrap().text("type"), Some("qemu64"));
            assert_eq!(created.get("vm_id"), &Value::Unknown);
            assert!(created.block("memory").is_none());
            let nics = if version >= Version(0, 98, 1) { Value::Unknown } else { Value::List(vec![]) };
            assert_eq!(created.get("network_device"), &nics);
        }
    }

    #[test]
    fn replacement_paths() {
        let block = vm(Version(0, 111, 1));
        let config =
            |template: i64| json!({"node_name": "pve", "vm_id": 100, "clone": [{"vm_id": template}]});
        let before = planned(&block, config(9001), &Value::Null);
        assert!(block.replaced(&before, &before).is_empty());
        let after = planned(&block, config(9002), &before);
        let attribute = |name: &str| Step::Attribute(name.into());
        assert_eq!(
            block.replaced(&before, &after),
            [vec![attribute("clone"), Step::Element(0), attribute("vm_id")]]
        );
        // an imported VM has no clone block
        let imported = planned(&block, json!({"node_name": "pve", "vm_id": 100}), &Value::Null);
        assert_eq!(block.replaced(&imported, &after), [vec![attribute("clone"), Step::Element(0)]]);
    }

    #[test]
    fn computed_values_are_carried_over() {
        let block = vm(Version(0, 111, 1));
        let mut prior = planned(&block, json!({"node_name": "pve", "vm_id": 100}), &Value::Null);
        prior.set("network_device", Value::from_json(&json!([{"mac_address": "BC:24:11:00:00:02"}])));
        let config =
            json!({"node_name": "pve", "network_device": [{"bridge": "vmbr1", "mac_address": null}]});
        let nic = planned(&block, config, &prior).block("network_device").cloned().unwrap();
        assert_eq!((nic.text("mac_address"), nic.text("bridge")), (Some("BC:24:11:00:00:02"), Some("vmbr1")));
        assert_eq!(planned(&block, json!({"node_name": "pve"}), &prior).int("vm_id"), Some(100));
    }
}
