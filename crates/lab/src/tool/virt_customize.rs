//! What stands in for `virt-customize`: it looks at its arguments as the real one does, and leaves a mark in the image
//! instead of starting a machine. Fault points: `virt-customize.run`.

use std::io::Write as _;
use std::path::Path;

use super::ToolOutput;

/// What is appended to an image that was customised, with the acts in their order.
pub(crate) const MARK: &str = "CUSTOMISED BY THE LAB";

/// Runs it.
pub(crate) fn run(argv: &[String], cwd: &str) -> ToolOutput {
    match customise(argv, Path::new(cwd)) {
        Ok(steps) => ToolOutput::text(steps),
        Err(why) => ToolOutput::failure(1, format!("virt-customize: error: {why}\n")),
    }
}

fn customise(argv: &[String], cwd: &Path) -> Result<String, String> {
    let mut image = None;
    let mut steps = "[   0.0] Examining the guest ...\n".to_owned();
    let mut acts = String::new();
    let mut words = argv.iter();
    while let Some(option) = words.next() {
        if option == "--no-logfile" {
            continue;
        }
        let value = words.next().ok_or_else(|| format!("option '{option}' needs an argument"))?;
        let here = |file: &str| {
            let path = cwd.join(file);
            if path.is_file() {
                Ok(path)
            } else {
                Err(format!("{}: No such file or directory", path.display()))
            }
        };
        match option.as_str() {
            "--format" => {}
            "-a" => image = Some(here(value)?),
            "--mkdir" => steps.push_str(&format!("[   1.0] Making directory: {value}\n")),
            "--upload" => {
                let (file, to) = value.split_once(':').ok_or("expected FILE:DEST")?;
                here(file)?;
                steps.push_str(&format!("[   2.0] Uploading: {file} to {to}\n"));
            }
            "--run" => {
                here(value)?;
                steps.push_str(&format!("[   3.0] Running: {value}\n"));
            }
            other => return Err(format!("unrecognized option '{other}'")),
        }
        acts.push_str(&format!("{option} {value}\n"));
    }
    let image = image.ok_or("you must give either '-a' or '-d' options")?;
    let mut file =
        std::fs::OpenOptions::new().append(true).open(&image).map_err(|error| error.to_string())?;
    write!(file, "{MARK}\n{acts}").map_err(|error| error.to_string())?;
    steps.push_str("[   4.0] Finishing off\n");
    Ok(steps)
}
