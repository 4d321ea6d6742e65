//! `blockhost-vm-metrics`

fn main() -> std::process::ExitCode {
    commands::metrics::main()
}
