use super::storage::refuses;
use super::*;
use crate::value::address::{Ipv4Network, Ipv4Pool, Ipv6Pool, Ipv6Prefix};
use crate::value::allocation::Held;
use crate::value::cluster_rows::NodeStorage;
use crate::value::vmid::{Vmid, VmidRange};
use serde_json::{Value, json};

fn rows(value: Value) -> Vec<ClusterResource> {
    serde_json::from_value(value).unwrap()
}

fn row(value: Value) -> NodeStorage {
    serde_json::from_value(value).unwrap()
}

/// A node of 32 GiB with two VMs, one of them off, beside a template, a container and another node that is off.
fn cluster() -> Vec<ClusterResource> {
    rows(json!([
        {"type": "node", "node": "pve", "status": "online", "maxmem": 32 * GIB, "mem": 9 * GIB},
        {"type": "node", "node": "pve2", "status": "offline"},
        {"type": "qemu", "node": "pve", "vmid": 100, "status": "running", "maxmem": 4 * GIB},
        {"type": "qemu", "node": "pve", "vmid": 101, "status": "stopped", "maxmem": 2 * GIB},
        {"type": "lxc", "node": "pve", "vmid": 102, "status": "running", "maxmem": GIB},
        {"type": "qemu", "node": "pve", "vmid": 9001, "template": 1, "maxmem": 64 * GIB, "maxdisk": 2 * GIB},
        {"type": "qemu", "node": "pve2", "vmid": 103, "status": "unknown"},
        {"type": "storage", "node": "pve", "storage": "local-lvm", "maxdisk": 5 * GIB}
    ]))
}

fn memory(rows: &[ClusterResource], factor: Option<f64>) -> Memory {
    Memory::of("pve", Some(rows), factor)
}

#[test]
fn memory_is_promised_to_vms_that_are_off_too_and_not_to_templates_or_on_other_nodes() {
    let memory = memory(&cluster(), None);
    assert_eq!((memory.total, memory.used), (Some(32 * GIB), Some(9 * GIB)));
    assert_eq!((memory.promised, memory.unmeasured), (Some(7 * GIB), 0));
    // 25 GiB are left, which are twelve VMs of 2 GiB.
    assert_eq!(memory.room(USUAL), Room::Vms(12));
    assert_eq!(memory.refuses(u32::MAX), None, "without a factor nothing is refused");
}

#[test]
fn a_factor_says_how_much_may_be_promised_and_what_is_refused() {
    let limited = memory(&cluster(), Some(0.5));
    assert_eq!(limited.room(USUAL), Room::Vms(4));
    assert_eq!(limited.refuses(9 * 1024), None, "exactly what is left");
    let why = limited.refuses(9 * 1024 + 1).unwrap();
    for words in
        ["node pve", "9216 MB can still", "7168 MB are", "32768 MB times", "0.5", "9217 MB are needed"]
    {
        assert!(why.contains(words), "{words}: {why}");
    }
    assert_eq!(memory(&cluster(), Some(2.0)).room(USUAL), Room::Vms(28));
    // More is promised than there is.
    let over = memory(&cluster(), Some(0.1));
    assert_eq!(over.room(USUAL), Room::Vms(0));
    assert!(over.refuses(64).unwrap().contains("0 MB can still"));
}

#[test]
fn memory_that_nobody_measured_is_unknown_and_refuses_nothing() {
    let mut all = cluster();
    all[3].memory = None;
    // One of them is new: what is left is not known, but it is no more than without it.
    let new = memory(&all, Some(0.5));
    assert_eq!((new.unmeasured, new.room(USUAL)), (1, Room::Unknown));
    assert_eq!(new.refuses(2048), None);
    assert!(new.refuses(11 * 1024 + 1).is_some(), "which is certain all the same");
    assert_eq!(memory(&all, Some(0.1)).room(USUAL), Room::Vms(0), "of nothing, nothing is left");
    // The node itself.
    all[0].memory = None;
    let unknown = memory(&all, Some(0.1));
    assert_eq!((unknown.total, unknown.room(USUAL), unknown.refuses(u32::MAX)), (None, Room::Unknown, None));
    all[0].memory = Some(0);
    assert_eq!(memory(&all, Some(0.1)).refuses(u32::MAX), None, "0 is not a size");
    assert_eq!(Memory::of("pve", None, Some(0.1)).refuses(u32::MAX), None);
    assert_eq!(Memory::of("elsewhere", Some(&cluster()), Some(0.1)).refuses(u32::MAX), None);
    assert_eq!(
        nodes(&cluster())[1],
        ClusterNode { node: "pve2".into(), status: "offline".into(), memory_bytes: None }
    );
}

fn good() -> Value {
    json!({"type": "lvmthin", "content": "images", "active": 1, "total": 100 * GIB, "used": 60 * GIB, "avail": 40 * GIB})
}

