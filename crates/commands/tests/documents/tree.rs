//! The tree as it lies on disk: what is there, and what the project wrote itself.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Directories that are made by builds, tests and tools.
const MADE: [&str; 6] = ["target", "build", ".git", "__pycache__", ".pytest_cache", "accounting"];

/// The directory of the workspace.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_path_buf()
}

/// A text of the project's own.
pub struct Text {
    /// Relative to the root.
    pub path: String,
    pub text: String,
}

pub struct Tree {
    /// Files and directories, relative to the root.
    pub paths: BTreeSet<String>,
    /// Code, tests, scripts and documents; not recorded outputs of other programs.
    pub texts: Vec<Text>,
}

impl Tree {
    pub fn read() -> Tree {
        let mut tree = Tree { paths: BTreeSet::new(), texts: Vec::new() };
        tree.walk(&root());
        assert!(tree.texts.len() > 250, "only {} texts were found", tree.texts.len());
        tree
    }

    fn walk(&mut self, directory: &Path) {
        for entry in std::fs::read_dir(directory).unwrap().flatten() {
            let path = entry.path();
            let name = entry.file_name().into_string().unwrap();
            if MADE.contains(&name.as_str()) {
                continue;
            }
            let relative = path.strip_prefix(root()).unwrap().to_str().unwrap().to_string();
            self.paths.insert(relative.clone());
            if path.is_dir() {
                self.walk(&path);
            } else if !relative.contains("/fixtures/")
                && name != "Cargo.lock"
                && let Ok(text) = std::fs::read_to_string(&path)
            {
                self.texts.push(Text { path: relative, text });
            }
        }
    }
}
