//! `blockhost-build-template`
use commands::build_template::BuildTemplateCommand;

fn main() -> std::process::ExitCode {
    let command: BuildTemplateCommand = commands::parse();
    commands::run_as_root(&command.common.clone(), |host| command.run(host))
}