fn with(key: &str, value: Value) -> NodeStorage {
    let mut status = good();
    status[key] = value;
    row(status)
}

#[test]
fn h32_thin_storages_are_judged_by_what_is_written_at_once_and_thick_ones_by_the_disk() {
    let need = Need::of_disk(20, true, Some(2 * GIB));
    let of = |row: &NodeStorage, need, reserve| Storage::of("a", vec!["disks"], Some(row), need, reserve);
    let thin = of(&row(good()), need, 0);
    assert_eq!((thin.room(), thin.room_if_disks_fill(), thin.taken), (Room::Vms(20), Some(2), Some(2 * GIB)));
    assert_eq!(of(&with("type", json!("lvm")), need, 0).room(), Room::Vms(2));
    assert_eq!(of(&row(good()), Need::of_disk(20, false, None), 0).room(), Room::Endless, "a linked clone");
    assert_eq!(of(&row(good()), Need::of_disk(20, true, None), 0).room(), Room::Unknown, "of what size?");
    // A tenth is kept.
    assert_eq!(of(&row(good()), need, 10).room(), Room::Vms(15));
    assert_eq!(of(&row(good()), Need::of_disk(20, false, None), 41).room(), Room::Vms(0));
    // Too small for a single disk, whatever is free.
    assert_eq!(of(&with("total", json!(19 * GIB)), need, 0).room(), Room::Vms(0));
    assert_eq!(of(&with("avail", json!(0)), Need::of_disk(20, false, None), 0).room(), Room::Vms(0));
}

#[test]
fn a_storage_that_tells_nothing_is_unknown_and_refuses_nothing() {
    let need = Need::of_disk(20, true, Some(2 * GIB));
    let unknown = |row: Option<NodeStorage>| {
        let storage = Storage::of("a", vec![], row.as_ref(), need, 99);
        (storage.room(), storage.row.free, storage.row.total)
    };
    // An inactive one has zeros, which are none.
    let inactive = with("active", json!(0));
    for row in [None, Some(inactive), Some(with("total", json!(0))), Some(with("avail", Value::Null))] {
        assert_eq!(unknown(row), (Room::Unknown, None, None));
    }
    assert_eq!(refuses(&with("total", json!(0)), need, 99), None);
    assert_eq!(refuses(&with("avail", Value::Null), need, 99), None);
    assert_eq!(refuses(&row(json!({})), need, 99), None);
}

#[test]
fn the_rooms_are_what_refuses_lets_through() {
    // Creating one VM after the other until one is refused gives the number that was told before.
    for kind in ["lvmthin", "lvm", "dir"] {
        for (need, percent) in
            [(Need::of_disk(7, true, Some(3 * GIB)), 0), (Need::of_disk(7, true, Some(GIB)), 13)]
        {
            let mut storage = with("type", json!(kind));
            let told = Storage::of("a", vec![], Some(&storage), need, percent).room();
            let mut made = 0;
            while refuses(&storage, need, percent).is_none() {
                let taken = if kind == "lvm" { need.disk } else { need.at_once.unwrap() };
                storage.available = storage.available.map(|free| free - taken);
                made += 1;
            }
            assert_eq!(told, Room::Vms(made), "{kind} {need:?}");
        }
    }
}

#[test]
fn a_reserve_is_named_when_it_is_what_refuses() {
    let need = Need::of_disk(20, true, Some(2 * GIB));
    assert_eq!(refuses(&row(good()), need, 38), None, "exactly");
    let why = refuses(&row(good()), need, 39).unwrap();
    for words in
        ["40.0 GiB of 100.0 GiB are free", "2.0 GiB are needed", "39.0 GiB are to stay", "reserve_percent 39"]
    {
        assert!(why.contains(words), "{words}: {why}");
    }
    assert!(refuses(&with("avail", json!(GIB)), need, 0).unwrap().contains("is full: 1.0 GiB"));
}

fn supply(total: usize, free: usize) -> Numbers {
    Numbers::Counted("pool".into(), Supply { total, free })
}

fn capacity() -> Capacity {
    let need = Need::of_disk(20, true, Some(2 * GIB));
    Capacity {
        size: USUAL,
        vmids: supply(900, 888),
        ipv4: supply(51, 13),
        ipv6: supply(253, 241),
        memory: memory(&cluster(), None),
        storages: vec![Storage::of("local-lvm", vec!["disks"], Some(&row(good())), need, 0)],
        nodes: nodes(&cluster()),
        not_known: vec![],
    }
}

