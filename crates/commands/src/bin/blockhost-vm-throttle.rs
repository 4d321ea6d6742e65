//! `blockhost-vm-throttle`

fn main() -> std::process::ExitCode {
    commands::throttle::main()
}
