//! The reader's types, and when there is a rate.

use super::*;
use serde_json::json;

/// The monitor's own structure, strictly typed like Go's decoder. A missing key is an error here, because none may be
/// missing.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "what counts is that each field can be read")]
struct Read {
    cpu_percent: f64,
    cpu_count: i64,
    memory_used_mb: i64,
    memory_total_mb: i64,
    disk_used_mb: i64,
    disk_total_mb: i64,
    disk_read_iops: i64,
    disk_write_iops: i64,
    disk_read_bytes_sec: i64,
    disk_write_bytes_sec: i64,
    net_rx_bytes_sec: i64,
    net_tx_bytes_sec: i64,
    net_connections: i64,
    guest_agent_responsive: bool,
    uptime_seconds: i64,
    state: String,
}

fn reading(at_ms: i64, uptime: u64, counted: u64) -> Reading {
    let counters = Counters {
        net_rx: counted,
        net_tx: counted * 2,
        disk_read: Some(counted * 3),
        disk_written: Some(counted * 4),
        reads: Some(counted / 10),
        writes: Some(counted / 5),
    };
    Reading { at_ms, uptime, counters }
}

#[test]
fn h38_the_strictly_typed_reader_reads_whatever_the_node_says() {
    let odd = [
        json!({}),
        json!({"cpus": 2, "maxmem": 2147483648_u64, "mem": 12.75, "maxdisk": "10737418240", "uptime": 12}),
        json!({"cpus": 1.0, "maxmem": 1e30, "mem": -5, "maxdisk": null, "uptime": "x"}),
        json!({"cpus": "2", "mem": u64::MAX, "maxmem": u64::MAX, "maxdisk": u64::MAX, "uptime": u64::MAX}),
    ];
    for line in &odd {
        for share in [0.0, 0.12, 1.0, 7.5, f64::NAN, f64::INFINITY, -1.0] {
            let last = reading(2000, 2, u64::MAX / 8);
            let told = figures(line, RunState::Running).with_cpu(share);
            let told = told.with_rates(&rates(Some(&reading(0, 0, 0)), &last, Between::Clock));
            let text = serde_json::to_string(&told).unwrap();
            let read: Read = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
            assert!(read.cpu_percent >= 0.0 && read.cpu_percent <= 100.0 * read.cpu_count as f64, "{text}");
            let integers = text.split(',').filter(|part| !part.contains("cpu_percent"));
            assert!(integers.clone().all(|part| !part.contains('.')), "{text}");
        }
    }
    let plain = serde_json::to_string(&Metrics::default()).unwrap();
    assert_eq!(
        plain,
        "{\"cpu_percent\":0.0,\"cpu_count\":0,\"memory_used_mb\":0,\"memory_total_mb\":0,\"disk_used_mb\":-1,\
         \"disk_total_mb\":0,\"disk_read_iops\":0,\"disk_write_iops\":0,\"disk_read_bytes_sec\":0,\
         \"disk_write_bytes_sec\":0,\"net_rx_bytes_sec\":0,\"net_tx_bytes_sec\":0,\"net_connections\":-1,\
         \"guest_agent_responsive\":false,\"uptime_seconds\":0,\"state\":\"unknown\"}"
    );
}

#[test]
fn h38_a_share_is_of_all_cpus_of_the_vm() {
    let told = figures(&json!({"cpus": 4}), RunState::Running).with_cpu(0.5);
    assert_eq!(told.cpu_percent, 200.0);
}

#[test]
fn h38_rates_are_changes_by_time() {
    let found = rates(Some(&reading(10_000, 100, 1000)), &reading(12_000, 102, 3000), Between::Clock);
    let expected =
        Rates { net_rx: 1000, net_tx: 2000, disk_read: 3000, disk_written: 4000, reads: 100, writes: 200 };
    assert_eq!(found, expected);
    let late_by_1_ms = rates(Some(&reading(10_000, 100, 0)), &reading(12_001, 102, 40), Between::Clock);
    assert_eq!(late_by_1_ms.reads, 2, "the nearest");
    // Figures of the node's own statistics belong to the uptime they were taken at, not to the moment they are read.
    let late = rates(Some(&reading(10_000, 100, 1000)), &reading(99_000, 110, 11_000), Between::Uptime);
    assert_eq!(late.net_rx, 1000);
}

