//! `blockhost-vm-gc`
use commands::gc::GcCommand;

fn main() -> std::process::ExitCode {
    let command: GcCommand = commands::parse();
    commands::run(&command.common.clone(), command.mock, |host| command.run(host))
}
