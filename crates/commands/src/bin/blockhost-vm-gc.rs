//! `blockhost-vm-gc`

fn main() -> std::process::ExitCode {
    commands::gc::main()
}
