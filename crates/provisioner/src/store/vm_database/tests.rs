use super::*;
use crate::value::vm_record::Status;
use serde_json::json;
use std::path::PathBuf;

fn database(text: &str) -> (tempfile::TempDir, VmDatabase, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vms.json");
    std::fs::write(&path, text).unwrap();
    let db = VmDatabase::new(Doors::real(), &path, &FieldNames::default());
    (dir, db, path)
}

const TWO: &str = r#"{
  "vms": {
    "web-1": {
      "vm_name": "web-1",
      "vmid": 100,
      "ip_address": "192.168.122.200",
      "status": "active",
      "created_at": "2026-11-23T01:09:55.123456+00:00",
      "expires_at": "2026-12-23T01:09:55.123456+00:00",
      "nft_token_id": 340282366920938463463374607431768211456,
      "beacon_name": "caf\u00e9",
      "x": {
        "deep": 1.10
      }
    },
    "web-2": {
      "vmid": 101,
      "status": "destroyed"
    }
  },
  "next_vmid": 102,
  "allocated_ips": [
    "192.168.122.200"
  ],
  "reserved_nft_tokens": [1, 2.50]
}
"#;

#[test]
fn h16_what_we_do_not_change_keeps_its_exact_text() {
    let (_dir, db, path) = database(TWO);
    db.update(|c| {
        c.hold("allocated_ips", "192.168.122.201");
        c.hold("allocated_ipv6", "2a11::2");
        c.set_next_vmid(103);
        c.set_status("web-1", Status::Suspended);
        c.set("web-1", "suspended_at", &json!("2026-11-23T01:09:55.123456+00:00"));
        Ok(())
    })
    .unwrap();
    let expected = TWO
        .replace("\"status\": \"active\"", "\"status\": \"suspended\"")
        .replace(
            "1.10\n      }\n    }",
            "1.10\n      },\n      \"suspended_at\": \"2026-11-23T01:09:55.123456+00:00\"\n    }",
        )
        .replace("\"192.168.122.200\"\n  ]", "\"192.168.122.200\",\n    \"192.168.122.201\"\n  ]")
        .replace("102", "103")
        .replace("2.50]\n", "2.50],\n  \"allocated_ipv6\": [\n    \"2a11::2\"\n  ]\n");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
}

#[test]
fn another_writers_form_is_brought_to_ours() {
    let compact = r#"{"vms":{"a":{"vmid":100,"status":"active","owner":"Ünï 😀"}},"next_vmid":101}"#;
    let (_dir, db, path) = database(compact);
    db.update(|c| {
        c.set_next_vmid(102);
        Ok(())
    })
    .unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.is_ascii());
    assert!(text.contains("\n    \"a\": {\n      \"vmid\": 100,\n      \"status\": \"active\","), "{text}");
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["vms"]["a"]["owner"], "Ünï 😀");
}

#[test]
fn an_update_that_fails_or_changes_nothing_writes_nothing() {
    let compact = r#"{"vms":{}}"#;
    let (_dir, db, path) = database(compact);
    assert!(
        db.update::<()>(|c| {
            c.set_next_vmid(1);
            anyhow::bail!("no")
        })
        .is_err()
    );
    db.update(|c| {
        c.release("allocated_ips", "1.2.3.4");
        Ok(())
    })
    .unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), compact);
}

