//! `blockhost-vm-stop`

fn main() -> std::process::ExitCode {
    commands::stop::main()
}
