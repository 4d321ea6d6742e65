//! `blockhost-vm-status`

fn main() -> std::process::ExitCode {
    commands::status::main()
}
