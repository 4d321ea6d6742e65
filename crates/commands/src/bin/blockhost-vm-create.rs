//! `blockhost-vm-create`

fn main() -> std::process::ExitCode {
    commands::create::main()
}
