//! `blockhost-vm-show`

fn main() -> std::process::ExitCode {
    commands::show::main()
}
