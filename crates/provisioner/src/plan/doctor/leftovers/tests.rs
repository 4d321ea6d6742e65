use super::*;

const UUID: Uuid = Uuid::from_u128(7);

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn holder(is_destroyed: bool) -> Holder {
    Holder {
        is_destroyed,
        vmid: 100,
        uuid: Some(UUID),
        addresses: vec![address("10.0.0.2"), address("fd00::2")],
    }
}

fn work(stage: Stage, holder: Option<&str>) -> Work {
    Work {
        name: "web-1".into(),
        stage,
        vmid: 100,
        uuid: Some(UUID),
        addresses: vec![address("10.0.0.2"), address("fd00::2")],
        holder: holder.map(str::to_string),
        words: "a create of this name died".into(),
    }
}

/// A VM in every place that a VM is in.
fn whole() -> Everything {
    Everything {
        records: HashMap::from([("web-1".to_string(), holder(false))]),
        directories: vec![Directory {
            name: "web-1".into(),
            path: "/tf/vms/web-1".into(),
            machine: Some((100, UUID)),
            addresses: vec![address("10.0.0.2"), address("fd00::2")],
            snippets: vec!["user".into(), "meta".into()],
        }],
        vmids: Some(HashSet::from([100])),
        marked: vec![Marked { vmid: 100, name: "web-1".into(), uuid: UUID }],
        inventory: Some(Inventory {
            folder: "/snippets".into(),
            snippets: vec![("web-1".into(), "user".into()), ("web-1".into(), "meta".into())],
            guards: vec![(100, Some("web-1".into()))],
            ..Inventory::default()
        }),
        volumes: Some(Vec::new()),
        routes: vec![("fd00::2".parse().unwrap(), "vmbr0".into())],
        listed: vec![("allocated_ips", address("10.0.0.2")), ("allocated_ipv6", address("fd00::2"))],
        database: "vms.json".into(),
        ..Everything::default()
    }
}

fn codes(all: &Everything) -> Vec<&'static str> {
    let mut codes: Vec<&str> = findings(all).iter().map(|finding| finding.kind.code).collect();
    codes.sort_unstable();
    codes
}

#[test]
fn a_whole_vm_leaves_nothing_about() {
    assert_eq!(findings(&whole()), []);
}

#[test]
fn h05_a_dead_create_has_one_finding_that_names_all_it_left() {
    let mut all = whole();
    all.records.clear();
    all.works.push(work(Stage::Creating, None));
    let found = findings(&all);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0].kind.code, "create-unfinished");
    assert_eq!(
        found[0].left,
        [
            "journal web-1",
            "vm 100",
            "directory /tf/vms/web-1",
            "snippet blockhost-web-1-user.yaml",
            "snippet blockhost-web-1-meta.yaml",
            "address 10.0.0.2",
            "address fd00::2",
            "guard 100",
            "route fd00::2"
        ]
    );
    // Somebody else's by now.
    all.marked[0] = Marked { vmid: 100, name: "other".into(), uuid: Uuid::from_u128(8) };
    let found = findings(&all);
    assert!(!found[0].left.contains(&"vm 100".to_string()) && found[1].kind.code == "vm-without-record");
    // One that lives is not judged.
    all.works[0].holder = Some("create, PID 7".into());
    assert_eq!(findings(&all)[0].kind.code, "operation-running");
}

#[test]
fn h09_a_dead_destroy_and_a_create_that_nobody_has_read_are_told_apart() {
    let mut all = whole();
    all.works.push(work(Stage::Registered, None));
    let found = findings(&all);
    assert_eq!((found.len(), found[0].kind.code), (1, "create-unreported"));
    assert_eq!(found[0].left, ["journal web-1"]);
    all.works[0].stage = Stage::Destroying;
    all.marked.clear();
    all.vmids = Some(HashSet::new());
    let found = findings(&all);
    assert_eq!((found.len(), found[0].kind.code), (1, "destroy-unfinished"));
    assert!(
        found[0].left.contains(&"record web-1".to_string()) && !found[0].left.contains(&"vm 100".to_string())
    );
}

