//! `blockhost-vm-guest-exec`: its flags and what it prints.

use crate::OneVm;
use clap::Parser;
use provisioner::operation::audited::audited_guest_command;
use provisioner::operation::guest_exec::guest_exec;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

/// Exit code when the command ran into its time limit, as in timeout(1).
const TIMED_OUT: u8 = 124;

/// Run a command in a VM's guest; its output and exit code are passed on
#[derive(Debug, Parser)]
#[command(
    name = "blockhost-vm-guest-exec",
    version,
    styles = crate::STYLES,
    after_help = "The arguments are joined with spaces and run by /bin/sh -c in the guest. Exit code 124: the command exceeded --timeout and \
        may still be running in the guest; 128 + N: signal N ended it; 1: it could not be run.\n\n\
        Examples:\n  blockhost-vm-guest-exec web-1 uptime\n  blockhost-vm-guest-exec web-1 --timeout 60 -- 'apt-get update && apt-get -y upgrade'"
)]
pub struct GuestExecCommand {
    #[command(flatten)]
    vm: OneVm,
    /// Seconds the command may take
    #[arg(long, value_name = "S", default_value_t = 25, allow_negative_numbers = true, value_parser = |text: &str| crate::number::<u64>(text, 1..=3600, "whole seconds, e.g. 60"))]
    timeout: u64,
    /// The command to run
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true)]
    command: Vec<String>,
}

/// The command's entry point.
pub fn main() -> ExitCode {
    let command: GuestExecCommand = crate::parse();
    let name = &command.vm.name;
    let result = crate::prepare(&command.vm.common, command.vm.mock, &[]).and_then(|host| {
        anyhow::ensure!(!command.vm.mock, "VM {name}: a mock VM has no guest to run commands in");
        let ctx = crate::open(&host, &command.vm)?;
        let limit = Duration::from_secs(command.timeout);
        let text = command.command.join(" ");
        audited_guest_command(&ctx, name, || guest_exec(&ctx, name, &text, limit))
    });
    let result = crate::about(name, result);
    match result {
        Ok(Some(ended)) => {
            // If the reader has gone away, that is its own problem; the exit code is what counts.
            let _ = std::io::stdout().write_all(&ended.stdout);
            let _ = std::io::stderr().write_all(&ended.stderr);
            if ended.truncated {
                crate::warn(&format!("VM {name}: the command's output was too long and is cut"));
            }
            ExitCode::from(ended.exit_code)
        }
        Ok(None) => {
            crate::complain(&format!(
                "VM {name}: the command did not finish within {} s and may still be running in the guest; to wait longer, use --timeout",
                command.timeout
            ));
            ExitCode::from(TIMED_OUT)
        }
        Err(error) => {
            crate::complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
