//! What terraform prints about an operation.

use crate::{api::ApiError, plugin::wire::Message, schema::Step, version::Version};

/// One error or warning.
#[derive(Debug, Default)]
pub struct Diagnostic {
    /// Whether it is only a warning.
    pub warning: bool,
    /// The headline.
    pub summary: String,
    /// More about it.
    pub detail: String,
    /// The attribute it is about, if any.
    pub path: Vec<Step>,
}

impl Diagnostic {
    /// An error with a headline only, as nearly all of the real provider's are.
    pub fn error(summary: impl Into<String>) -> Self {
        Self { summary: summary.into(), ..Self::default() }
    }

    /// A warning with a headline only.
    pub fn warning(summary: impl Into<String>) -> Self {
        Self { warning: true, ..Self::error(summary) }
    }

    /// A failure of a VM's clone, start or delete: since 0.101 a short headline and the rest as detail,
    /// before it one sentence.
    pub fn of_step(version: Version, short: &str, sentence: &str, error: &ApiError) -> Self {
        if version >= Version(0, 101, 0) {
            Self { detail: error.to_string(), ..Self::error(short) }
        } else {
            Self::error(format!("{sentence}: {error}"))
        }
    }

    /// Writes the protocol's `Diagnostic`.
    pub fn write(&self, out: &mut Message) {
        out.int(1, if self.warning { 2 } else { 1 }).text(2, &self.summary).text(3, &self.detail);
        if !self.path.is_empty() {
            out.message(4, |m| write_path(m, &self.path));
        }
    }
}

impl From<ApiError> for Diagnostic {
    fn from(error: ApiError) -> Self {
        Self::error(error.to_string())
    }
}

/// Writes the protocol's `AttributePath`.
pub fn write_path(out: &mut Message, path: &[Step]) {
    for step in path {
        out.message(1, |m| match step {
            Step::Attribute(name) => {
                m.text(1, name);
            }
            Step::Element(index) => {
                m.int_even_zero(3, i64::try_from(*index).unwrap_or(i64::MAX));
            }
        });
    }
}
