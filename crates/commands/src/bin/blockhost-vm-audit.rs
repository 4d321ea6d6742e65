//! `blockhost-vm-audit`

fn main() -> std::process::ExitCode {
    commands::audit::main()
}
