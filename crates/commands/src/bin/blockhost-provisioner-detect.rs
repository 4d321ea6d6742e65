//! `blockhost-provisioner-detect`

fn main() -> std::process::ExitCode {
    commands::detect::main()
}
