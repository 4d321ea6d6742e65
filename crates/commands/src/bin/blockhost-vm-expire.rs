//! `blockhost-vm-expire`

fn main() -> std::process::ExitCode {
    commands::expire::main()
}
