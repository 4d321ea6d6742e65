//! An import killed at every point, and with a full disk at every write: the next import completes it, a destroy takes
//! away both forms, and the VMs run on untouched.

use crate::legacy_site::{add, import_command, import_with, legacy_site, records};
use crate::site::{last_that_fails, run, sweep};
use crate::world::World;
use lab::Lab;
use lab::model::GuestSnapshot;
use std::sync::LazyLock;

/// Two VMs, the first with a wrong VMID in its record, and what an import that nobody killed makes of them.
struct Reference {
    points: Vec<String>,
    writes: usize,
    done: World,
    destroyed: World,
}

fn two() -> Lab {
    let lab = legacy_site();
    add(&lab, "web-001", "192.168.122.200", Some(150));
    add(&lab, "web-002", "192.168.122.201", None);
    lab
}

static REFERENCE: LazyLock<Reference> = LazyLock::new(|| {
    let lab = two();
    let points = test_support::points(&lab.path("trace"), import_command(&lab, &["--apply"]), |ended| {
        drop(ended.ok())
    });
    let done = World::of(&lab);
    destroy(&lab);
    let destroyed = World::of(&lab);
    let fails = |n: usize| import_with(&two(), &format!("enospc@{n}"), &["--apply"]).code != Some(0);
    Reference { points, writes: last_that_fails(fails), done, destroyed }
});

fn destroy(lab: &Lab) {
    run(lab.command("blockhost-vm-destroy").arg("web-001")).ok();
}

/// What must not happen to a VM that is imported.
fn power(lab: &Lab) -> Vec<(u32, lab::model::Power, u32, u32)> {
    let guests = lab.control().snapshot().unwrap().guests;
    let seen =
        |(vmid, guest): (&u32, &GuestSnapshot)| (*vmid, guest.power, guest.starts, guest.cloud_init_runs);
    guests.iter().map(seen).collect()
}

/// What tells which import it was, and is no difference.
const NOT_COMPARED: [&str; 2] = [".tmp", "terraform.tfstate.blockhost"];

#[track_caller]
fn is_done(lab: &Lab, what: &str) {
    let expected = REFERENCE.done.without(&NOT_COMPARED);
    World::of(lab).without(&NOT_COMPARED).must_be(&expected, what);
}

#[test]
fn h05_the_sweep_of_import_passes_the_points_it_should() {
    let known = &REFERENCE.points;
    for point in [
        "import.begun",
        "import.marked",
        "write.terraform-file.renamed",
        "write.own-state.temporary",
        "import.directory",
        "write.database.before",
        "import.recorded",
        "import.guarded",
        "write.state-copy.renamed",
        "write.state-before-import.temporary",
        "write.shared-state.temporary",
        "import.unshared",
        "import.done",
        "import.done:2",
    ] {
        assert!(known.iter().any(|p| p == point), "{point} is not among {known:?}");
    }
    assert!(REFERENCE.writes > 10, "{}", REFERENCE.writes);
}

#[test]
fn h05_h52_an_import_killed_anywhere_is_completed_by_the_next() {
    // What stands before a write is what stood at the point before it.
    let points: Vec<String> =
        REFERENCE.points.iter().filter(|point| !point.contains(".before")).cloned().collect();
    sweep(&points, |point| {
        let lab = two();
        let before = power(&lab);
        import_with(&lab, &format!("kill@{point}"), &["--apply"]).was_killed();
        // Whatever stands there by now is whole and can be shown.
        let _whole = records(&lab);
        run(lab.command("blockhost-vm-status").arg("web-001")).ok();
        import_with(&lab, "", &[]).ok();
        import_with(&lab, "", &["--apply"]).ok();
        is_done(&lab, "after another import");
        assert_eq!(power(&lab), before, "it runs on");
    });
}

#[test]
fn h09_a_destroy_takes_away_what_a_killed_import_left() {
    let points: Vec<String> = REFERENCE
        .points
        .iter()
        .filter(|point| point.starts_with("import.") && !point.contains(':'))
        .cloned()
        .collect();
    sweep(&points, |point| {
        let lab = two();
        import_with(&lab, &format!("kill@{point}"), &["--apply"]).was_killed();
        destroy(&lab);
        import_with(&lab, "", &["--apply"]).ok();
        // The older way to destroy runs a terraform in the shared directory, and a record that had no UUID yet gets none.
        let not_compared = ["terraform/terraform.", "terraform/pve-token", ".tmp", "tf-", "var/vm-db.json"];
        assert_eq!(records(&lab)["vms"]["web-001"]["status"], "destroyed");
        let expected = REFERENCE.destroyed.without(&not_compared);
        World::of(&lab).without(&not_compared).must_be(&expected, "after a destroy");
        assert!(
            !lab.path("var/terraform/vms/web-001").exists()
                && !lab.path("var/terraform/web-001.tf.json").exists()
        );
    });
}

#[test]
fn h14_a_full_disk_at_any_write_of_an_import_is_told_and_the_next_completes_it() {
    let writes: Vec<usize> = (1..=REFERENCE.writes).collect();
    sweep(&writes, |n| {
        let lab = two();
        let before = power(&lab);
        let ended = import_with(&lab, &format!("enospc@{n}"), &["--apply"]).ends(1);
        assert!(format!("{}{}", ended.out, ended.err).contains("No space left on device"), "{ended:#?}");
        let _whole = records(&lab);
        import_with(&lab, "", &["--apply"]).ok();
        is_done(&lab, "after an import with space");
        assert_eq!(power(&lab), before);
    });
}
