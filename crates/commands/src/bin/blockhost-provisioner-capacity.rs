//! `blockhost-provisioner-capacity`

fn main() -> std::process::ExitCode {
    commands::capacity::main()
}
