//! Fail points of a debug build, and one case after the other over all of them.

use crate::{Ended, read, run};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// The points that a command passes, in order, the second passing of `x` as `x:2`. It must end as `end` wants. `trace` is
/// a file that is not there.
#[track_caller]
pub fn points(trace: &Path, mut command: Command, end: impl FnOnce(Ended)) -> Vec<String> {
    end(run(command.env("BLOCKHOST_FAULT", format!("trace@{}", trace.display()))));
    let text = read(trace);
    std::fs::remove_file(trace).unwrap();
    let mut passed: BTreeMap<&str, usize> = BTreeMap::new();
    text.lines()
        .map(|name| {
            let count = passed.entry(name).or_default();
            *count += 1;
            if *count == 1 { name.to_owned() } else { format!("{name}:{count}") }
        })
        .collect()
}

/// Runs the cases in `threads` threads and tells about all that failed.
#[track_caller]
pub fn sweep<T: Sync + Display>(cases: &[T], threads: usize, one: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let failures: Mutex<Vec<String>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| one(case))) {
                        let text = panic.downcast_ref::<String>().cloned();
                        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|t| (*t).to_owned()));
                        let text = format!("== {case}: {}", text.unwrap_or_default());
                        failures.lock().unwrap_or_else(PoisonError::into_inner).push(text);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    let (failed, all) = (failures.len(), cases.len());
    assert!(failures.is_empty(), "{failed} of {all} cases failed\n{}", failures.join("\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_is_played_and_all_that_fail_are_named() {
        let played = AtomicUsize::new(0);
        let panic = catch_unwind(AssertUnwindSafe(|| {
            sweep(&[1, 2, 3, 4, 5], 3, |case| {
                played.fetch_add(1, Ordering::Relaxed);
                assert!(case % 2 == 1, "{case} is even");
            });
        }))
        .unwrap_err();
        let text = panic.downcast_ref::<String>().unwrap();
        assert!(text.starts_with("2 of 5 cases failed\n"), "{text}");
        assert!(text.contains("== 2: 2 is even") && text.contains("== 4: 4 is even"), "{text}");
        assert_eq!(played.into_inner(), 5);
    }
}
