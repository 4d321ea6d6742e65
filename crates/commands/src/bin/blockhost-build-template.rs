//! `blockhost-build-template`

fn main() -> std::process::ExitCode {
    commands::build_template::main()
}
