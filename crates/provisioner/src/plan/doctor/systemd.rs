//! Units, as `systemctl show` prints them.

use super::Finding;
use super::kinds::*;

/// The units that must be there, with the state that each should be in; empty: it runs and ends.
pub const UNITS: [(&str, &str); 4] = [
    ("blockhost-root-agent.service", "active"),
    ("blockhost-gc.timer", "active"),
    ("blockhost-gc.service", ""),
    ("blockhost-reapply.service", ""),
];

/// The properties to ask for.
pub const PROPERTIES: &str = "Id,LoadState,ActiveState,UnitFileState";

/// What is wrong with the units of an answer, one block of `Key=value` lines for each.
pub fn findings(answer: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    for block in answer.split("\n\n") {
        let get = |key: &str| {
            let line = block.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            line.unwrap_or_default()
        };
        let Some((unit, wanted)) = UNITS.iter().find(|(unit, _)| *unit == get("Id")) else { continue };
        let place = format!("unit {unit}");
        let (load, active) = (get("LoadState"), get("ActiveState"));
        let is_enabled = !matches!(get("UnitFileState"), "disabled" | "masked" | "masked-runtime");
        if load == "not-found" {
            let mend = "reinstall the package: apt-get install --reinstall blockhost-provisioner-proxmox";
            found.push(Finding::new(&UNIT_MISSING, place, "there is no such unit", mend));
        } else if active == "failed" {
            let mend = format!("see why: journalctl -u {unit}; then systemctl restart {unit}");
            found.push(Finding::new(&UNIT_FAILED, place, "its last run failed", mend));
        } else if !is_enabled || (!wanted.is_empty() && active != *wanted) {
            let what = format!("it is {active}, and {}", get("UnitFileState"));
            found.push(Finding::new(&UNIT_INACTIVE, place, what, format!("systemctl enable --now {unit}")));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(answer: &str) -> Vec<&'static str> {
        findings(answer).iter().map(|finding| finding.kind.code).collect()
    }

    #[test]
    fn units_are_judged_by_what_systemd_says() {
        let unit = |id: &str, load: &str, active: &str, file: &str| {
            format!("Id={id}\nLoadState={load}\nActiveState={active}\nUnitFileState={file}\n")
        };
        let good = [
            unit("blockhost-root-agent.service", "loaded", "active", "enabled"),
            unit("blockhost-gc.timer", "loaded", "active", "enabled"),
            unit("blockhost-gc.service", "loaded", "inactive", "static"),
            unit("blockhost-reapply.service", "loaded", "inactive", "enabled"),
            unit("other.service", "not-found", "failed", "masked"),
        ];
        assert_eq!(codes(&good.join("\n")), [""; 0]);
        for (text, code) in [
            (unit("blockhost-gc.timer", "loaded", "inactive", "enabled"), "unit-inactive"),
            (unit("blockhost-gc.timer", "not-found", "inactive", ""), "unit-missing"),
            (unit("blockhost-gc.service", "loaded", "failed", "static"), "unit-failed"),
            (unit("blockhost-reapply.service", "loaded", "inactive", "disabled"), "unit-inactive"),
            (unit("blockhost-root-agent.service", "loaded", "failed", "enabled"), "unit-failed"),
        ] {
            assert_eq!(codes(&text), [code], "{text}");
        }
        assert_eq!(codes(""), [""; 0]);
    }
}
