//! `blockhost-vm-list`
use commands::list::ListCommand;

fn main() -> std::process::ExitCode {
    let command: ListCommand = commands::parse();
    commands::run(&command.common.clone(), command.mock, |host| command.run(host))
}
