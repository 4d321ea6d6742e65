//! `blockhost-provisioner-import`

fn main() -> std::process::ExitCode {
    commands::import::main()
}
