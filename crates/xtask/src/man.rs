//! `cargo xtask man`: man pages and completions in `debian/man` and `debian/completions`, which the package installs.
//!
//! Flags come from the definitions that the commands parse with, descriptions from the pages of `doc/`, which the documents
//! test compares with the code. What is made lies in the tree, so that a build of the package needs none of this; a test
//! compares.

use crate::roff;
use crate::sh::root;
use anyhow::Context as _;
use clap_complete::Shell;
use commands::programs::{PROGRAMS, Program};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

/// The package, as the foot of a page names it.
const SOURCE: &str = concat!("blockhost-provisioner-proxmox ", env!("CARGO_PKG_VERSION"));
const DIRECTORIES: [&str; 2] = ["debian/man", "debian/completions"];

/// Writes all files, and removes what is none of them.
pub fn write() -> anyhow::Result<bool> {
    for directory in DIRECTORIES {
        let _ = std::fs::remove_dir_all(root().join(directory));
    }
    for (path, text) in made()? {
        let path = root().join(path);
        std::fs::create_dir_all(path.parent().context("a file without a directory")?)?;
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    Ok(true)
}

/// All files, by their paths from the root.
fn made() -> anyhow::Result<BTreeMap<PathBuf, String>> {
    let doc = |name: &str| std::fs::read_to_string(root().join("doc").join(name)).context(name.to_string());
    let commands = doc("commands.md")?;
    let mut files = BTreeMap::new();
    let mut man = |name: String, text: String| files.insert(PathBuf::from("debian/man").join(name), text);
    for program in &PROGRAMS {
        man(format!("{}.1", program.name), command_page(program, &commands)?);
    }
    let settings = "configuration files of the BlockHost provisioner";
    man(
        "blockhost-db.yaml.5".into(),
        other_page("blockhost-db.yaml", 5, settings, &doc("configuration.md")?),
    );
    let on_disk = "files that the BlockHost provisioner reads and leaves on disk";
    man("blockhost-files.5".into(), other_page("blockhost-files", 5, on_disk, &doc("files.md")?));
    man("blockhost-provisioner.7".into(), overview(&commands)?);
    for program in &PROGRAMS {
        for (path, text) in completions(program)? {
            files.insert(PathBuf::from("debian/completions").join(path), text);
        }
    }
    Ok(files)
}

/// A page's part below a heading, up to the next one.
fn section<'p>(page: &'p str, title: &str) -> anyhow::Result<&'p str> {
    let behind = page.split_once(&format!("\n## {title}\n"));
    let (_, behind) = behind.with_context(|| format!("doc/commands.md has no section {title}"))?;
    Ok(behind.split("\n## ").next().unwrap_or(behind))
}

/// `.TH` with the package and no date: a page is as old as its package.
fn title(name: &str, number: u8) -> String {
    // Left: words like long flags leave lines that cannot be filled to both margins.
    let name = name.to_uppercase().replace('-', "\\-");
    format!(".TH {name} {number} \"\" \"{SOURCE}\" \"BlockHost\"\n.ad l\n")
}

/// Without the tables of flags: the options have a section of their own, from the definitions.
fn without_flags(page: &str) -> String {
    let mut inside = false;
    let lines = page.lines().filter(|line| {
        inside = line.starts_with("| flag |") || inside && line.starts_with('|');
        !inside
    });
    lines.map(|line| format!("{line}\n")).collect()
}

fn command_page(program: &Program, commands: &str) -> anyhow::Result<String> {
    let definition = (program.definition)().disable_help_subcommand(true);
    let help = definition.get_after_help().map(ToString::to_string).unwrap_or_default();
    let man = clap_mangen::Man::new(definition.clone());
    let mut parts = Vec::new();
    man.render_name_section(&mut parts)?;
    man.render_synopsis_section(&mut parts)?;
    let mut text = title(program.name, 1) + &String::from_utf8(parts)?;
    // The usage is in the synopsis already.
    let described = section(commands, program.name)?.trim_start();
    let described = match described.split_once("\n\n") {
        Some((usage, rest)) if usage.starts_with('`') && usage.ends_with('`') => rest,
        _ => described,
    };
    let described = without_flags(described);
    text += ".SH DESCRIPTION\n";
    text += &roff::page(&described);
    let mut parts = Vec::new();
    man.render_options_section(&mut parts)?;
    if definition.get_subcommands().any(|one| !one.is_hide_set()) {
        parts.extend_from_slice(b".SH STEPS\n");
        for step in definition.get_subcommands().filter(|one| !one.is_hide_set()) {
            let about = step.get_about().map(ToString::to_string).unwrap_or_default();
            let row = format!("| step | what |\n|---|---|\n| {} | {about} |\n", step.get_name());
            parts.extend_from_slice(roff::page(&row).as_bytes());
        }
    }
    text += &String::from_utf8(parts)?;
    if let Some((_, examples)) = help.split_once("Example") {
        let (_, examples) = examples.split_once('\n').unwrap_or_default();
        text += ".SH EXAMPLES\n";
        text += &roff::page(&format!("```\n{}\n```\n", examples.trim_end()));
    }
    text += ".SH SEE ALSO\n.BR blockhost\\-provisioner (7),\n.BR blockhost\\-db.yaml (5),\n.BR blockhost\\-files (5)\n";
    Ok(text)
}

