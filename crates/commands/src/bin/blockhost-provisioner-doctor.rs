//! `blockhost-provisioner-doctor`

fn main() -> std::process::ExitCode {
    commands::doctor::main()
}