#[test]
fn h55_a_lost_record_is_told_from_a_directory_that_was_left() {
    let mut all = whole();
    all.records.clear();
    all.inventory = None;
    all.routes.clear();
    let found = findings(&all);
    assert_eq!((found.len(), found[0].kind.code), (1, "record-lost"));
    assert_eq!(found[0].fix, Some(Fix::RestoreRecord("web-1".into())));
    all.marked.clear();
    let found = findings(&all);
    assert_eq!((found.len(), found[0].kind.code), (1, "terraform-directory-leftover"));
    assert_eq!(found[0].left, ["directory /tf/vms/web-1", "address 10.0.0.2", "address fd00::2"]);
}

#[test]
fn h08_a_tombstone_whose_vm_lives_is_an_error_and_explains_nothing_else() {
    let mut all = whole();
    all.records.insert("web-1".into(), holder(true));
    assert_eq!(
        codes(&all),
        [
            "address-leftover",
            "address-leftover",
            "route-leftover",
            "terraform-directory-leftover",
            "vm-destroyed-but-there"
        ]
    );
    // The tombstone of an earlier VM of the same name is none of this one.
    all.records.get_mut("web-1").unwrap().uuid = Some(Uuid::from_u128(9));
    assert!(codes(&all).contains(&"record-lost"), "{:?}", codes(&all));
}

#[test]
fn what_lies_about_by_itself_is_named() {
    let mut all = whole();
    all.inventory.as_mut().unwrap().snippets.push(("old-1".into(), "user".into()));
    all.volumes = Some(vec![LooseVolume { volid: "lvm:vm-101-disk-0".into(), vmid: 101 }]);
    all.routes.push(("fd00::9".parse().unwrap(), "vmbr0".into()));
    all.listed.push(("allocated_ips", address("10.0.0.9")));
    all.inventory.as_mut().unwrap().guards.push((555, Some("old-1".into())));
    assert_eq!(
        codes(&all),
        ["address-leftover", "guard-leftover", "route-leftover", "snippet-leftover", "volume-leftover"]
    );
    let volume =
        |all: &Everything| findings(all).into_iter().find(|f| f.kind.code == "volume-leftover").unwrap();
    assert_eq!(volume(&all).fix, None, "H02: that it has a number of our range proves nothing");
    all.noted_volumes.insert("lvm:vm-101-disk-0".into());
    assert_eq!(volume(&all).fix, Some(Fix::FreeVolume("lvm:vm-101-disk-0".into())));
}

#[test]
fn h49_what_could_not_be_asked_is_no_absence() {
    let mut all = whole();
    (all.vmids, all.inventory, all.volumes) = (None, None, None);
    all.marked.clear();
    assert_eq!(findings(&all), []);
    all.records.clear();
    all.is_blind = true;
    assert_eq!(findings(&all), [], "a database that cannot be read");
    all = Everything { vmids: None, ..whole() };
    all.inventory.as_mut().unwrap().snippets.push(("old-1".into(), "user".into()));
    assert_eq!(findings(&all), [], "a guest that nobody could see may need it");
}

#[test]
fn h37_a_snippet_that_a_vm_needs_and_h57_a_clone_that_came_late() {
    let mut all = whole();
    all.inventory.as_mut().unwrap().snippets.pop();
    assert_eq!(codes(&all), ["snippet-missing"]);
    all.marked.push(Marked { vmid: 101, name: "late-1".into(), uuid: Uuid::from_u128(5) });
    assert_eq!(codes(&all), ["snippet-missing", "vm-without-record"]);
    all.late.push((101, Uuid::from_u128(5)));
    assert_eq!(codes(&all), ["clone-arrived-late", "snippet-missing"]);
}
