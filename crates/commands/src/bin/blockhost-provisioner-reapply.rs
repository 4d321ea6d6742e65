//! `blockhost-provisioner-reapply`

fn main() -> std::process::ExitCode {
    commands::reapply::main()
}
