//! What the commands' thin `main` functions share: flags, exit codes, what goes to stdout and what to stderr
//! (`facts/contract/commands.md`).

pub mod audit;
pub mod build_template;
pub mod capacity;
pub mod create;
pub mod destroy;
pub mod detect;
pub mod doctor;
pub mod expire;
pub mod expiry;
pub mod gc;
pub mod guard;
pub mod guest_exec;
pub mod import;
pub mod kill;
pub mod list;
pub mod metrics;
pub mod programs;
pub mod protect;
pub mod reapply;
pub mod resume;
pub mod setup;
pub mod show;
pub mod spaced_json;
pub mod start;
pub mod status;
pub mod step_line;
pub mod stop;
pub mod terminal;
pub mod throttle;
pub mod update_gecos;

use anyhow::Context as _;
use clap::builder::styling::Styles;
use clap::{Args, Parser, ValueEnum};
use provisioner::host::Host;
use provisioner::host::interrupt::Interrupt;
use provisioner::host::progress::TARGET;
use provisioner::host::replace_file;
use provisioner::host::rights;
use provisioner::host::run_process;
use provisioner::operation::{Context, is_wrong_usage, mock};
use provisioner::store::settings::Settings;
use provisioner::value::vm_name::VmName;
use std::io::{self, IsTerminal, Write};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

/// Help without colours: it is read on consoles and in logs.
pub const STYLES: Styles = Styles::plain();

/// Flags of every command.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Print more to stderr; -vv prints everything (RUST_LOG for fine control)
    #[arg(short, long, action = clap::ArgAction::Count, global = true, display_order = 910)]
    pub verbose: u8,
    /// Print only errors to stderr
    #[arg(short, long, global = true, conflicts_with = "verbose", display_order = 911)]
    pub quiet: bool,
}

/// `--format` of commands that print either text or one JSON object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TextOrJson {
    /// Text for people
    Text,
    /// One JSON object
    Json,
}

/// Flags of a command for one VM.
#[derive(Debug, Clone, Args)]
pub struct OneVm {
    /// The VM's name
    #[arg(value_name = "NAME", value_parser = parse_name)]
    pub name: VmName,
    /// Use the mock database (accounting/mock-db.json or $BLOCKHOST_MOCK_DB); the host is not touched
    #[arg(long, display_order = 900)]
    pub mock: bool,
    /// Flags of every command.
    #[command(flatten)]
    pub common: Common,
}

/// Flags of a command for one VM or several.
#[derive(Debug, Clone, Args)]
pub struct SomeVms {
    /// The VM's name; several are handled one after the other
    #[arg(value_name = "NAME", value_parser = parse_name, required = true, num_args = 1..)]
    pub name: Vec<VmName>,
    /// Use the mock database (accounting/mock-db.json or $BLOCKHOST_MOCK_DB); the host is not touched
    #[arg(long, display_order = 900)]
    pub mock: bool,
    /// Flags of every command.
    #[command(flatten)]
    pub common: Common,
}

