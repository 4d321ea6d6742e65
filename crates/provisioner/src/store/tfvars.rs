//! `terraform.tfvars`: lines of `key = "value"`, as written by the installer and edited by operators.

use std::path::Path;

/// The values that are plain strings or numbers, in file order. Lists and maps belong to others and are left out.
#[derive(Debug, Clone, Default)]
pub struct Tfvars(Vec<(String, String)>);

impl Tfvars {
    /// Reads the file.
    pub fn read(path: &Path) -> anyhow::Result<Tfvars> {
        let text = crate::host::read_file::text_for_people(path)?;
        parse(&text).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))
    }

    /// All keys, in file order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(key, _)| key.as_str())
    }

    /// Returns the value of `key`; `None` if it is missing, a list or a map.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }
}

/// A value to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    /// A string; quoted and escaped when it is written.
    Text(String),
    /// A whole number.
    Number(u64),
}

/// Returns `text` with `keys` set; other lines, comments, lists and maps stay as they are. Fails if the text cannot be
/// parsed (hazard H17); the error names the line but never its value.
pub fn set(text: &str, keys: &[(&str, Setting)]) -> Result<String, String> {
    parse(text)?;
    let mut lines: Vec<String> = Vec::new();
    let mut written = vec![false; keys.len()];
    let mut depth = 0;
    for line in text.lines() {
        let trimmed = line.trim();
        if depth > 0 {
            depth += balance(trimmed);
            lines.push(line.to_owned());
            continue;
        }
        let (key, value) = trimmed.split_once('=').map_or(("", ""), |(k, v)| (k.trim(), v.trim()));
        if value.starts_with(['[', '{']) {
            depth = balance(value);
        }
        match keys.iter().position(|(own, _)| *own == key) {
            Some(_) if depth > 0 => return Err(format!("{key} is a list or a map")),
            // Terraform refuses a key that is set twice.
            Some(index) if written[index] => {}
            Some(index) => {
                written[index] = true;
                lines.push(render(key, &keys[index].1));
            }
            None => lines.push(line.to_owned()),
        }
    }
    let missing = keys.iter().zip(written).filter(|(_, written)| !written);
    lines.extend(missing.map(|((key, setting), _)| render(key, setting)));
    lines.push(String::new());
    Ok(lines.join("\n"))
}

fn render(key: &str, setting: &Setting) -> String {
    match setting {
        Setting::Number(number) => format!("{key} = {number}"),
        Setting::Text(text) => {
            let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let escaped = escaped.replace("${", "$${").replace("%{", "%%{");
            format!("{key} = \"{escaped}\"")
        }
    }
}

/// Parses the text. Errors name the line but never repeat its value, which may be a token.
fn parse(text: &str) -> Result<Tfvars, String> {
    let mut values = Vec::new();
    let mut depth = 0i32; // inside a list or map of somebody else
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let line = line.trim();
        if depth > 0 {
            depth += balance(line);
            continue;
        }
        if line.is_empty() || line.starts_with('#') || line.starts_with("//") {
            continue;
        }
        let (key, value) =
            line.split_once('=').ok_or_else(|| format!("line {number}: expected key = \"value\""))?;
        let (key, value) = (key.trim(), value.trim());
        if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
            return Err(format!(
                "line {number}: expected key = \"value\", found no plain key before the '='"
            ));
        }
        if value.starts_with(['[', '{']) {
            depth = balance(value);
            continue;
        }
        let value = scalar(value).ok_or_else(|| {
            format!("line {number}: the value of {key} is not a closed \"text\", a number, true or false")
        })?;
        values.push((key.to_string(), value));
    }
    if depth > 0 {
        return Err("a list or map is not closed at the end of the file".to_string());
    }
    Ok(Tfvars(values))
}

fn balance(line: &str) -> i32 {
    let mut quoted = false;
    let mut escaped = false;
    let mut depth = 0;
    for c in line.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '[' | '{' if !quoted => depth += 1,
            ']' | '}' if !quoted => depth -= 1,
            '#' if !quoted => break,
            _ => {}
        }
    }
    depth
}

fn scalar(text: &str) -> Option<String> {
    let Some(rest) = text.strip_prefix('"') else {
        let word = text.split(['#', ' ', '\t']).next()?;
        let plain = word.parse::<f64>().is_ok() || matches!(word, "true" | "false" | "null");
        return plain.then(|| word.to_string());
    };
    let mut value = String::new();
    let mut chars = rest.chars();
    loop {
        match chars.next()? {
            '"' => break,
            '\\' => value.push(match chars.next()? {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                c @ ('"' | '\\') => c,
                _ => return None,
            }),
            // `$${` and `%%{` are terraform's escapes for `${` and `%{`.
            c @ ('$' | '%') => {
                value.push(c);
                let mut ahead = chars.clone();
                if ahead.next() == Some(c) && ahead.next() == Some('{') {
                    chars.next();
                }
            }
            c => value.push(c),
        }
    }
    let tail = chars.as_str().trim();
    (tail.is_empty() || tail.starts_with('#') || tail.starts_with("//")).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_ours_are_read_and_those_of_others_passed_over() {
        let text = "# made by the installer\nproxmox_node = \"pve\"\nproxmox_storage=\"local-lvm\" # disks\n\
            vmid_start = 100\nlist = [\n  \"a = b\",\n]\nmap = { a = \"]\" }\nodd = \"a\\\"b $${x} $5\"\n";
        let values = parse(text).unwrap();
        assert_eq!(values.get("proxmox_node"), Some("pve"));
        assert_eq!(values.get("proxmox_storage"), Some("local-lvm"));
        assert_eq!(values.get("vmid_start"), Some("100"));
        assert_eq!(values.get("odd"), Some("a\"b ${x} $5"));
        assert_eq!(values.get("list"), None);
    }

    #[test]
    fn setting_keys_leaves_the_rest_alone() {
        let text = "# hand-made\nproxmox_node = \"old\" # here\nlist = [\n  \"proxmox_node = 1\",\n]\nproxmox_node=\"twice\"";
        let keys = [
            ("proxmox_node", Setting::Text("pve".into())),
            ("vmid_start", Setting::Number(100)),
            ("odd", Setting::Text("a\"b\\ ${x} %{y} $5".into())),
        ];
        let new = set(text, &keys).unwrap();
        let expected = "# hand-made\nproxmox_node = \"pve\"\nlist = [\n  \"proxmox_node = 1\",\n]\nvmid_start = 100\n\
            odd = \"a\\\"b\\\\ $${x} %%{y} $5\"\n";
        assert_eq!(new, expected);
        assert_eq!(parse(&new).unwrap().get("odd"), Some("a\"b\\ ${x} %{y} $5"));
        assert_eq!(set(&new, &keys).unwrap(), new);
        assert!(set("x = \"", &keys).is_err());
        assert!(set("vmid_start = [\n1\n]\n", &keys).is_err());
    }

    #[test]
    fn h17_h30_errors_name_the_line_and_not_the_secret() {
        for bad in [
            "proxmox_api_token = \"a@b!c=s3cret",
            "proxmox_api_token = s3cret",
            "s3cret",
            "a b = \"s3cret\"",
            "x = [\n\"s3cret\"",
        ] {
            let error = parse(bad).unwrap_err();
            assert!(!error.contains("s3cret"), "{error}");
        }
        assert!(parse("\n\nx = \"").unwrap_err().contains("line 3"));
    }
}
