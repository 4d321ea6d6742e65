//! `blockhost-vm-create`
use commands::create::CreateCommand;

fn main() -> std::process::ExitCode {
    let command: CreateCommand = commands::parse();
    commands::run(&command.common.clone(), |host| command.run(host))
}