#[test]
fn whatever_has_the_least_room_runs_out_first() {
    let of = |change: &dyn Fn(&mut Capacity)| {
        let mut capacity = capacity();
        change(&mut capacity);
        (capacity.room(), capacity.at_most(), capacity.runs_out_first().join(" "))
    };
    assert_eq!(of(&|_| {}), (Room::Vms(12), Some(12), "memory".into()));
    assert_eq!(of(&|one| one.vmids = supply(9, 3)), (Room::Vms(3), Some(3), "vmids".into()));
    assert_eq!(of(&|one| one.ipv4 = supply(9, 3)), (Room::Vms(3), Some(3), "ipv4".into()));
    assert_eq!(of(&|one| one.ipv6 = supply(9, 0)), (Room::Vms(0), Some(0), "ipv6".into()));
    let small = || {
        let row = with("avail", json!(5 * GIB));
        vec![Storage::of("s", vec!["disks"], Some(&row), Need::of_disk(20, true, Some(2 * GIB)), 0)]
    };
    assert_eq!(of(&|one| one.storages = small()), (Room::Vms(2), Some(2), "storage s".into()));
    // Several at once.
    assert_eq!(of(&|one| one.ipv4 = supply(12, 12)).2, "ipv4 memory");
    // A host without IPv6 is not limited by it.
    assert_eq!(of(&|one| one.ipv6 = Numbers::None).0, Room::Vms(12));
    // With one unknown, the others say at most how many, and zero is certain.
    assert_eq!(of(&|one| one.vmids = Numbers::Unknown), (Room::Unknown, Some(12), "memory".into()));
    let none = |one: &mut Capacity| (one.vmids, one.ipv4) = (Numbers::Unknown, supply(1, 0));
    assert_eq!(of(&none), (Room::Vms(0), Some(0), "ipv4".into()));
    let nothing = |one: &mut Capacity| {
        (one.vmids, one.ipv4, one.ipv6) = (Numbers::Unknown, Numbers::Unknown, Numbers::Unknown);
        one.memory = Memory::default();
        one.storages = vec![Storage::of("s", vec![], None, Need::CLOUD_INIT, 0)];
    };
    assert_eq!(of(&nothing), (Room::Unknown, None, String::new()));
}

#[test]
fn unknown_is_null_in_json_and_has_no_sample() {
    let mut capacity = capacity();
    capacity.vmids = Numbers::Unknown;
    capacity.ipv6 = Numbers::None;
    let json = serde_json::to_value(&capacity).unwrap();
    assert_eq!(
        json["vmids"],
        json!({"pool": null, "total": null, "free": null, "limit": "unknown", "more_vms": null})
    );
    assert_eq!([&json["ipv6"]["limit"], &json["ipv6"]["more_vms"]], [&json!("none"), &Value::Null]);
    assert_eq!([&json["more_vms"], &json["more_vms_at_most"]], [&Value::Null, &json!(12)]);
    assert_eq!(json["nodes"][1]["memory_bytes"], Value::Null);
    let text = prometheus(&capacity);
    assert!(
        !text.contains("vmids") && !text.contains("ipv6") && !text.contains("blockhost_capacity_vms "),
        "{text}"
    );
    assert!(text.contains("blockhost_capacity_resource_vms{resource=\"memory\"} 12\n"), "{text}");
    assert!(text.contains("blockhost_capacity_node_online{node=\"pve2\"} 0\n"), "{text}");
    // The memory of a VM that is not measured is part of the sum.
    capacity.memory.unmeasured = 1;
    assert!(!prometheus(&capacity).contains("promised"), "{text}");
}

#[test]
fn h55_what_anybody_holds_is_not_free() {
    let range = VmidRange { start: Vmid::new(100).unwrap(), end: Vmid::new(109).unwrap() };
    let network = Ipv4Network::parse("10.0.0.0/29").unwrap();
    let end = |text: &str| network.pool_end(text).unwrap();
    let pool = Ipv4Pool { network, start: end("0"), end: end("7"), gateway: end("1") };
    let prefix = Ipv6Prefix::parse("2001:db8::/120").unwrap();
    let pool6 = Ipv6Pool { prefix, start: 2, end: 254, gateway: prefix.at(1).unwrap() };
    let mut held = Held::default();
    assert_eq!(supplies::vmids(range, &held), Supply { total: 10, free: 10 });
    assert_eq!(
        supplies::ipv4(&pool, &held),
        Supply { total: 5, free: 5 },
        "neither gateway, network nor broadcast"
    );
    assert_eq!(supplies::ipv6(&pool6, &held), Supply { total: 253, free: 253 });
    held.vmids.extend([100, 101, 500]);
    held.foreign_vmids.extend([101, 109]);
    held.ipv4
        .extend(["10.0.0.1", "10.0.0.2", "10.0.0.9"].map(|text| text.parse::<std::net::Ipv4Addr>().unwrap()));
    held.ipv6.extend(
        ["2001:db8::1", "2001:db8::2", "2001:db9::3"].map(|text| text.parse::<std::net::Ipv6Addr>().unwrap()),
    );
    assert_eq!(supplies::vmids(range, &held).free, 7);
    assert_eq!(supplies::ipv4(&pool, &held).free, 4);
    assert_eq!(supplies::ipv6(&pool6, &held).free, 252);
}
