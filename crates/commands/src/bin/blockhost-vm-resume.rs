//! `blockhost-vm-resume`

fn main() -> std::process::ExitCode {
    commands::resume::main()
}
