//! `blockhost-vm-protect`

fn main() -> std::process::ExitCode {
    commands::protect::main()
}
