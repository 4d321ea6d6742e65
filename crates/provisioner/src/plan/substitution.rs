//! Substitutes `$name` and `${name}` in cloud-init templates exactly like Python's `string.Template.safe_substitute`.

/// Substitutes the variables. `$$` becomes `$`; unknown or malformed names stay as they are, because templates contain
/// shell code.
pub fn substitute(template: &str, variables: &[(&str, &str)]) -> String {
    let value = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
    let mut out = String::with_capacity(template.len() + 256);
    let mut rest = template;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(tail) = rest.strip_prefix('$') {
            out.push('$');
            rest = tail;
            continue;
        }
        let braced = rest.strip_prefix('{');
        let name = name_at(braced.unwrap_or(rest));
        let after = match braced {
            Some(inner) => inner[name.len()..].strip_prefix('}').filter(|_| !name.is_empty()),
            None => Some(&rest[name.len()..]),
        };
        match (after, value(name)) {
            (Some(after), Some(value)) => {
                out.push_str(value);
                rest = after;
            }
            // Unknown or malformed: keep the `$` and go on after it.
            _ => out.push('$'),
        }
    }
    out.push_str(rest);
    out
}

/// Returns the longest name at the start of `text`: `[_a-zA-Z][_a-zA-Z0-9]*`, ASCII.
fn name_at(text: &str) -> &str {
    let end = text
        .bytes()
        .enumerate()
        .find(|(i, b)| !(b.is_ascii_alphabetic() || *b == b'_' || (*i > 0 && b.is_ascii_digit())))
        .map_or(text.len(), |(i, _)| i);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::strategy::ValueTree;
    use std::io::Write;
    use std::process::{Command, Stdio};

    const VARIABLES: [(&str, &str); 3] = [("VM_NAME", "web-1"), ("x", "$VM_NAME"), ("_a1", "")];

    #[test]
    fn shell_code_and_unknown_names_stay() {
        let text = "$VM_NAME ${VM_NAME} $$VM_NAME $(id) ${1} $1 ${VM_NAME ${VM_NAME:-x} $other $ $$ ${x} $VM_NAMEs ${}";
        let expected =
            "web-1 web-1 $VM_NAME $(id) ${1} $1 ${VM_NAME ${VM_NAME:-x} $other $ $ $VM_NAME $VM_NAMEs ${}";
        assert_eq!(substitute(text, &VARIABLES), expected);
    }

    /// Runs Python itself, for many texts at once.
    fn python(texts: &[String]) -> Vec<String> {
        let code = "import json,string,sys\nd=json.load(sys.stdin)\nprint(json.dumps([string.Template(t).safe_substitute(d['v']) for t in d['t']]))";
        let variables: serde_json::Map<_, _> =
            VARIABLES.iter().map(|(k, v)| ((*k).to_string(), (*v).into())).collect();
        let input = serde_json::json!({"v": variables, "t": texts}).to_string();
        #[allow(clippy::disallowed_methods, reason = "a test that asks Python")]
        let mut child = Command::new("python3")
            .args(["-c", code])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        serde_json::from_slice(&output.stdout).unwrap()
    }

    #[test]
    fn the_same_as_pythons_safe_substitute_for_thousands_of_texts() {
        let piece = prop_oneof![
            Just("$".to_string()),
            Just("{".to_string()),
            Just("}".to_string()),
            Just("VM_NAME".to_string()),
            Just("x".to_string()),
            Just("_a1".to_string()),
            Just("1".to_string()),
            Just(" ".to_string()),
            Just("é".to_string()),
            Just("ſ".to_string()),
            Just("\n".to_string()),
            "[a-zA-Z_0-9${}]{0,4}",
        ];
        let text = proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat());
        let mut runner = proptest::test_runner::TestRunner::default();
        let texts: Vec<String> = (0..5000).map(|_| text.new_tree(&mut runner).unwrap().current()).collect();
        for (text, expected) in texts.iter().zip(python(&texts)) {
            assert_eq!(substitute(text, &VARIABLES), expected, "{text:?}");
        }
    }
}
