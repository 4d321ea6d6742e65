//! Create killed at every point, and the three ways out: the same create, another create, a destroy.

use crate::site::{OTHER_WALLET, Site, points, run, sweep};
use crate::world::World;
use std::sync::LazyLock;

/// What creates that nobody killed leave behind.
pub struct Reference {
    pub points: Vec<String>,
    pub empty: World,
    pub web_1: World,
    pub web_1_destroyed: World,
    pub web_2: World,
    pub both: World,
}

pub static REFERENCE: LazyLock<Reference> = LazyLock::new(|| {
    let site = Site::new();
    let empty = site.world();
    let points = points(&site, site.create("web-1"));
    let web_1 = site.world();
    site.created("web-2");
    let both = site.world();
    let other = Site::new();
    other.created("web-2");
    let third = Site::new();
    third.created("web-1");
    third.destroyed("web-1");
    Reference { points, empty, web_1, web_1_destroyed: third.world(), web_2: other.world(), both }
});

/// A lab in which the create of `web-1` was killed at `point`.
fn killed_at(point: &str) -> Site {
    let site = Site::new();
    let ended = run(site.create("web-1").env("BLOCKHOST_FAULT", format!("kill@{point}"))).was_killed();
    // Never a result before the point after it.
    let reported = ["create.reported", "create.done"].contains(&point);
    assert_eq!(!ended.out.is_empty(), reported, "{ended:#?}");
    site
}

impl Reference {
    /// The points without those that leave on disk what the point after them leaves: the same create goes through
    /// all of them, the other ways out through these.
    fn points_apart(&self) -> Vec<String> {
        self.points.iter().filter(|point| !point.contains(".renamed")).cloned().collect()
    }
}

/// Points at which the create had ended but for its exit.
fn is_over(point: &str) -> bool {
    point == "create.done"
}

#[test]
fn h05_the_sweep_passes_the_points_it_should() {
    let known = &REFERENCE.points;
    for point in [
        "create.queued",
        "create.journalled",
        "write.database.temporary",
        "create.snippets",
        "create.file",
        "write.journal.before:3",
        "spawn.terraform",
        "create.terraform",
        "create.ready",
        "create.registered",
        "create.connected",
        "create.done",
    ] {
        assert!(known.iter().any(|p| p == point), "{point} is not among {known:?}");
    }
}

#[test]
fn h05_h06_a_create_killed_anywhere_succeeds_when_run_again() {
    sweep(&REFERENCE.points, |point| {
        let site = killed_at(point);
        let again = run(&mut site.create("web-1"));
        if is_over(point) {
            assert!(again.failed().contains("already exists"));
        } else {
            let result = again.ok().result();
            assert_eq!(result["vmid"], 100);
            assert_eq!(result["ip"], "192.168.122.200");
        }
        // A create that is refused does not get as far as the queue, where the dead one's ticket lies.
        let left = if is_over(point) { &["run/"][..] } else { &[] };
        let (found, expected) = (site.world().without(left), REFERENCE.web_1.without(left));
        found.must_be(&expected, "after the same create again");
    });
}

#[test]
fn h05_h13_another_create_gives_back_what_a_killed_one_took() {
    sweep(&REFERENCE.points_apart(), |point| {
        let site = killed_at(point);
        let registered = site.journal_step("web-1").as_deref() == Some("registered");
        // A create waits only briefly for a terraform of somebody else's.
        site.settle();
        let result = site.created("web-2").result();
        if is_over(point) {
            site.world().must_be(&REFERENCE.both, "after another create");
        } else if registered {
            finish_the_registered_one(&site);
        } else {
            assert_eq!(result["vmid"], 100, "the VMID of the dead one is free again");
            assert_eq!(result["ip"], "192.168.122.200");
            site.world().must_be(&REFERENCE.web_2, "after another create");
        }
    });
}

/// `web-1` was registered but not reported, and `web-2` was made since.
fn finish_the_registered_one(site: &Site) {
    // What guards its network may still be missing: that is for whoever reads its result.
    let unfinished = ["journal/web-1", "node routes", "tap100i0", "node guards 100", "node guests 100"];
    let found = site.world();
    let expected = REFERENCE.both.without(&unfinished);
    found.without(&unfinished).must_be(&expected, "while web-1 waits");
    assert_eq!(site.journal_step("web-1").as_deref(), Some("registered"));
    let refused = run(&mut site.create_for("web-1", OTHER_WALLET)).failed();
    assert!(refused.contains("belongs to another wallet"), "{refused}");
    site.world().must_be(&found, "after another wallet was refused");
    let result = site.created("web-1").result();
    assert_eq!((result["vmid"].as_u64(), result["status"].as_str()), (Some(100), Some("ok")));
    site.world().must_be(&REFERENCE.both, "after web-1 was reported");
    let again = run(&mut site.create("web-1")).failed();
    assert!(again.contains("already exists"), "{again}");
}

#[test]
fn h05_h13_destroy_takes_away_what_a_killed_create_left() {
    // The queue and half-written files are tidied up by the next create.
    let not_by_destroy = ["run/", ".tmp"];
    sweep(&REFERENCE.points_apart(), |point| {
        let site = killed_at(point);
        let registered = site.journal_step("web-1").as_deref() == Some("registered") || is_over(point);
        site.destroyed("web-1");
        let expected = if registered { &REFERENCE.web_1_destroyed } else { &REFERENCE.empty };
        let expected = expected.without(&not_by_destroy);
        let found = site.world().without(&not_by_destroy);
        found.must_be(&expected, "after destroy");
        site.destroyed("web-1");
        site.world().without(&not_by_destroy).must_be(&expected, "after another destroy");
    });
}
