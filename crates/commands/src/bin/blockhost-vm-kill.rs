//! `blockhost-vm-kill`

fn main() -> std::process::ExitCode {
    commands::kill::main()
}
