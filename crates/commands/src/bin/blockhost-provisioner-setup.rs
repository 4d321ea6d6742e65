//! `blockhost-provisioner-setup`

fn main() -> std::process::ExitCode {
    commands::setup::main()
}
