//! One table of all executables in the package.
//!
//! A development build has one program per command (`src/bin`), which is quicker to rebuild after a change. The package
//! has a single program (`src/all_commands.rs`) under all names, so that the code they share, which is nearly all of
//! it, exists only once. Man pages and completions are generated from this table too.

use clap::CommandFactory;
use std::process::ExitCode;

/// An executable.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// Its name in `/usr/bin`.
    pub name: &'static str,
    /// Runs it with the arguments, standard streams and environment of the process.
    pub main: fn() -> ExitCode,
    /// Its flags and help.
    pub definition: fn() -> clap::Command,
}

/// All executables, by name.
pub const PROGRAMS: [Program; 25] = [
    of::<crate::build_template::BuildTemplateCommand>(
        "blockhost-build-template",
        crate::build_template::main,
    ),
    of::<crate::capacity::CapacityCommand>("blockhost-provisioner-capacity", crate::capacity::main),
    of::<crate::detect::DetectCommand>("blockhost-provisioner-detect", crate::detect::main),
    of::<crate::doctor::DoctorCommand>("blockhost-provisioner-doctor", crate::doctor::main),
    of::<crate::guard::GuardCommand>("blockhost-provisioner-guard", crate::guard::main),
    of::<crate::import::ImportCommand>("blockhost-provisioner-import", crate::import::main),
    of::<crate::reapply::ReapplyCommand>("blockhost-provisioner-reapply", crate::reapply::main),
    of::<crate::setup::SetupCommand>("blockhost-provisioner-setup", crate::setup::main),
    of::<crate::audit::AuditCommand>("blockhost-vm-audit", crate::audit::main),
    of::<crate::create::CreateCommand>("blockhost-vm-create", crate::create::main),
    of::<crate::destroy::DestroyCommand>("blockhost-vm-destroy", crate::destroy::main),
    of::<crate::expire::ExpireCommand>("blockhost-vm-expire", crate::expire::main),
    of::<crate::gc::GcCommand>("blockhost-vm-gc", crate::gc::main),
    of::<crate::guest_exec::GuestExecCommand>("blockhost-vm-guest-exec", crate::guest_exec::main),
    of::<crate::kill::KillCommand>("blockhost-vm-kill", crate::kill::main),
    of::<crate::list::ListCommand>("blockhost-vm-list", crate::list::main),
    of::<crate::metrics::MetricsCommand>("blockhost-vm-metrics", crate::metrics::main),
    of::<crate::protect::ProtectCommand>("blockhost-vm-protect", crate::protect::main),
    of::<crate::resume::ResumeCommand>("blockhost-vm-resume", crate::resume::main),
    of::<crate::show::ShowCommand>("blockhost-vm-show", crate::show::main),
    of::<crate::start::StartCommand>("blockhost-vm-start", crate::start::main),
    of::<crate::status::StatusCommand>("blockhost-vm-status", crate::status::main),
    of::<crate::stop::StopCommand>("blockhost-vm-stop", crate::stop::main),
    of::<crate::throttle::ThrottleCommand>("blockhost-vm-throttle", crate::throttle::main),
    of::<crate::update_gecos::UpdateGecosCommand>("blockhost-vm-update-gecos", crate::update_gecos::main),
];

const fn of<T: CommandFactory>(name: &'static str, main: fn() -> ExitCode) -> Program {
    Program { name, main, definition: T::command }
}

/// Finds the program of this name; a leading path is ignored.
pub fn find(name: &str) -> Option<&'static Program> {
    let name = name.rsplit('/').next()?;
    PROGRAMS.iter().find(|program| program.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_table_has_exactly_the_programs_of_the_workspace() {
        let bin = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin");
        let built: BTreeSet<String> = std::fs::read_dir(bin)
            .unwrap()
            .map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_string())
            .collect();
        let listed: BTreeSet<String> = PROGRAMS.iter().map(|program| program.name.to_string()).collect();
        assert_eq!(listed, built);
        assert!(PROGRAMS.is_sorted_by_key(|program| program.name));
        for program in &PROGRAMS {
            assert_eq!((program.definition)().get_name(), program.name);
        }
    }

    #[test]
    fn a_program_is_found_by_the_name_it_was_started_with() {
        for name in ["blockhost-vm-list", "/usr/bin/blockhost-vm-list", "./blockhost-vm-list"] {
            assert_eq!(find(name).map(|program| program.name), Some("blockhost-vm-list"));
        }
        for name in ["", "/", "blockhost-vm-list/", "blockhost-vm", "all-commands"] {
            assert!(find(name).is_none(), "{name:?}");
        }
    }
}
