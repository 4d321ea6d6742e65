//! `blockhost-vm-update-gecos`

fn main() -> std::process::ExitCode {
    commands::update_gecos::main()
}