impl SomeVms {
    /// The names, each once.
    pub fn names(&self) -> Vec<&VmName> {
        let mut names: Vec<&VmName> = Vec::new();
        for name in &self.name {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// `web-1, web-2`, for a question.
    pub fn in_words(&self) -> String {
        self.names().iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

/// Parses a VM name; clap shows the reason of a refusal as its own error.
pub(crate) fn parse_name(text: &str) -> Result<VmName, String> {
    VmName::parse(text).map_err(|refused| refused.why)
}

/// Parses an option's whole number, for clap's `value_parser`; `example` is what the error suggests instead of input
/// such as `2G`.
pub fn number<T: TryFrom<u64>>(text: &str, range: RangeInclusive<u64>, example: &str) -> Result<T, String> {
    let (low, high) = (range.start(), range.end());
    // A number that is negative or too long for the type is still a number: the error is about its size.
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("give {example}"));
    }
    let number = text.parse().ok().filter(|n| range.contains(n)).and_then(|n| T::try_from(n).ok());
    number.ok_or_else(|| format!("must be {low} to {high}"))
}

/// Parses the command line; on wrong usage clap ends the process with exit code 2.
pub fn parse<T: Parser>() -> T {
    T::try_parse().unwrap_or_else(|refused| {
        if !refused.use_stderr() {
            refused.exit();
        }
        // The error repeats the refused argument, whose control characters a terminal would obey.
        let text = printable(&refused.to_string());
        clap::Error::raw(refused.kind(), text.strip_prefix("error: ").unwrap_or(&text)).exit()
    })
}

/// Escapes control characters and those that change the text direction; line breaks and tabs stay.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if terminal::is_command(c) && c != '\n' && c != '\t' {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Runs a command: sets up logging, signals and the umask, and drops root privileges; an error becomes one line on
/// stderr and exit code 1.
pub fn run(common: &Common, mock: bool, body: impl FnOnce(&Host) -> anyhow::Result<()>) -> ExitCode {
    end(prepare(common, mock, &[]).and_then(|host| body(&host)))
}

/// Runs a command for one VM. Its errors name the VM, because all creates of an engine log to the same journal.
pub fn run_vm(vm: &OneVm, body: impl FnOnce(&Host) -> anyhow::Result<()>) -> ExitCode {
    run(&vm.common, vm.mock, |host| about(&vm.name, body(host)))
}

/// Runs a command for one VM or several, after `first`, whose error keeps all of them as they are. With one it is
/// [`run_vm`]. Of several each has its own outcome: a failure is told and does not keep the others, but for a signal, after
/// which no other is begun; the exit code is 1 if any failed.
pub fn run_vms(
    vms: &SomeVms,
    first: impl FnOnce(&Host) -> anyhow::Result<()>,
    body: impl Fn(&Context<'_>, &VmName) -> anyhow::Result<()>,
) -> ExitCode {
    let names = vms.names();
    run(&vms.common, vms.mock, |host| {
        first(host)?;
        let opened = Context::open(host, vms.mock);
        if let [name] = names.as_slice() {
            return about(name, opened.and_then(|ctx| body(&ctx, name)));
        }
        let ctx = opened?;
        let mut failed = 0;
        for name in &names {
            let done = match host.interrupt.check() {
                Ok(()) => about(name, body(&ctx, name)),
                Err(error) => Err(error.context(format!("VM {name}: nothing was done"))),
            };
            if let Err(error) = done {
                complain(&format!("{error:#}"));
                failed += 1;
            }
        }
        anyhow::ensure!(failed == 0, "{failed} of {} VMs could not be handled; see above", names.len());
        Ok(())
    })
}

/// Runs stop or kill for one VM or several; `off` returns whether the VM was on.
pub(crate) fn switch_off(
    vms: &SomeVms,
    off: impl Fn(&Context<'_>, &VmName) -> anyhow::Result<bool>,
) -> ExitCode {
    let nothing_first = |_: &Host| Ok(());
    run_vms(vms, nothing_first, |ctx, name| {
        let was_on = if vms.mock { mock::switch_off(ctx, name)? } else { off(ctx, name)? };
        say(&format!("VM {name} is {}", if was_on { "off" } else { "already off" }));
        Ok(())
    })
}

/// Adds the VM's name to an error unless the error already names it.
pub fn about<T>(name: &VmName, result: anyhow::Result<T>) -> anyhow::Result<T> {
    result.map_err(|error| {
        let words = format!("{error:#}");
        let named = format!("VM {name}");
        let is_named = words.match_indices(&named).any(|(at, _)| {
            let behind = words[at + named.len()..].chars().next();
            behind.is_none_or(|c| !(c.is_ascii_alphanumeric() || c == '-' || c == '.'))
        });
        if is_named { error } else { error.context(named) }
    })
}

/// As [`run`], for a command that stays root when root runs it: it changes the node itself, and leaves work in
/// directories of user blockhost to child processes of that user (hazard H56).
pub fn run_as_root(common: &Common, body: impl FnOnce(&Host) -> anyhow::Result<()>) -> ExitCode {
    end(prepare_as_root(common).and_then(|host| body(&host)))
}

/// Turns an error into one line on stderr and exit code 1, or 2 for wrong arguments.
pub fn end(result: anyhow::Result<()>) -> ExitCode {
    step_line::clear();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{error:#}"));
            if is_wrong_usage(&error) { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

/// Sets up logging, signals and the umask.
pub fn prepare_as_root(common: &Common) -> anyhow::Result<Host> {
    start_logging(common);
    replace_file::set_umask();
    run_process::forbid_core_dumps();
    Ok(Host::from_environment(Interrupt::install().context("cannot listen to signals")?))
}

/// Sets up logging, signals and the umask; root permanently becomes user blockhost (hazard H56) after reading `files`,
/// which the caller named.
pub fn prepare(common: &Common, mock: bool, files: &[PathBuf]) -> anyhow::Result<Host> {
    let mut host = prepare_as_root(common)?;
    if mock {
        // A mock command touches only its database.
        rights::give_up_root_for(&mut host, files)?;
        return Ok(host);
    }
    let places = Settings::read(&host).map(|settings| vec![settings.terraform_dir, settings.db_file]);
    // If the settings cannot be read, whoever needs them reports it.
    rights::give_up_root(&mut host, &places.unwrap_or_default(), files)?;
    Ok(host)
}

/// Opens the settings for one VM's command.
pub fn open<'h>(host: &'h Host, vm: &OneVm) -> anyhow::Result<Context<'h>> {
    Context::open(host, vm.mock)
}

/// Prints an error as one line on stderr, even with `--quiet`.
pub fn complain(text: &str) {
    let mut line = String::with_capacity(text.len() + 16);
    line.push_str("error: ");
    line.push_str(&printable(&text.replace('\n', " ")));
    step_line::clear();
    // If stderr is closed, there is nowhere to report that.
    let _ = writeln!(io::stderr(), "{line}");
}

/// Prints an informational line on stderr, such as done, or nothing to do.
pub fn say(text: &str) {
    tracing::info!("{text}");
}

/// Prints a warning on stderr.
pub fn warn(text: &str) {
    tracing::warn!("{text}");
}

/// Prints the result on stdout and flushes it.
pub fn answer(text: &str) -> anyhow::Result<()> {
    answer_bytes(text.as_bytes())
}

/// As [`answer`], for a result that is already bytes.
pub fn answer_bytes(text: &[u8]) -> anyhow::Result<()> {
    step_line::clear();
    let mut out = io::stdout().lock();
    out.write_all(text).and_then(|()| out.flush()).context("cannot write to stdout")
}

fn start_logging(common: &Common) {
    let level = match (common.quiet, common.verbose) {
        (true, _) => LevelFilter::ERROR,
        (false, 0) => LevelFilter::INFO,
        (false, 1) => LevelFilter::DEBUG,
        (false, _) => LevelFilter::TRACE,
    };
    // RUST_LOG wins. The HTTP libraries stay off in any case: their traces could show a token (H30).
    let filter = match std::env::var("RUST_LOG") {
        Ok(rules) if !rules.is_empty() => EnvFilter::try_new(rules).unwrap_or_else(|_| ours_only(level)),
        _ => ours_only(level),
    };
    let filter = ["ureq=off", "ureq_proto=off", "rustls=off", "provisioner::progress=off"]
        .iter()
        .filter_map(|rule| rule.parse().ok())
        .fold(filter, EnvFilter::add_directive);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(step_line::Stderr)
        .with_ansi(false)
        .event_format(Plain)
        .with_filter(filter);
    let watched = !common.quiet && common.verbose == 0 && step_line::is_watched();
    let step = watched.then(|| step_line::Steps.with_filter(filter_fn(|event| event.target() == TARGET)));
    let _ = tracing_subscriber::registry().with(lines).with(step).try_init();
}

fn ours_only(level: LevelFilter) -> EnvFilter {
    EnvFilter::new(format!("provisioner={level},commands={level}"))
}

/// Log format `warning: text`, without a time: a person reads it at a shell, and journald adds its own.
struct Plain;

impl<S, N> tracing_subscriber::fmt::FormatEvent<S, N> for Plain
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    N: for<'a> tracing_subscriber::fmt::FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        ctx: &tracing_subscriber::fmt::FmtContext<'_, S, N>,
        mut writer: tracing_subscriber::fmt::format::Writer<'_>,
        event: &tracing::Event<'_>,
    ) -> std::fmt::Result {
        use tracing_subscriber::fmt::FormatFields as _;
        match *event.metadata().level() {
            tracing::Level::ERROR => write!(writer, "error: ")?,
            tracing::Level::WARN => write!(writer, "warning: ")?,
            tracing::Level::INFO => {}
            _ => write!(writer, "debug: ")?,
        }
        // One event, one line: a tool's output may contain line breaks.
        let mut text = String::new();
        ctx.format_fields(tracing_subscriber::fmt::format::Writer::new(&mut text), event)?;
        writeln!(writer, "{}", printable(&text.replace('\n', " ")))
    }
}

/// Asks a person at the terminal. Without a terminal it fails with an error that names the flag to use instead.
pub fn confirmed(question: &str, flag: &str) -> anyhow::Result<bool> {
    anyhow::ensure!(io::stdin().is_terminal(), "nobody can be asked: there is no terminal; use {flag}");
    step_line::clear();
    let _ = write!(io::stderr(), "{question} [y/N] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).context("cannot read the answer")?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// Prints an answer for machines. To a terminal, characters that it would obey go as `\u` escapes: it is JSON or a form with
/// the same quoting, in which they stand in texts alone.
pub fn answer_data(text: &[u8]) -> anyhow::Result<()> {
    match on_terminal() {
        true => answer(&terminal::escaped_data(&String::from_utf8_lossy(text))),
        false => answer_bytes(text),
    }
}

/// Whether somebody at a terminal can be asked.
pub fn can_ask() -> bool {
    io::stdin().is_terminal()
}

/// Whether stdout is a terminal.
pub fn on_terminal() -> bool {
    io::stdout().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn a_wrong_number_is_refused_in_plain_words() {
        let memory = |text| number::<u32>(text, 64..=4_194_304, "whole megabytes, e.g. 2048");
        assert_eq!(memory("64"), Ok(64));
        assert_eq!(memory("4194304"), Ok(4_194_304));
        for wrong in ["2G", "", "-", "1.5", "0x40", " 64", "\u{663}"] {
            assert_eq!(memory(wrong), Err("give whole megabytes, e.g. 2048".to_string()), "{wrong:?}");
        }
        for wrong in ["63", "4194305", "-1", "99999999999999999999999"] {
            assert_eq!(memory(wrong), Err("must be 64 to 4194304".to_string()), "{wrong:?}");
        }
    }
}
