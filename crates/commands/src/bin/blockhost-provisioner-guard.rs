//! `blockhost-provisioner-guard`

fn main() -> std::process::ExitCode {
    commands::guard::main()
}
