//! `blockhost-vm-guest-exec`

fn main() -> std::process::ExitCode {
    commands::guest_exec::main()
}
