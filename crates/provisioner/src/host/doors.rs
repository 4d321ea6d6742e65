//! Which machine the effects of this room are on: this one, or a simulated one. A value that whoever makes a
//! [`super::Host`] puts into it, and that goes on from there; nobody can ask for it anywhere else.

use super::FOR_TESTS;
use super::simulated::Machine;
use std::fmt;

/// Clock, fail points, root agent, API and child processes. As small as a reference, so that a deadline can carry the
/// clock by which it was set. Its methods stand where their subject is: [`super::clock`], [`super::failpoint`].
#[derive(Clone, Copy)]
pub struct Doors(Option<&'static (dyn Machine + Sync)>);

impl Doors {
    /// Those of the machine that we run on.
    pub fn real() -> Doors {
        Doors(None)
    }

    /// Those of a simulated machine: for tests, and without effect in a release build.
    pub fn simulated(machine: &'static (dyn Machine + Sync)) -> Doors {
        Doors(Some(machine))
    }

    /// The simulated machine, where there is one.
    pub(super) fn machine(self) -> Option<&'static (dyn Machine + Sync)> {
        if FOR_TESTS { self.0 } else { None }
    }
}

impl fmt::Debug for Doors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.machine().is_some() { "Doors(simulated)" } else { "Doors(real)" })
    }
}
