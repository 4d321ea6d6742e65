//! `blockhost-vm-start`

fn main() -> std::process::ExitCode {
    commands::start::main()
}
