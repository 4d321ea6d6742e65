//! Faults by name: a list of points with what happens there and how often.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::refusal::Refusal;
use crate::model::{Fault, FaultAction};

/// The faults that are set, and the points that were asked for.
#[derive(Debug)]
pub(crate) struct Faults {
    list: Mutex<Vec<Fault>>,
    points: Mutex<BTreeSet<String>>,
    /// Counts the releases; who hangs waits for the next one.
    cleared: watch::Sender<u64>,
}

impl Default for Faults {
    fn default() -> Self {
        Self { list: Mutex::default(), points: Mutex::default(), cleared: watch::Sender::new(0) }
    }
}

impl Faults {
    fn list(&self) -> MutexGuard<'_, Vec<Fault>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets a fault that fires `times` times.
    pub fn set(&self, point: &str, action: FaultAction, times: u32) {
        self.list().push(Fault { point: point.into(), action, left: times, hits: 0 });
    }

    /// Lets go whoever hangs; the faults stay.
    pub fn release(&self) {
        self.cleared.send_modify(|count| *count += 1);
    }

    /// Forgets all faults and lets go whoever hangs.
    pub fn clear(&self) {
        self.list().clear();
        self.points.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.release();
    }

    /// The faults with their counts.
    pub fn all(&self) -> Vec<Fault> {
        self.list().clone()
    }

    /// Every point that was reached since the last clearing, whether or not a fault was there.
    pub fn points(&self) -> Vec<String> {
        self.points.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// What happens at this point now; counts it.
    pub fn take(&self, point: &str) -> Option<FaultAction> {
        self.points.lock().unwrap_or_else(PoisonError::into_inner).insert(point.into());
        let mut list = self.list();
        let fault = list.iter_mut().find(|fault| fault.left > 0 && reaches(&fault.point, point))?;
        fault.left -= 1;
        fault.hits += 1;
        Some(fault.action.clone())
    }

    /// Like [`Faults::take`], and sleeps here where the fault says so; what is left is for the caller.
    pub async fn meet(&self, point: &str) -> Option<FaultAction> {
        match self.take(point)? {
            FaultAction::Slow { ms } => {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                None
            }
            FaultAction::Hang => {
                let mut cleared = self.cleared.subscribe();
                // The sender lives as long as the node: an error cannot come.
                let _ = cleared.changed().await;
                None
            }
            other => Some(other),
        }
    }

    /// [`Faults::meet`] for an act that can only fail or go on.
    pub async fn pass(&self, point: &str) -> Result<(), Refusal> {
        match self.meet(point).await {
            Some(FaultAction::Error { message, code }) => {
                let code = code.and_then(|code| u16::try_from(code).ok()).unwrap_or(500);
                Err(Refusal::with_code(code, message))
            }
            Some(FaultAction::Kill) => Err(Refusal::cut_off()),
            _ => Ok(()),
        }
    }
}

/// Whether a fault set for `pattern` is met at `point`. `*` and `{name}` stand for any text; a pattern without
/// `.before` or `.after` means before.
fn reaches(pattern: &str, point: &str) -> bool {
    let mut plain = String::new();
    let mut inside = false;
    for c in pattern.chars() {
        match c {
            '{' => {
                inside = true;
                plain.push('*');
            }
            '}' => inside = false,
            c if !inside => plain.push(c),
            _ => {}
        }
    }
    let timed = [".before", ".after"].iter().any(|end| plain.ends_with(end));
    if !timed && point.ends_with(".before") && glob(&format!("{plain}.before"), point) {
        return true;
    }
    glob(&plain, point)
}

/// `*` stands for any text.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or("")) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_reach_their_points() {
        for (pattern, point, reached) in [
            ("qm.start", "qm.start.before", true),
            ("qm.start", "qm.start.after", false),
            ("qm.start.after", "qm.start.after", true),
            ("api.POST /nodes/{node}/qemu/{vmid}/clone", "api.POST /nodes/pve/qemu/9001/clone.before", true),
            ("api.POST *.after", "api.POST /nodes/pve/qemu/9001/clone.after", true),
            ("api.GET *", "api.POST /version.before", false),
            ("provider.create.clone.after", "provider.create.clone.after", true),
            ("task.qm*", "task.qmclone.before", true),
            ("api.GET /version", "api.GET /versions.before", false),
        ] {
            assert_eq!(reaches(pattern, point), reached, "{pattern} {point}");
        }
    }

    #[test]
    fn a_fault_fires_as_often_as_it_was_told() {
        let faults = Faults::default();
        faults.set("a", FaultAction::error("no"), 2);
        assert!(faults.take("b.before").is_none());
        assert!(faults.take("a.before").is_some() && faults.take("a.before").is_some());
        assert!(faults.take("a.before").is_none());
        assert_eq!((faults.all()[0].left, faults.all()[0].hits), (0, 2));
        assert_eq!(faults.points(), ["a.before", "b.before"]);
    }
}
