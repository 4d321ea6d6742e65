//! protect and expire: what an operator changes by hand is what gc and destroy go by, is in the audit trail, and takes no
//! paid time away unnoticed.

use crate::support::{
    Ended, Report, Site, days_from_now, due, everything, expired, in_grace, paid, run, text_of,
};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

impl Site {
    fn protect(&self, arguments: &[&str]) -> Ended {
        run(self.verb("protect", arguments))
    }

    fn expire(&self, arguments: &[&str]) -> Ended {
        run(self.verb("expire", arguments))
    }

    /// The last line of the audit trail.
    fn audited(&self) -> Value {
        let files = std::fs::read_dir(self.path("var/audit")).into_iter().flatten().flatten();
        let text: String = files.map(|file| std::fs::read_to_string(file.path()).unwrap()).collect();
        serde_json::from_str(text.lines().last().unwrap()).unwrap()
    }

    fn end(&self, name: &str) -> DateTime<Utc> {
        self.record(name)["expires_at"].as_str().unwrap().parse().unwrap()
    }
}

#[test]
fn h11_a_vm_that_is_protected_is_left_alone_and_one_that_is_not_any_more_goes() {
    let site =
        Site::with(&[expired("web-1", 100), due("web-2", 101), paid("other", 110), paid("third", 111)]);
    let before = site.record("web-1");
    let said = site.protect(&["web-1", "on"]).ok();
    assert_eq!(said.err, "VM web-1 is protected: gc leaves it alone, and destroy must be forced\n");
    assert_eq!(said.out, "");
    let mut expected = before.clone();
    expected["protected"] = json!(true);
    assert_eq!(site.record("web-1"), expected);
    let line = site.audited();
    assert_eq!(
        (&line["verb"], &line["vm"], &line["result"]),
        (&json!("protect"), &json!("web-1"), &json!("ok; protected: true (before: false)"))
    );
    site.protect(&["web-2", "on"]).ok();
    site.protect(&["web-1", "on"]).ok().says_in_one_line(&["VM web-1 is already protected"]);
    site.gc(&["--execute"]).ok();
    assert!(site.runs(100) && site.exists(101));
    run(site.verb("destroy", &["web-1"])).fails(&["VM web-1 is protected", "--force"]);

    let said = site.protect(&["web-1", "off"]).ok();
    said.says_in_one_line(&["warning: VM web-1 expired 1 day ago", "the next gc run suspends it"]);
    assert_eq!(site.record("web-1"), before, "not even the key stays");
    assert_eq!(site.audited()["result"], "ok; protected: false (before: true)");
    site.protect(&["web-2", "off"]).ok();
    site.protect(&["other", "off"]).ok().says_in_one_line(&["VM other is not protected; nothing to do"]);
    site.gc(&["--execute"]).ok();
    site.is_suspended("web-1", 100);
    site.is_destroyed("web-2", 101);
    // A tombstone is nobody's VM any more (H41).
    site.protect(&["web-2", "on"]).fails(&["VM web-2 was destroyed"]);
    site.protect(&["nobody", "on"]).fails(&["VM nobody is unknown"]);
    site.protect(&["web-1", "maybe"]).ends(2).says(&["maybe", "on, off"]);
}

#[test]
fn h11_a_note_of_somebody_else_protects_and_is_kept() {
    let site = Site::with(&[paid("web-1", 100).with("protected", json!("until the audit is over"))]);
    site.protect(&["web-1", "on"]).ok().says_in_one_line(&["already protected"]);
    assert_eq!(site.record("web-1")["protected"], "until the audit is over");
    site.protect(&["web-1", "off"]).ok().says_in_one_line(&["no longer protected"]);
    assert_eq!(site.record("web-1").get("protected"), None);
}

#[test]
fn h11_what_is_half_destroyed_is_not_protected_any_more() {
    let site = Site::with(&[paid("web-1", 100)]);
    let mut destroy = site.verb("destroy", &["web-1"]);
    destroy.env("BLOCKHOST_FAULT", "kill@destroy.gone");
    run(destroy).was_killed();
    site.protect(&["web-1", "on"]).fails(&["VM web-1", "interrupted", "blockhost-vm-destroy web-1"]);
    assert_eq!(site.record("web-1").get("protected"), None);
    run(site.verb("destroy", &["web-1"])).ok();
    site.is_destroyed("web-1", 100);
}

#[test]
fn h19_both_wait_for_whoever_works_on_the_vm() {
    let site = Site::with(&[in_grace("web-1", 100)]);
    for (verb, arguments) in [("protect", ["web-1", "on"]), ("expire", ["web-1", "--extend-days=3"])] {
        let mut resume = site.held_at("resume.running", 3000, site.verb("resume", &["web-1"]));
        let mut command = site.verb(verb, &arguments);
        command.env("BLOCKHOST_FAULT", "limit@vm-lock=200");
        run(command).fails(&["VM web-1", "another operation is in progress", "resume"]);
        assert!(resume.is_alive(), "{verb}: it was there all the time");
        resume.wait().ok();
    }
    assert_eq!(site.record("web-1").get("protected"), None);
}

