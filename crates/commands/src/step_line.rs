//! What a person at a terminal sees of a command that takes long: one line on stderr that says what is being done and for
//! how long, and that changes in place. It is drawn only where stderr is a terminal; in pipes, under systemd, with `-q`
//! and with `-v` (which shows every step as a line of its own) nothing of it is there.
//!
//! Operations say what they are doing as events of the target [`provisioner::host::progress::TARGET`]; everything else that
//! is printed meanwhile goes through [`Stderr`] or calls [`clear`] first, so that no line is torn.

use crate::printable;
use indicatif::{ProgressBar, ProgressStyle};
use provisioner::host::progress;
use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;
use std::time::Duration;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Layer};

/// How often the elapsed time is drawn again.
const TICK: Duration = Duration::from_millis(200);

/// The line, while there is one.
static LINE: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Whether a person reads stderr on a terminal that can draw a line anew.
pub fn is_watched() -> bool {
    io::stderr().is_terminal()
        && std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb")
}

/// Removes the line, before something else is written to the terminal.
pub fn clear() {
    if let Some(line) = line().take() {
        line.finish_and_clear();
    }
}

fn line() -> std::sync::MutexGuard<'static, Option<ProgressBar>> {
    LINE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Shows `what` as the present step; its elapsed time begins now. The same step again goes on counting.
fn show(what: String) {
    let mut line = line();
    if line.as_ref().is_some_and(|bar| bar.message() == what) {
        return;
    }
    let bar = line.get_or_insert_with(|| {
        let bar = ProgressBar::new_spinner();
        // The template is a constant and valid; without it indicatif's own would be drawn.
        if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed:>5}") {
            bar.set_style(style);
        }
        bar
    });
    bar.set_message(what);
    bar.reset_elapsed();
    bar.enable_steady_tick(TICK);
}

/// Draws the events of the target [`progress::TARGET`].
pub struct Steps;

impl<S: tracing::Subscriber> Layer<S> for Steps {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() != progress::TARGET {
            return;
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        if text.0.is_empty() {
            clear();
        } else {
            show(printable(&text.0.replace(['\n', '\t'], " ")));
        }
    }
}

/// The message of an event.
struct Text(String);

impl tracing::field::Visit for Text {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

/// Standard error for lines that stay: they are printed above the line that changes.
#[derive(Clone, Copy)]
pub struct Stderr;

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = Stderr;

    fn make_writer(&'a self) -> Stderr {
        Stderr
    }
}

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match line().as_ref() {
            Some(bar) => bar.suspend(|| io::stderr().write(bytes)),
            None => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