#[test]
fn h38_no_rate_without_two_looks_at_one_run_and_a_clock_that_agrees() {
    let zero = Rates::default();
    let now = reading(12_000, 102, 3000);
    let odd = [
        ("first", None),
        ("started again, counters begin anew", Some(reading(10_000, 4000, 9000))),
        ("started again, and more was counted since", Some(reading(10_000, 4000, 100))),
        ("started again, long ago", Some(reading(10_000, 10, 100))),
        (
            "one counter went back",
            Some(Reading {
                counters: Counters { net_tx: 6001, ..reading(0, 0, 0).counters },
                ..reading(10_000, 100, 1000)
            }),
        ),
        (
            "an operation count went back",
            Some(Reading {
                counters: Counters { reads: Some(301), ..reading(0, 0, 0).counters },
                ..reading(10_000, 100, 1000)
            }),
        ),
        ("the clock was set back", Some(reading(3_610_000, 100, 1000))),
        ("the clock was set forward", Some(reading(-3_590_000, 100, 1000))),
        ("no time", Some(reading(12_000, 102, 1000))),
        ("the end of time", Some(reading(i64::MIN, 100, 1000))),
    ];
    for (what, before) in odd {
        assert_eq!(rates(before.as_ref(), &now, Between::Clock), zero, "{what}");
    }
    let without =
        |look: Reading| Reading { counters: Counters { reads: None, writes: None, ..look.counters }, ..look };
    let found = rates(Some(&without(reading(10_000, 100, 1000))), &without(now), Between::Clock);
    assert_eq!((found.reads, found.writes, found.net_rx), (-1, -1, 1000), "not counted is unknown");
    let found = rates(Some(&without(reading(10_000, 100, 1000))), &now, Between::Clock);
    assert_eq!((found.reads, found.net_rx), (0, 1000), "counted for the first time");
    assert_eq!(rates(None, &without(now), Between::Clock).reads, -1);
}

#[test]
fn h38_a_qemu_that_did_not_answer_the_node_makes_no_enormous_rate() {
    let line = |disk: u64| json!({"netin": 1, "netout": 1, "diskread": disk, "diskwrite": disk});
    let status = |disk: u64| json!({"blockstat": {"scsi0": {"rd_bytes": disk, "wr_bytes": disk}}});
    let listed =
        [listed_counters(&line(9 << 40)), listed_counters(&line(0)), listed_counters(&line(9 << 40))];
    let live = [live_counters(&status(9 << 40)), live_counters(&line(0)), live_counters(&status(9 << 40))];
    for [before, silent, after] in [listed, live] {
        let at = |seconds: u64, counters| Reading {
            at_ms: i64::try_from(seconds * 1000).unwrap(),
            uptime: seconds,
            counters,
        };
        let found = rates(Some(&at(2, before)), &at(4, silent), Between::Clock);
        assert_eq!((found.disk_read, found.disk_written), (-1, -1));
        let found = rates(Some(&at(4, silent)), &at(6, after), Between::Clock);
        assert_eq!((found.disk_read, found.disk_written), (0, 0));
    }
}

#[test]
fn h38_callers_at_once_do_not_spoil_each_others_rates() {
    let mut looks = Readings::default();
    assert_eq!(looks.add(reading(10_000, 100, 1000)), (Rates::default(), true));
    let (found, is_noted) = looks.add(reading(10_004, 100, 1010));
    assert_eq!((found, is_noted), (Rates::default(), false), "nothing to compare with yet");
    assert_eq!(looks.add(reading(12_000, 102, 3000)).0.net_rx, 1000);
    // Right after another reading: compared with the one before that, not over 5 ms.
    let (found, is_noted) = looks.add(reading(12_005, 102, 3000));
    assert_eq!((found.net_rx, is_noted), (998, false));
    assert_eq!(looks.add(reading(14_000, 104, 5000)).0.net_rx, 1000);
    // The clock was set back: one rate is lost.
    assert_eq!(looks.add(reading(4_000, 106, 7000)).0.net_rx, 0);
    assert_eq!(looks.add(reading(6_000, 108, 9000)).0.net_rx, 1000);
    // Restarted within a second of the last reading.
    assert_eq!(looks.add(reading(6_500, 0, 0)), (Rates::default(), true));
    assert_eq!(looks.add(reading(8_500, 2, 2000)).0.net_rx, 1000);
    assert!(looks.0.len() <= 2);
}

