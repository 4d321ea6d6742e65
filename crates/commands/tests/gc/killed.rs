//! gc and resume killed (SIGKILL) at every point that they pass; the next run finishes, and nothing is left over.

use crate::support::{Report, Site, days_from_now, due, expired, in_grace, paid, read, run, until};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Two to be suspended and two to be destroyed, one of each made by the real create.
fn house() -> Site {
    let site =
        Site::with(&[expired("over-2", 151), due("due-2", 153), paid("paid", 154), paid("paid-2", 155)]);
    site.made("over-1");
    let vmid = site.made("due-1");
    site.write_as_another(|all| {
        all["vms"]["over-1"]["expires_at"] = days_from_now(-1).into();
        let due = &mut all["vms"]["due-1"];
        due["status"] = "suspended".into();
        due["suspended_at"] = days_from_now(-8).into();
        due["expires_at"] = days_from_now(-20).into();
    });
    site.lab.control().power(vmid, lab::model::Power::Stopped).unwrap();
    site.lab.control().set(vmid, "onboot", "0").unwrap();
    site
}

/// The points that a command passes, the second passing of `x` as `x:2`.
fn points(site: &Site, verb: &str, arguments: &[&str]) -> Vec<String> {
    let trace = site.path("trace");
    let mut command = site.verb(verb, arguments);
    command.env("BLOCKHOST_FAULT", format!("trace@{}", trace.display()));
    let _ = run(command).ok();
    let text = read(&trace);
    let mut points: Vec<String> = Vec::new();
    for (at, name) in text.lines().enumerate() {
        let passed = text.lines().take(at).filter(|earlier| earlier == &name).count();
        points.push(if passed == 0 { name.to_owned() } else { format!("{name}:{}", passed + 1) });
    }
    points
}

/// Runs the cases in a few threads and tells about all that failed.
fn sweep(cases: &[String], one: impl Fn(&str) + Sync) {
    let next = AtomicUsize::new(0);
    let failures: Mutex<Vec<String>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| one(case)));
                    if let Err(panic) = caught {
                        let text = panic.downcast_ref::<String>().cloned();
                        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|t| (*t).to_owned()));
                        failures.lock().unwrap().push(format!("== {case}: {}", text.unwrap_or_default()));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(
        failures.is_empty(),
        "{} of {} cases failed\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
}

/// Nothing of the terraforms of a killed run goes on.
fn settle(site: &Site) {
    until("tasks and terraforms end", || {
        let folders = std::fs::read_dir(site.path("var/terraform/vms")).into_iter().flatten().flatten();
        let busy = folders
            .filter_map(|folder| std::fs::File::open(folder.path().join("terraform.lock")).ok())
            .any(|file| file.try_lock_shared().is_err());
        !busy && site.lab.control().snapshot().unwrap().tasks_running.is_empty()
    });
}

fn finished(site: &Site) {
    let vmid = |name: &str| u32::try_from(site.record(name)["vmid"].as_u64().unwrap()).unwrap();
    for name in ["over-1", "over-2"] {
        site.is_suspended(name, vmid(name));
    }
    for name in ["due-1", "due-2"] {
        site.is_destroyed(name, vmid(name));
    }
    for name in ["paid", "paid-2"] {
        site.is_active(name, vmid(name));
    }
    assert_eq!(site.guests().len(), 4);
    let all = site.database();
    assert_eq!(all["allocated_ips"].as_array().unwrap().len(), 4, "{all:#}");
    let snippets = site.lab.control().snapshot().unwrap().snippets;
    assert!(snippets.keys().all(|name| name.contains("over-1")), "{:?}", snippets.keys());
    site.is_tidy();
}

#[test]
fn h05_h10_a_gc_killed_anywhere_is_finished_by_the_next() {
    let all = points(&house(), "gc", &["--execute"]);
    for point in
        ["gc.noted", "gc.asked", "gc.off", "gc.recorded", "gc.suspended", "destroy.begun", "destroy.marked"]
    {
        assert!(all.iter().any(|p| p == point), "{point} is not in {all:?}");
    }
    assert!(all.iter().any(|p| p == "destroy.done:2"), "{all:?}");
    // The points of two destroys side by side come in no fixed order, but each is passed as often.
    sweep(&all, |point| {
        let site = house();
        let said = site.gc_with(&format!("kill@{point}"), &[]);
        // How many guests are off at one look differs: a second passing may not come.
        if !(point.contains(':') && said.code == Some(0)) {
            said.was_killed();
        }
        settle(&site);
        for (name, record) in site.database()["vms"].as_object().unwrap() {
            let vmid = u32::try_from(record["vmid"].as_u64().unwrap()).unwrap();
            assert!(
                record["status"] != "destroyed" || !site.exists(vmid),
                "{name} is marked destroyed and lives"
            );
        }
        site.is_active("paid", 154);
        // The brakes do not mind a run that died.
        site.gc(&["--execute"]).ok();
        finished(&site);
        site.gc(&["--execute"]).ok().prints(
            "Suspend: 0 candidates\nDestroy: 0 candidates\nDone: 0 suspended, 0 destroyed, 0 failed\n",
        );
    });
}

#[test]
fn h50_h12_a_resume_killed_anywhere_is_finished_by_the_next() {
    let house = || {
        let site = Site::with(&[in_grace("web-1", 100), in_grace("unpaid", 101)]);
        let end = site.renew("web-1", 90);
        (site, end)
    };
    let all = points(&house().0, "resume", &["web-1"]);
    for point in ["resume.running", "resume.onboot", "write.database.before", "resume.recorded"] {
        assert!(all.iter().any(|p| p == point), "{point} is not in {all:?}");
    }
    sweep(&all, |point| {
        let (site, end) = house();
        let mut command = site.verb("resume", &["web-1"]);
        command.env("BLOCKHOST_FAULT", format!("kill@{point}"));
        run(command).was_killed();
        // gc comes between: what is paid is not switched off for it.
        let runs = site.runs(100);
        site.gc(&["--execute"]).ok();
        assert_eq!(site.runs(100), runs, "gc switched a paid VM off");
        site.resume(&["web-1"]).ok();
        site.is_active("web-1", 100);
        assert_eq!(site.record("web-1")["expires_at"], end);
        site.is_tidy();
    });
    // One that is not paid for is resumed for the default, once.
    let (site, _) = house();
    let mut command = site.verb("resume", &["unpaid"]);
    command.env("BLOCKHOST_FAULT", "kill@resume.recorded");
    run(command).was_killed();
    let end = site.record("unpaid")["expires_at"].clone();
    site.resume(&["unpaid"]).ok();
    assert_eq!(site.record("unpaid")["expires_at"], end, "a resume that is run again extends nothing");
}
