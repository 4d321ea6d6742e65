//! `ip`, `bridge`, `tc`: wordings and codes of iproute2.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests: no doors to guard, and they end where they cannot go on"
)]

mod common;

use common::{node, ok, run, with_guest, words_of};

#[track_caller]
fn says(lab: &lab::Lab, line: &str, code: i32, err: &str) {
    let said = run(lab, line);
    assert_eq!((said.code, said.err.as_str()), (code, err), "{line}");
}

#[test]
fn routes_are_the_kernels() {
    let lab = with_guest(node());
    let address = "2a11:6c7:f04:276::2";
    ok(&lab, &format!("ip -6 route add {address}/128 dev vmbr0"));
    says(&lab, &format!("ip -6 route add {address}/128 dev vmbr0"), 2, "RTNETLINK answers: File exists\n");
    ok(&lab, &format!("ip -6 route replace {address}/128 dev vmbr0"));
    assert_eq!(ok(&lab, "ip -6 route show"), format!("{address} dev vmbr0 metric 1024 pref medium\n"));
    assert_eq!(ok(&lab, "ip -6 route show dev vmbr0"), format!("{address} metric 1024 pref medium\n"));
    let routes = lab.control().snapshot().unwrap().routes;
    assert_eq!((routes.len(), routes[0].dst.as_str(), routes[0].dev.as_str()), (1, address, "vmbr0"));
    says(&lab, &format!("ip -6 route replace {address}/128 dev nope"), 1, "Cannot find device \"nope\"\n");
    says(
        &lab,
        &format!("ip -6 route add {address}/128 dev tap100i0"),
        2,
        "Error: IPv6 is disabled on nexthop device.\n",
    );
    says(
        &lab,
        "ip -6 route add 2a11::zz/128 dev vmbr0",
        1,
        "Error: inet6 prefix is expected rather than \"2a11::zz/128\".\n",
    );
    ok(&lab, "qm stop 100");
    ok(&lab, "qm destroy 100");
    assert_eq!(lab.control().snapshot().unwrap().routes.len(), 1, "Proxmox does not know of it");
    ok(&lab, &format!("ip -6 route del {address}/128 dev vmbr0"));
    says(
        &lab,
        &format!("ip -6 route del {address}/128 dev vmbr0"),
        2,
        "RTNETLINK answers: No such process\n",
    );
}

#[test]
fn h36_isolation_is_set_on_ports() {
    let lab = with_guest(node());
    ok(&lab, "bridge link set dev tap100i0 isolated on");
    let text = ok(&lab, "bridge -d link show dev tap100i0");
    assert!(
        text.contains(": tap100i0: <") && text.contains(" master vmbr0 ") && text.contains(" isolated on "),
        "{text}"
    );
    ok(&lab, "bridge link set dev tap100i0 isolated off");
    assert!(ok(&lab, "bridge -d link show dev tap100i0").contains(" isolated off "));
    says(&lab, "bridge link set dev tap101i0 isolated on", 255, "Cannot find bridge device \"tap101i0\"\n");
    says(&lab, "bridge link set dev vmbr0 isolated on", 255, "RTNETLINK answers: Operation not supported\n");
    assert!(ok(&lab, "ip link show master vmbr0").contains("tap100i0"));
    says(&lab, "ip link show nope", 1, "Device \"nope\" does not exist.\n");
}

#[test]
fn h35_traffic_control_complains_as_the_kernel_does() {
    let lab = with_guest(node());
    let tbf = "root tbf rate 2mbit burst 64kb latency 50ms";
    ok(&lab, &format!("tc qdisc add dev tap100i0 {tbf}"));
    says(
        &lab,
        &format!("tc qdisc add dev tap100i0 {tbf}"),
        2,
        "Error: Exclusivity flag on, cannot modify.\n",
    );
    ok(&lab, "tc qdisc replace dev tap100i0 root tbf rate 3mbit burst 64kb latency 50ms");
    says(&lab, "tc qdisc add dev nope root htb", 1, "Cannot find device \"nope\"\n");
    let police = [
        "tc", "filter", "add", "dev", "tap100i0", "parent", "ffff:", "protocol", "all", "basic", "police",
        "rate", "2mbit", "burst", "64kb", "mtu", "64kb", "drop",
    ];
    let said = words_of(&lab, &police);
    assert_eq!(
        (said.code, said.err.as_str()),
        (2, "Error: Parent Qdisc doesn't exists.\nWe have an error talking to the kernel\n")
    );
    ok(&lab, "tc qdisc add dev tap100i0 handle ffff: ingress");
    assert_eq!(words_of(&lab, &police).code, 0);
    let tc = lab.control().snapshot().unwrap().ports["tap100i0"].tc.clone();
    assert_eq!(
        tc,
        [
            "qdisc root tbf rate 3mbit burst 64kb latency 50ms",
            "qdisc handle ffff: ingress",
            "filter parent ffff: protocol all basic police rate 2mbit burst 64kb mtu 64kb drop",
        ]
    );
    ok(&lab, "tc qdisc del dev tap100i0 ingress");
    assert_eq!(
        lab.control().snapshot().unwrap().ports["tap100i0"].tc.len(),
        1,
        "filters go with their qdisc"
    );
    ok(&lab, "tc qdisc del dev tap100i0 root");
    says(&lab, "tc qdisc del dev tap100i0 root", 2, "Error: Cannot delete qdisc with handle of zero.\n");
    says(
        &lab,
        "tc qdisc del dev tap100i0 ingress",
        2,
        "Error: Cannot find specified qdisc on specified device.\n",
    );
    says(
        &lab,
        "tc class add dev tap100i0 parent 1: classid 1:1 htb rate 2mbit",
        2,
        "RTNETLINK answers: No such file or directory\n",
    );
}
