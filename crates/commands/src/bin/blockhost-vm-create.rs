//! `blockhost-vm-create`
use commands::create::CreateCommand;

fn main() -> std::process::ExitCode {
    let command: CreateCommand = commands::parse();
    let host = commands::prepare(&command.common, command.mock, command.files());
    commands::end(host.and_then(|host| command.run(&host)))
}
