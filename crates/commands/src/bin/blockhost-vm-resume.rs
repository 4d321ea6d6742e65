//! `blockhost-vm-resume`
use clap::Parser;
use commands::OneVm;
use provisioner::operation::audited::audited;
use provisioner::operation::resume::resume;
use provisioner::value::timestamp;

/// Bring a suspended VM back: running, active, and with what was paid for
#[derive(Debug, Parser)]
#[command(
    name = "blockhost-vm-resume",
    version,
    styles = commands::STYLES,
    after_help = "An expiry in the future is kept; one in the past becomes default_expiry_days from now. A VM that runs already is fine.\n\n\
        Examples:\n  blockhost-vm-resume web-1\n  blockhost-vm-resume web-1 --extend-days 60\n  blockhost-vm-resume web-1 --dry-run"
)]
struct Command {
    #[command(flatten)]
    vm: OneVm,
    /// The VM expires N days from now
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=36500))]
    extend_days: Option<u32>,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

fn main() -> std::process::ExitCode {
    let command: Command = commands::parse();
    commands::run(&command.vm.common, command.vm.mock, |host| {
        let name = &command.vm.name;
        let ctx = commands::open(host, &command.vm)?;
        let act = || resume(&ctx, name, command.extend_days, command.dry_run);
        let done = if command.dry_run { act()? } else { audited(&ctx, "resume", name, act)? };
        for warning in &done.warnings {
            commands::warn(&format!("VM {name}: {warning}"));
        }
        let until = done.expires_at.map_or_else(
            || "no readable expiry".to_string(),
            |end| format!("expires at {}", timestamp::to_text(end)),
        );
        let what = match (command.dry_run, done.was_suspended, done.was_running) {
            (true, true, _) => "would be started and active again",
            (true, false, _) => "is active; it would be started if it is off",
            (false, true, _) => "is active again",
            (false, false, true) => "is already active",
            (false, false, false) => "was off and runs again",
        };
        commands::say(&format!("VM {name} {what}; {until}"));
        Ok(())
    })
}