#[test]
fn h12_an_expiry_is_set_and_nothing_else_of_the_vm_changes() {
    let site = Site::with(&[paid("web-1", 100), in_grace("off", 101), paid("other", 110)]);
    let before = (site.record("web-1"), site.guests());
    let day = (Utc::now() + TimeDelta::days(200)).format("%Y-%m-%d").to_string();
    let said = site.expire(&["web-1", "--at", &day]).ok();
    said.clone().says_in_one_line(&[
        "VM web-1 expires at",
        &day,
        "before: ",
        before.0["expires_at"].as_str().unwrap(),
    ]);
    assert!(said.out.is_empty() && !said.err.contains("EARLIER"), "{said:#?}");
    let mut expected = before.0.clone();
    expected["expires_at"] = json!(format!("{day}T00:00:00.000000+00:00"));
    assert_eq!((site.record("web-1"), site.guests()), (expected, before.1.clone()));
    let line = site.audited();
    let old = before.0["expires_at"].as_str().unwrap();
    assert_eq!(line["result"], format!("ok; expires_at: {day}T00:00:00.000000+00:00 (before: {old})"));
    assert_eq!(
        (&line["verb"], &line["before"], &line["after"]),
        (&json!("expire"), &json!("active"), &json!("active"))
    );

    // More is more: resume's flag of this name would have set 10 days from now.
    site.expire(&["web-1", "--extend-days", "10"]).ok();
    assert_eq!(
        site.end("web-1"),
        format!("{day}T00:00:00Z").parse::<DateTime<Utc>>().unwrap() + TimeDelta::days(10)
    );
    // Earlier, but not past: done, and not unnoticed.
    let said = site.expire(&["web-1", "--at", &days_from_now(2)]).ok();
    said.says_in_one_line(&["warning: VM web-1: the expiry moved EARLIER", "208 days less", "--extend-days"]);

    // Of a suspended VM whose time is over: counted from now, and it stays off.
    let said = site.expire(&["off", "--extend-days", "10"]).ok();
    said.says_in_one_line(&["VM off expires at", "still suspended", "blockhost-vm-resume off"]);
    assert!((site.end("off") - Utc::now()).num_hours() >= 239);
    assert_eq!((site.status("off").as_str(), site.runs(101)), ("suspended", false));
}

#[test]
fn h10_a_past_expiry_needs_force_and_then_counts() {
    let site = Site::with(&[paid("web-1", 100), paid("other", 110), paid("third", 111)]);
    let before = everything(&site);
    let past = days_from_now(-3);
    site.expire(&["web-1", "--at", &past]).is_wrong_usage(&[
        "VM web-1",
        "has passed",
        "nothing was changed",
        "--force",
    ]);
    assert!(everything(&site) == before);
    let said = site.expire(&["web-1", "--at", &past, "--force"]).ok();
    said.clone()
        .says_in_one_line(&["EARLIER"])
        .says_in_one_line(&["3 days ago", "the next gc run suspends it"]);
    assert_eq!(site.record("web-1")["expires_at"], past);
    site.gc(&["--execute"]).ok().prints("Suspend: 1 candidate\nDestroy: 0 candidates\n  web-1  suspended\nDone: 1 suspended, 0 destroyed, 0 failed\n");
    site.expire(&["other", "--at", &past, "--force"]).ok();
    site.protect(&["other", "on"]).ok();
    site.expire(&["other", "--at", &past, "--force"])
        .ok()
        .says_in_one_line(&["unchanged", "gc leaves it alone"]);
}

#[test]
fn what_no_expiry_can_be_is_refused() {
    let site = Site::with(&[paid("web-1", 100), paid("odd", 101).with("expires_at", json!("2027-01-01"))]);
    let before = everything(&site);
    for (arguments, words) in [
        (&["web-1"][..], &["--at", "--extend-days"][..]),
        (&["web-1", "--at", "tomorrow"], &["2027-03-01"]),
        (&["web-1", "--at", "2027-03-01T00:00:00"], &["2027-03-01"]),
        (&["web-1", "--at", "+12027-03-01"], &["2027-03-01"]),
        (&["web-1", "--extend-days", "0"], &["36500"]),
        (&["web-1", "--extend-days", "-1"], &["36500"]),
        (&["web-1", "--extend-days", "1", "--at", "2027-03-01"], &["cannot be used with"]),
        (&["web-1", "--extend-days", "1", "--force"], &["cannot be used with"]),
        (&["../web-1", "--extend-days", "1"], &["NAME"]),
    ] {
        let said = site.expire(arguments).ends(2).says(words);
        assert_eq!(said.out, "");
    }
    // Nobody knows to what the days would be added (H12).
    site.expire(&["odd", "--extend-days", "3"]).fails(&["VM odd", "no readable expires_at", "--at"]);
    site.expire(&["nobody", "--extend-days", "3"]).fails(&["VM nobody is unknown"]);
    assert!(everything(&site).1 == before.1 && site.record("odd")["expires_at"] == "2027-01-01");
    let end = text_of(Utc::now() + TimeDelta::days(30));
    site.expire(&["odd", "--at", &end]).ok().says_in_one_line(&["before: unknown"]);
    assert_eq!(site.record("odd")["expires_at"], end);
    site.expire(&["web-1", "--at", "9999-12-31"]).ok();
    site.expire(&["web-1", "--extend-days", "36500"]).fails(&["VM web-1", "beyond the year 9999"]);
}

#[test]
fn mock_vms_are_protected_and_expire_too_and_nothing_else_is_touched() {
    let site = Site::with(&[paid("web-1", 100)]);
    run(site.verb("create", &["m-1", "--no-web3", "--mock", "--apply"])).ok();
    let before = (site.database(), site.guests());
    site.protect(&["m-1", "on", "--mock"]).ok().says_in_one_line(&["VM m-1 is protected"]);
    run(site.verb("destroy", &["m-1", "--mock"])).fails(&["protected"]);
    site.protect(&["m-1", "off", "--mock"]).ok();
    site.expire(&["m-1", "--extend-days", "3", "--mock"])
        .ok()
        .says_in_one_line(&["VM m-1 expires at", "in 33 days"]);
    assert_eq!((site.database(), site.guests()), before);
    assert!(!site.path("var/audit").exists());
}
