//! `blockhost-vm-destroy`

fn main() -> std::process::ExitCode {
    commands::destroy::main()
}
