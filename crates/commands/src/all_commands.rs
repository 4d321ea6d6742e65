//! The package's single program: every command under its own name, as `build-deb.sh` installs it. The name it is
//! started with decides what it does.

use std::process::ExitCode;

fn main() -> ExitCode {
    let name = std::env::args_os().next().unwrap_or_default();
    match name.to_str().and_then(commands::programs::find) {
        Some(program) => (program.main)(),
        None => {
            commands::complain(&format!(
                "{} is not a command of this package; run it under the name of one, such as blockhost-vm-list",
                name.display()
            ));
            ExitCode::from(2)
        }
    }
}