/// A page of section 5 or 7 from a page of `doc/`.
fn other_page(name: &str, number: u8, about: &str, page: &str) -> String {
    let body = page.split_once('\n').map_or(page, |(_, body)| body);
    format!(
        "{}.SH NAME\n{} \\- {about}\n.SH DESCRIPTION\n{}.SH SEE ALSO\n.BR blockhost\\-provisioner (7)\n",
        title(name, number),
        name.replace('-', "\\-"),
        roff::page(body)
    )
}

fn overview(commands: &str) -> anyhow::Result<String> {
    let mut text = String::from(
        "Creates, runs and destroys virtual machines on a Proxmox VE node, for the engines, the admin panel and the timers of \
         BlockHost. Every command can be killed at any moment and run again. A VM is recognised by an SMBIOS UUID that was made \
         for it, never by its number. Nothing is released while the VM that uses it may still exist.\n\n## Commands\n\n\
         | command | what |\n|---|---|\n",
    );
    for program in &PROGRAMS {
        let definition = (program.definition)();
        let about = definition.get_about().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(text, "| {}(1) | {about} |", program.name);
    }
    text += "\n## What all commands have in common\n";
    text += section(commands, "What all commands have in common")?;
    text += "\n## Units\n\n\
        - `blockhost-gc.timer` runs `blockhost-vm-gc --execute` every night at 02:00, within half an hour.\n\
        - `blockhost-reapply.service` runs `blockhost-provisioner-reapply` after the node has booted.\n\n\
        ## First steps\n\n\
        Run the steps of `blockhost-provisioner-setup` in the order token, terraform, db_config, bridge, template. \
        `blockhost-vm-create web-1 --no-web3` then shows what it would create, `blockhost-vm-list --live` what there is. \
        When something is wrong, see `/usr/share/doc/blockhost-provisioner-proxmox/doc/recovery.md`; upgrades and the way back \
        are in `upgrading.md` beside it.\n";
    let about = "virtual machines for BlockHost on a Proxmox VE node";
    let page = other_page("blockhost-provisioner", 7, about, &format!("\n{text}"));
    let also = ".BR blockhost\\-db.yaml (5),\n.BR blockhost\\-files (5)\n";
    Ok(page.replace(".BR blockhost\\-provisioner (7)\n", also))
}

/// Whether the first argument is the name of a VM that exists.
fn takes_a_vm(program: &Program) -> bool {
    program.name != "blockhost-vm-create"
        && (program.definition)().get_positionals().next().is_some_and(|argument| argument.get_id() == "name")
}

/// Names of VMs for a completion. The list exits 0 whatever happens, and prints only its header where the database cannot be
/// read, as by most users. Shells expand words that they are given, so only what can be a name is passed on.
const NAMES: &str = "blockhost-vm-list 2>/dev/null | awk -F '\\t' 'NR > 1 && $2 != \"destroyed\" && $1 ~ /^[A-Za-z0-9][A-Za-z0-9.-]*$/ { print $1 }'";

