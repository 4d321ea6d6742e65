//! What only other programs write: halves of surrogate pairs, which are JSON and no text, and years that nobody means
//! (H16, H17). One record, or one key, is odd; the database is not damaged, and everybody else is served.

use crate::support::{create, vm, with_key};
use lab::Lab;
use lab::model::{NewGuest, Power};

/// Left as it stands, byte for byte: keys, escapes and numbers are another program's own.
const TOP: &str = r#""written by \ud83d": ["\ud800", "\udc00\ud800", {"\udfff": 1.50e+0}],"#;

/// Records, each in the form that all writers use.
const RECORDS: [&[&str]; 5] = [
    &[
        r#""odd": {"#,
        r#"  "vmid": 300,"#,
        r#"  "status": "active","#,
        r#"  "ip_address": "192.168.122.230","#,
        r#"  "expires_at": "2036-01-01T00:00:00Z","#,
        r#"  "note\udbff": "caf\u00e9 \ud800","#,
        r#"  "purpose": "\udc00""#,
        "},",
    ],
    &[
        r#""half-\ud800": {"#,
        r#"  "vmid": 301,"#,
        r#"  "status": "active","#,
        r#"  "expires_at": "2036-01-01T00:00:00Z""#,
        "},",
    ],
    &[
        r#""old": {"#,
        r#"  "vmid": 302,"#,
        r#"  "status": "active","#,
        r#"  "ip_address": "192.168.122.232","#,
        r#"  "expires_at": "1969-12-31T23:59:59Z""#,
        "},",
    ],
    &[
        r#""far": {"#,
        r#"  "vmid": 303,"#,
        r#"  "status": "active","#,
        r#"  "ip_address": "192.168.122.233","#,
        r#"  "expires_at": "+10000-01-01T00:00:00Z""#,
        "},",
    ],
    &[
        r#""before": {"#,
        r#"  "vmid": 304,"#,
        r#"  "status": "suspended","#,
        r#"  "ip_address": "192.168.122.234","#,
        r#"  "expires_at": "-0044-03-15T00:00:00Z","#,
        r#"  "suspended_at": "-0044-03-15T00:00:00Z""#,
        "},",
    ],
];

fn text(lab: &Lab) -> String {
    std::fs::read_to_string(lab.path("var/vms.json")).unwrap()
}

#[test]
fn h16_h17_half_a_character_and_years_that_nobody_means_concern_one_record_alone() {
    let lab = with_key(Lab::builder().start().unwrap());
    create(&lab, "web-1", &[]).ok();
    create(&lab, "expired", &[]).ok();
    for (vmid, name) in [(300, "odd"), (302, "old"), (303, "far"), (304, "before")] {
        let running = name != "before";
        lab.control()
            .add_guest(NewGuest { vmid, name: name.into(), running, ..NewGuest::default() })
            .unwrap();
    }
    let records = RECORDS.map(|lines| lines.join("\n    "));
    let whole = text(&lab);
    let (head, tail) = whole.split_once("\"vms\": {").unwrap();
    let new = format!("{head}{TOP}\n  \"vms\": {{\n    {}{tail}", records.join("\n    "));
    // One that gc has to find among them.
    let at = new.find("\"expired\": {").unwrap();
    let (head, tail) = new.split_at(at);
    let (before, after) = tail.split_once("\"expires_at\": \"").unwrap();
    let rest = after.split_once('"').unwrap().1;
    std::fs::write(
        lab.path("var/vms.json"),
        format!("{head}{before}\"expires_at\": \"2024-01-01T00:00:00Z\"{rest}"),
    )
    .unwrap();
    let same = |what: &str| {
        let now = text(&lab);
        for part in std::iter::once(TOP).chain(records.iter().map(String::as_str)) {
            assert!(now.contains(part), "{what}: {part} was changed: {now}");
        }
    };
    let untouched = || {
        let guests = lab.control().snapshot().unwrap().guests;
        [300, 302, 303].iter().all(|vmid| guests[vmid].power == Power::Running) && guests.contains_key(&304)
    };
    same("before");

    let served: [&[&str]; 8] = [
        &["list"],
        &["status", "web-1"],
        &["stop", "web-1"],
        &["start", "web-1"],
        &["create", "web-2", "--no-web3", "--apply"],
        &["gc", "--execute"],
        &["resume", "expired"],
        &["destroy", "web-2"],
    ];
    for words in served {
        let ended = vm(&lab, words[0], &words[1..]).ok();
        assert!(!ended.err.contains("corrupt") && !ended.err.contains("damaged"), "{words:?}: {ended:?}");
        same(words[0]);
        assert!(untouched(), "{words:?}: {ended:?}");
        if words[0] == "gc" {
            assert!(ended.out.contains("Done: 1 suspended, 0 destroyed, 0 failed"), "{ended:?}");
            for name in ["old", "far", "before"] {
                assert!(ended.err.contains(name), "{name} is passed over in silence: {ended:?}");
            }
        }
    }
    // The odd ones can be worked on, too, where what is odd does not matter.
    for name in ["odd", "old", "far"] {
        vm(&lab, "stop", &[name]).ok();
        assert_eq!(vm(&lab, "status", &[name]).ok().out, "suspended\n", "{name}");
        vm(&lab, "start", &[name]).ok();
    }
    same("after stop and start");
    vm(&lab, "resume", &["old", "--until", "2037-01-01T00:00:00Z"]).ok();
    vm(&lab, "destroy", &["odd"]).ok();
    assert!(text(&lab).contains(r#""note\udbff": "caf\u00e9 \ud800""#), "{}", text(&lab));
    assert!(text(&lab).contains(r#""expires_at": "2037-01-01T00:00:00"#) && text(&lab).contains(TOP));
}
