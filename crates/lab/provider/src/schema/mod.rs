//! The schema as data: `schema.txt` read into blocks, and their form on the wire.
//!
//! `plan.rs` has what the SDK does with a schema when it plans (defaults, unknowns, replacement),
//! `validate.rs` what it refuses.

mod parse;
mod plan;
mod validate;

pub use plan::{Step, same};

use crate::{plugin::wire::Message, value::Value, version::Version};
use serde_json::{Value as Json, json};

/// The VM resource's type name.
pub const VM: &str = "proxmox_virtual_environment_vm";
/// The file resource's type name.
pub const FILE: &str = "proxmox_virtual_environment_file";

/// Provider block and resources of one version.
pub struct Schema {
    /// The provider's own configuration.
    pub provider: Block,
    /// The resources by type name.
    pub resources: Vec<(String, Block)>,
}

/// Attributes and blocks that stand together.
#[derive(Clone, Default)]
pub struct Block {
    /// Plain attributes.
    pub attributes: Vec<Attribute>,
    /// List blocks within.
    pub blocks: Vec<Nested>,
}

/// One attribute.
#[derive(Clone)]
pub struct Attribute {
    /// Its name.
    pub name: String,
    /// Its type in terraform's JSON notation.
    pub kind: Json,
    /// Must be given.
    pub required: bool,
    /// May be given.
    pub optional: bool,
    /// May be set by the provider.
    pub computed: bool,
    /// Is kept out of terraform's output.
    pub sensitive: bool,
    /// Gives a warning when used.
    pub deprecated: bool,
    /// What the SDK puts in when it is left out.
    pub default: Option<Value>,
    /// Changing it means a new resource.
    pub replace: bool,
    /// The rules its value must obey.
    pub checks: Vec<Check>,
}

/// A rule for an attribute's value.
#[derive(Clone)]
pub enum Check {
    /// A number between these, both included.
    Range(i64, i64),
    /// One of these texts.
    OneOf(Vec<String>),
    /// A rule by name, see `validate.rs`.
    Named(String),
}

/// A list block, as all blocks of this provider are.
#[derive(Clone)]
pub struct Nested {
    /// Its name.
    pub name: String,
    /// What each element holds.
    pub block: Block,
    /// How many may be given; 0 is no limit.
    pub max: i64,
    /// Whether adding or removing it means a new resource.
    pub replace: bool,
    /// Whether it is told to terraform as an attribute, a list of objects (optional and computed).
    pub as_attribute: bool,
}

impl Schema {
    /// The schema of a version. The text is part of the program, so a mistake in it is a mistake in the
    /// program: the tests below read it for both versions.
    pub fn of(version: Version) -> Result<Self, String> {
        parse::schema(include_str!("schema.txt"), version)
    }

    /// A resource's block.
    pub fn resource(&self, kind: &str) -> Option<&Block> {
        self.resources.iter().find(|(name, _)| name == kind).map(|(_, block)| block)
    }
}

impl Block {
    /// Writes the block as the protocol's `Schema.Block`.
    pub fn write(&self, out: &mut Message) {
        for attribute in &self.attributes {
            out.message(2, |m| attribute.write(m));
        }
        for nested in &self.blocks {
            if nested.as_attribute {
                out.message(2, |m| {
                    m.text(1, &nested.name).text(2, &nested.kind().to_string()).bool(5, true).bool(6, true);
                });
            } else {
                const LIST: i64 = 2;
                out.message(3, |m| {
                    m.text(1, &nested.name)
                        .message(2, |m| nested.block.write(m))
                        .int(3, LIST)
                        .int(5, nested.max);
                });
            }
        }
    }
}

impl Attribute {
    fn write(&self, out: &mut Message) {
        out.text(1, &self.name)
            .text(2, &self.kind.to_string())
            .bool(4, self.required)
            .bool(5, self.optional)
            .bool(6, self.computed)
            .bool(7, self.sensitive)
            .bool(9, self.deprecated);
    }
}

impl Nested {
    fn kind(&self) -> Json {
        let of = |attribute: &Attribute| (attribute.name.clone(), attribute.kind.clone());
        let fields: serde_json::Map<_, _> = self.block.attributes.iter().map(of).collect();
        json!(["list", ["object", fields]])
    }
}