/// The completions of a command: paths below `debian/completions`, and texts.
fn completions(program: &Program) -> anyhow::Result<Vec<(PathBuf, String)>> {
    let name = program.name;
    let generated = |shell: Shell| -> anyhow::Result<String> {
        let mut out = Vec::new();
        // The name of the program in the usage is what the scripts complete.
        clap_complete::generate(shell, &mut (program.definition)(), name, &mut out);
        Ok(String::from_utf8(out)?)
    };
    let (mut bash, mut zsh, mut fish) =
        (generated(Shell::Bash)?, generated(Shell::Zsh)?, generated(Shell::Fish)?);
    if takes_a_vm(program) {
        let function = format!("_{}_with_vms", name.replace('-', "_"));
        let _ = write!(
            bash,
            "\n# VM names, where neither an option nor an option's value stands.\n{function}() {{\n    {generated} \"$@\"\n    \
             local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}}\n    \
             if [[ $cur != -* && ( $COMP_CWORD -eq 1 || $prev != -* || $prev =~ ^({flags})$ ) ]]; then\n        \
             COMPREPLY=($(compgen -W \"$({NAMES})\" -- \"$cur\"))\n    fi\n}}\ncomplete -F {function} {name}\n",
            generated = bash_function(name),
            flags = plain_flags(program).join("|"),
        );
        let value = ":_default'";
        let at = zsh
            .rfind(value)
            .with_context(|| format!("{name}: zsh's completion has no positional argument"))?;
        let at = zsh[..at]
            .find("'::name")
            .or_else(|| zsh.find("':name"))
            .map_or(at, |begin| begin + zsh[begin..].find(value).unwrap_or_default());
        zsh.replace_range(at..at + value.len(), ":_blockhost_vms'");
        let function = format!(
            "(( $+functions[_blockhost_vms] )) ||\n_blockhost_vms() {{\n    local -a vms\n    vms=(${{(f)\"$({NAMES})\"}})\n    \
             compadd -a vms\n}}\n"
        );
        let (head, rest) = zsh.split_once('\n').context("zsh's completion is empty")?;
        zsh = format!("{head}\n\n{function}{rest}");
        let _ = writeln!(
            fish,
            "complete -c {name} -n \"not string match -q -- '-*' (commandline -ct)\" -f -a '({})'",
            NAMES.replace('\\', "\\\\").replace('\'', "\\'")
        );
    }
    Ok(vec![
        (PathBuf::from("bash").join(name), bash),
        (PathBuf::from("zsh").join(format!("_{name}")), zsh),
        (PathBuf::from("fish").join(format!("{name}.fish")), fish),
    ])
}

/// What clap calls the function that completes a command in bash.
fn bash_function(name: &str) -> String {
    format!("_{}", name.replace('-', "__"))
}

/// The flags of a command that take no value: after one, a name may come.
fn plain_flags(program: &Program) -> Vec<String> {
    let mut definition = (program.definition)();
    definition.build();
    let flags = definition.get_opts().map(|option| option.get_id().clone()).collect::<Vec<_>>();
    let plain = definition.get_arguments().filter(|a| !a.is_positional() && !flags.contains(a.get_id()));
    plain
        .flat_map(|argument| {
            let long = argument.get_long().map(|long| format!("--{long}"));
            let short = argument.get_short().map(|short| format!("-{short}"));
            long.into_iter().chain(short).collect::<Vec<_>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_pages_and_completions_in_the_tree_are_those_of_the_definitions() {
        let made = made().unwrap();
        for (path, text) in &made {
            let there = std::fs::read_to_string(root().join(path)).unwrap_or_default();
            assert!(there == *text, "{} is not up to date: cargo xtask man", path.display());
        }
        let mut there = BTreeSet::new();
        for directory in
            ["debian/man", "debian/completions/bash", "debian/completions/zsh", "debian/completions/fish"]
        {
            for file in std::fs::read_dir(root().join(directory)).unwrap() {
                there.insert(PathBuf::from(directory).join(file.unwrap().file_name()));
            }
        }
        assert_eq!(there, made.into_keys().collect::<BTreeSet<_>>());
    }

    #[test]
    fn a_command_for_one_vm_completes_its_name_and_no_other_does() {
        for program in &PROGRAMS {
            let all = completions(program).unwrap();
            for (path, text) in all {
                let names = text.contains("blockhost-vm-list 2>/dev/null");
                assert_eq!(names, takes_a_vm(program), "{}", path.display());
                // The function that bash's wraps is the one that clap made.
                if let Some((_, call)) = text.split_once("_with_vms() {\n    ") {
                    let called = call.split(' ').next().unwrap();
                    assert!(text.contains(&format!("{called}() {{")), "{called}");
                }
            }
        }
        assert!(PROGRAMS.iter().filter(|program| takes_a_vm(program)).count() >= 9);
    }
}
