//! Finds what an interface has that would be lost in moving it to a bridge, from the state of the host
//! ([`crate::plan::bridge_losses`]).

use crate::host::Host;
use crate::plan::bridge_losses::{self, Moving, SETTINGS, loss_of_setting, losses_of_links};
use crate::plan::connectivity::Inventory;
use crate::plan::interfaces_file::Stanza;
use crate::tool::ip::ip;
use std::path::Path;
use std::time::Duration;

const LOOK: Duration = Duration::from_secs(10);

/// Describes what would be lost; empty if everything can be moved.
pub(super) fn losses(
    host: &Host,
    moving: &Moving<'_>,
    stanzas: &[Stanza],
    now: &Inventory,
) -> anyhow::Result<Vec<String>> {
    let mut found = bridge_losses::losses(moving, stanzas, now);
    found.extend(of_device(host, moving.device)?);
    found.dedup();
    Ok(found)
}

fn of_device(host: &Host, device: &str) -> anyhow::Result<Vec<String>> {
    let mut found = losses_of_links(device, &ip(host, &["-j", "-d", "link", "show"], host.deadline(LOOK))?)?;
    let sys = Path::new("/sys/class/net").join(device);
    if sys.join("wireless").exists() || sys.join("phy80211").exists() {
        found.push(format!("{device} is wireless"));
    }
    for family in ["-4", "-6"] {
        for (what, words) in [
            ("the neighbour", vec![family, "neigh", "show", "dev", device, "nud", "permanent"]),
            ("the neighbour proxy", vec![family, "neigh", "show", "proxy", "dev", device]),
        ] {
            let shown = ip(host, &words, host.deadline(LOOK)).unwrap_or_default();
            found.extend(
                shown.lines().map(|line| {
                    format!("{what} \"{}\"", line.split_whitespace().collect::<Vec<_>>().join(" "))
                }),
            );
        }
    }
    for setting in &SETTINGS {
        let read = |of: &str| {
            let path = format!("/proc/sys/net/{}/conf/{of}/{}", setting.family, setting.name);
            crate::host::read_file::text(path).unwrap_or_default()
        };
        found.extend(loss_of_setting(device, setting, &read(device), &read("default")));
    }
    Ok(found)
}