#[test]
fn h38_status_knows_two_words_and_qmpstatus_more() {
    for (word, state) in [
        ("running", RunState::Running),
        ("stopped", RunState::Stopped),
        ("paused", RunState::Paused),
        ("prelaunch", RunState::Paused),
        ("io-error", RunState::Unknown),
        ("", RunState::Unknown),
    ] {
        assert_eq!(RunState::of_qmp(word), state, "{word:?}");
    }
    let off = figures(&json!({"cpus": 2, "mem": 1 << 30, "uptime": 5}), RunState::Stopped);
    assert_eq!((off.memory_used_mb, off.uptime_seconds, off.cpu_count), (0, 0, 2));
}

#[test]
fn h38_counters_of_all_drives_are_added_and_get_fsinfo_stands_under_result() {
    let drive =
        |n: u64| json!({"rd_bytes": n, "wr_bytes": 2 * n, "rd_operations": 3 * n, "wr_operations": 4 * n});
    let live =
        json!({"netin": 5, "netout": 6, "diskread": 0, "blockstat": {"scsi0": drive(10), "scsi1": drive(1)}});
    let found = live_counters(&live);
    let (reads, writes) = (found.reads, found.writes);
    assert_eq!(
        (found.disk_read, found.disk_written, reads, writes),
        (Some(11), Some(22), Some(33), Some(44))
    );
    assert_eq!((found.net_rx, found.net_tx), (5, 6));
    let found = listed_counters(&json!({"diskread": 7, "diskwrite": 8}));
    assert_eq!((found.disk_read, found.disk_written, found.reads), (Some(7), Some(8), None));

    let mounted =
        |name: &str, kind: &str, bytes: u64| json!({"name": name, "type": kind, "used-bytes": bytes});
    let list = [
        mounted("sda1", "ext4", 100 << 20),
        mounted("sda1", "ext4", 100 << 20),
        mounted("loop0", "squashfs", 70 << 20),
        json!({"name": "sda15", "type": "vfat"}),
        mounted("sdb1", "xfs", 11 << 20),
    ];
    assert_eq!(disk_used_mb(&json!({ "result": list })), Some(111));
    assert_eq!(disk_used_mb(&json!({"result": [{"name": "sda15"}]})), None);
    assert_eq!(disk_used_mb(&json!([])), None);
}

#[test]
fn prometheus_text_has_types_labels_and_no_sample_for_what_is_not_known() {
    let figures = figures(&json!({"cpus": 2, "maxmem": 1 << 30, "uptime": 9}), RunState::Running);
    let known = Named {
        name: "web-1".into(),
        vmid: 100,
        metrics: figures.with_cpu(0.25),
        counters: Some(Counters { reads: None, ..reading(0, 0, 10).counters }),
        agent_asked: false,
    };
    let unknown = Named {
        name: "web-2".into(),
        vmid: 101,
        metrics: Metrics::default(),
        counters: None,
        ..known.clone()
    };
    let text = prometheus(&[known, unknown]);
    for line in [
        "# TYPE blockhost_vm_state gauge",
        "blockhost_vm_state{vm=\"web-1\",vmid=\"100\",state=\"running\"} 1",
        "blockhost_vm_state{vm=\"web-2\",vmid=\"101\",state=\"unknown\"} 1",
        "blockhost_vm_cpu_usage_ratio{vm=\"web-1\",vmid=\"100\"} 0.2500",
        "blockhost_vm_memory_size_bytes{vm=\"web-1\",vmid=\"100\"} 1073741824",
        "# TYPE blockhost_vm_network_receive_bytes_total counter",
        "blockhost_vm_network_receive_bytes_total{vm=\"web-1\",vmid=\"100\"} 10",
        "blockhost_vm_disk_writes_total{vm=\"web-1\",vmid=\"100\"} 2",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    for none in ["disk_reads_total", "filesystem_used", "agent_responsive"] {
        assert!(!text.contains(none), "{none}\n{text}");
    }
    assert!(
        text.lines().filter(|line| line.contains("web-2")).all(|line| line.contains("vm_state")),
        "{text}"
    );
}