#[test]
fn h17_corrupt_files_are_named_with_their_byte_and_left_alone() {
    for (text, words) in [
        ("", "it is empty"),
        ("  \n", "it is empty"),
        ("[]", "expected a JSON object"),
        ("{}", "\"vms\" is missing"),
        ("{\"vms\": []}", "expected an object of VM records"),
        ("{\"vms\": {}", "byte 10 of 10"),
        ("{\"vms\": {}} x", "byte 13 of 13"),
        ("{\"vms\": {\"a\": {\"vmid\": }}}", "byte"),
        ("{\"vms\": {}, \"next_vmid\": \"x\"}", "next_vmid"),
        ("{\"vms\": {}, \"allocated_ips\": [1]}", "allocated_ips"),
    ] {
        let (_dir, mut db, path) = database(text);
        db.torn_read = Duration::from_millis(60);
        let error = format!(
            "{:#}",
            db.update(|c| {
                c.set_next_vmid(1);
                Ok(())
            })
            .expect_err(text)
        );
        assert!(error.contains("vms.json") && error.contains(words), "{text}: {error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
    let dir = tempfile::tempdir().unwrap();
    let db = VmDatabase::new(Doors::real(), &dir.path().join("vms.json"), &FieldNames::default());
    assert!(matches!(db.record("a"), Err(DatabaseError::Missing(_))));
}

#[test]
fn one_bad_record_does_not_stop_the_others() {
    let text = r#"{"vms": {"a": 7, "b": {"vmid": "x", "status": "active"}, "c": {"vmid": 100, "status": "paused"},
        "../d": {"vmid": 101, "status": "active"}, "e": {"vmid": 102, "status": "active", "expires_at": "2026-11-23T00:00:00"}, "f": null, "g": [1]}}"#;
    let (_dir, db, _path) = database(text);
    let begin = <(Vec<VmRecord>, Vec<String>)>::default;
    let (good, bad) = db
        .gather(Fields::All, begin, |(good, bad), view| match view.to_record() {
            Ok(record) => good.push(record),
            Err(why) => bad.push(why),
        })
        .unwrap();
    assert_eq!(good.len(), 1);
    assert_eq!(good[0].name.as_str(), "e");
    assert_eq!(good[0].expires_at, None, "a time without a zone is not guessed");
    assert_eq!(bad.len(), 6);
    assert!(bad[1].contains("\"b\"") && bad[1].contains("vmid") && bad[1].contains("\"x\""), "{}", bad[1]);
    db.inspect(|c| {
        assert_eq!(c.records().filter(Result::is_ok).count(), 1);
        Ok(())
    })
    .unwrap();
}

#[test]
fn renamed_fields_are_honoured_both_ways() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vms.json");
    std::fs::write(&path, r#"{"vms": {"a": {"id": 100, "state": "active", "status": "kept"}}}"#).unwrap();
    let fields = FieldNames { vmid: "id".into(), status: "state".into(), ..FieldNames::default() };
    let db = VmDatabase::new(Doors::real(), &path, &fields);
    assert_eq!(db.record("a").unwrap().unwrap().unwrap().vmid.get(), 100);
    db.update(|c| {
        c.set_status("a", Status::Destroyed);
        Ok(())
    })
    .unwrap();
    let value: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(value["vms"]["a"], json!({"id": 100, "state": "destroyed", "status": "kept"}));
}

#[test]
fn h16_a_torn_file_is_read_again() {
    let (_dir, db, path) = database("{\"vms\": {\"a\": {\"vmid\": 100, \"sta");
    let writer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(150));
        std::fs::write(&path, r#"{"vms": {"a": {"vmid": 100, "status": "active"}}}"#).unwrap();
    });
    assert_eq!(db.record("a").unwrap().unwrap().unwrap().status, Status::Active);
    writer.join().unwrap();
}

#[test]
fn a_missing_file_is_made_once_and_a_lost_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let db = VmDatabase::new(Doors::real(), &dir.path().join("vms.json"), &FieldNames::default());
    let error =
        db.make_if_missing(100, || Ok(Some("there is a terraform state of web-1".into()))).unwrap_err();
    assert!(error.to_string().contains("lost"), "{error}");
    assert!(!db.path().exists());
    db.make_if_missing(100, || Ok(None)).unwrap();
    db.inspect(|c| {
        assert_eq!(c.next_vmid().unwrap(), Some(100));
        Ok(())
    })
    .unwrap();
}

#[test]
fn h17_a_corrupt_file_is_waited_for_once() {
    let (_dir, mut db, path) = database("{\"vms\": {");
    db.torn_read = Duration::from_millis(400);
    let took = |db: &VmDatabase| {
        let begun = std::time::Instant::now();
        assert!(matches!(db.record("a"), Err(DatabaseError::Corrupt { .. })));
        begun.elapsed()
    };
    let first = took(&db);
    let others = took(&db) + took(&db) + took(&db);
    assert!(others < first / 2, "{first:?}, then {others:?}");
    // A repaired file is noticed at once.
    std::fs::write(&path, r#"{"vms": {"a": {"vmid": 100, "status": "active"}}}"#).unwrap();
    assert!(db.record("a").unwrap().is_some());
}

#[test]
fn h16_a_lone_surrogate_of_another_program_is_carried_as_it_stands() {
    let text = TWO.replace("caf\\u00e9", "\\ud800 and \\udc00").replace("\"x\": {", "\"\\ud83d\": {");
    assert!(text.contains("\\ud800") && text.contains("\\ud83d"));
    let (_dir, db, path) = database(&text);
    assert_eq!(db.record("web-1").unwrap().unwrap().unwrap().vmid.get(), 100);
    db.update(|c| {
        c.set_next_vmid(103);
        Ok(())
    })
    .unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text.replace("102", "103"));
}
