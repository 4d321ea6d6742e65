//! `blockhost-vm-list`

fn main() -> std::process::ExitCode {
    commands::list::main()
}
