//! Step bridge on real interfaces: the host keeps its address, whatever happens.

use super::bare::fails;
use super::namespace::{INTERFACES, Namespace};
use serde_json::{Value, json};

const BEFORE: [&str; 2] = ["default via 192.0.2.1 dev eno1", "eno1 192.0.2.7/24"];
const AFTER: [&str; 2] = ["default via 192.0.2.1 dev vmbr0 proto kernel onlink", "vmbr0 192.0.2.7/24"];

fn shared() -> Value {
    json!({"node": "pve", "bridge": "vmbr0", "ip_network": "192.0.2.0/24", "ip_start": "200", "ip_end": "250", "gateway": "192.0.2.1"})
}

fn own_network() -> Value {
    json!({"node": "pve", "bridge": "vmbr0", "ip_network": "10.1.0.0/24", "ip_start": "200", "ip_end": "250", "gateway": "10.1.0.1"})
}

/// As before: addresses, routes, files, and no guard.
#[track_caller]
fn is_untouched(host: &Namespace) {
    assert_eq!(host.picture(), BEFORE);
    assert_eq!(host.file("interfaces").as_deref(), Some(INTERFACES));
    assert_eq!(host.file("interfaces.new"), None);
    assert_eq!(host.guards(), 0);
    assert!(!host.sh("ip -o link").contains(" vmbr0:"));
}

#[test]
fn the_bridge_takes_over_the_uplink_and_its_address() {
    let host = Namespace::new();
    assert_eq!(host.bridge(&shared())["ok"], true);
    assert_eq!(host.picture(), AFTER);
    assert!(host.sh("ip -o link show eno1").contains("master vmbr0"));
    let file = host.file("interfaces").unwrap();
    assert!(
        file.contains("auto vmbr0\niface vmbr0 inet static\n\taddress 192.0.2.7/24\n\tgateway 192.0.2.1\n"),
        "{file}"
    );
    assert!(
        file.contains("bridge-ports eno1") && file.contains("auto eno1\niface eno1 inet manual\n"),
        "{file}"
    );
    assert_eq!(host.guards(), 0);
    // Again: nothing is asked of the node but a look.
    host.set_file("calls", "");
    assert_eq!(host.bridge(&shared())["ok"], true);
    assert_eq!(host.file("calls").unwrap(), "get /nodes/pve/network --output-format json\n");
}

#[test]
fn guests_of_a_network_of_their_own_get_a_bridge_beside_the_uplink() {
    let host = Namespace::new();
    assert_eq!(host.bridge(&own_network())["ok"], true);
    assert_eq!(host.picture(), [BEFORE[0], BEFORE[1], "vmbr0 10.1.0.1/24"]);
}

#[test]
fn h32_a_task_that_fails_with_exit_code_0_is_noticed_and_put_back() {
    for fault in ["apply-fails", "apply-half"] {
        let host = Namespace::new();
        host.fault(fault);
        let answer = host.bridge(&shared());
        fails(&answer, &["the network is as it was before", "vmbr0"]);
        is_untouched(&host);
        host.fault("");
        assert_eq!(host.bridge(&shared())["ok"], true, "{fault}: it can be run again");
        assert_eq!(host.picture(), AFTER);
    }
}

#[test]
fn a_plan_that_proxmox_wrote_otherwise_is_not_applied() {
    let host = Namespace::new();
    host.fault("plan-is-wrong");
    fails(&host.bridge(&shared()), &["lacks vmbr0 with 192.0.2.7"]);
    is_untouched(&host);
}

#[test]
fn changes_of_an_administrator_that_wait_are_not_applied_with_ours() {
    let host = Namespace::new();
    host.set_file("interfaces.new", "iface eno9 inet manual\n");
    fails(&host.bridge(&shared()), &["not applied", "interfaces.new"]);
    assert_eq!(host.file("interfaces.new").as_deref(), Some("iface eno9 inet manual\n"));
    assert_eq!(host.picture(), BEFORE);
}

#[test]
fn an_uplink_that_is_configured_elsewhere_is_not_taken() {
    let host = Namespace::new();
    host.set_file("interfaces", "auto lo\niface lo inet loopback\n");
    fails(&host.bridge(&shared()), &["eno1", "cloud-init"]);
    assert_eq!(host.picture(), BEFORE);
    assert_eq!(host.file("interfaces.new"), None);
}

#[test]
fn killed_in_the_middle_the_guard_puts_the_address_back() {
    let host = Namespace::new();
    host.fault("apply-hangs");
    let mut child = host.start(&shared(), None);
    host.becomes(&["default via 192.0.2.1 dev eno1"][..0]);
    assert_eq!(host.guards(), 1);
    child.kill().unwrap();
    child.wait().unwrap();
    host.becomes(&BEFORE);
    wait_for_no_guard(&host);
    is_untouched(&host);
}

#[test]
fn killed_after_a_change_that_went_well_the_guard_leaves_it() {
    let host = Namespace::new();
    host.fault("apply-slow");
    let mut child = host.start(&shared(), Some("kill@setup.bridge.applied"));
    child.wait().unwrap();
    wait_for_no_guard(&host);
    assert_eq!(host.picture(), AFTER);
    assert_eq!(host.bridge(&shared())["ok"], true);
}

#[test]
fn killed_at_every_step_the_host_has_its_address_and_the_next_run_finishes() {
    for point in ["planned", "guarded", "applied"] {
        let host = Namespace::new();
        host.start(&shared(), Some(&format!("kill@setup.bridge.{point}"))).wait().unwrap();
        wait_for_no_guard(&host);
        assert!(host.picture() == BEFORE || host.picture() == AFTER, "{point}: {:?}", host.picture());
        assert_eq!(host.bridge(&shared())["ok"], true, "{point}");
        assert_eq!(host.picture(), AFTER, "{point}");
        assert_eq!(host.file("interfaces.new"), None);
    }
}

#[test]
fn a_signal_in_the_middle_puts_the_address_back() {
    let host = Namespace::new();
    host.fault("apply-hangs");
    let child = host.start(&shared(), None);
    host.becomes(&["default via 192.0.2.1 dev eno1"][..0]);
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let done = child.wait_with_output().unwrap();
    fails(&super::namespace::answer(&done), &["interrupted", "as it was before"]);
    is_untouched(&host);
}

fn wait_for_no_guard(host: &Namespace) {
    test_support::until(&format!("the guard of {} goes", host.path().display()), || host.guards() == 0);
}

/// A host that has more on its uplink than Proxmox carries over: refused beforehand, the reason named, nothing changed.
#[track_caller]
fn is_refused(prepare: &str, interfaces: &str, word: &str) {
    let host = Namespace::new();
    let text = format!("{INTERFACES}{interfaces}");
    host.set_file("interfaces", &text);
    host.sh(prepare);
    let all = "ip -o address show; ip route show table all; ip -6 route show table all; ip rule; ip neigh show nud permanent";
    // An address that has just come up is tentative for a moment, and lifetimes run, whoever looks.
    let timeless = |word: &&str| *word != "tentative" && !word.ends_with("sec");
    let look = || host.sh(all).split(' ').filter(timeless).collect::<Vec<_>>().join(" ");
    let before = look();
    fails(&host.bridge(&shared()), &["cannot take over", word, "nothing was changed"]);
    assert_eq!(look(), before);
    assert_eq!(host.file("interfaces").unwrap(), text);
    assert_eq!(host.file("interfaces.new"), None);
    assert!(!host.file("calls").unwrap().lines().any(|call| !call.starts_with("get ")));
}

#[test]
fn h59_what_cannot_be_carried_over_is_refused_beforehand() {
    let slaac = "ip -6 address add 2001:db8:1::7/64 dev eno1 nodad valid_lft 5000 preferred_lft 4000";
    for (prepare, interfaces, word) in [
        ("ip route add 10.99.0.0/16 via 192.0.2.254 dev eno1", "", "10.99.0.0/16 via 192.0.2.254"),
        (
            "true",
            "iface eno1 inet static\n\tup ip route add 10.99.0.0/16 via 192.0.2.254\n",
            "up ip route add",
        ),
        (slaac, "", "2001:db8:1::7/64 (of DHCP or a router advertisement)"),
        ("true", "iface eno1 inet6 auto\n", "inet6 auto"),
        ("ip address add 192.0.2.8/24 dev eno1", "", "192.0.2.8/24"),
        ("ip route add default via 192.0.2.2 dev eno1 metric 50", "", "metric 50"),
        ("ip route add default via 192.0.2.9 dev eno1 table 100", "", "table 100"),
        ("ip rule add iif eno1 lookup 100", "", "iif eno1"),
        ("ip neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev eno1 nud permanent", "", "192.0.2.9"),
        ("ip link add mac0 link eno1 type macvlan", "", "mac0"),
        ("echo 1 > /proc/sys/net/ipv4/conf/eno1/proxy_arp", "", "proxy_arp"),
    ] {
        is_refused(prepare, interfaces, word);
    }
}

#[test]
fn h59_an_uplink_of_dhcp_is_not_made_static() {
    let host = Namespace::new();
    let text = "auto lo\niface lo inet loopback\nauto eno1\niface eno1 inet dhcp\n";
    host.set_file("interfaces", text);
    fails(&host.bridge(&shared()), &["DHCP", "nothing was changed"]);
    assert_eq!(
        (host.picture(), host.file("interfaces").as_deref()),
        (BEFORE.map(String::from).to_vec(), Some(text))
    );
}

const SIX: &str = "iface eno1 inet6 static\n\taddress 2001:db8:1::7/64\n\tgateway 2001:db8:1::1\n";
const SIX_NOW: &str =
    "ip -6 address add 2001:db8:1::7/64 dev eno1 nodad; ip -6 route add default via 2001:db8:1::1 dev eno1";

#[test]
fn h59_static_ipv6_moves_with_the_rest() {
    let host = Namespace::new();
    host.set_file("interfaces", &format!("{INTERFACES}{SIX}"));
    host.sh(SIX_NOW);
    assert_eq!(host.bridge(&shared())["error"], Value::Null);
    assert_eq!(host.picture(), AFTER);
    assert!(host.sh("ip -6 -o address show dev vmbr0").contains("2001:db8:1::7/64"));
    assert!(host.sh("ip -6 route show default").contains("via 2001:db8:1::1 dev vmbr0"));
}

#[test]
fn h59_what_is_lost_on_the_way_all_the_same_is_put_back() {
    for (fault, word) in
        [("six-is-lost", "2001:db8:1::1"), ("route-is-lost", "10.99.0.0/16"), ("rule-is-lost", "192.0.2.7")]
    {
        let host = Namespace::new();
        host.set_file("interfaces", &format!("{INTERFACES}{SIX}"));
        // A route through another interface, and a rule, have nothing to do with the uplink: they have to stay.
        host.sh(&format!(
            "{SIX_NOW}; ip link add eno2 type veth peer name far; ip link set eno2 up; ip link set far up; \
             ip address add 198.51.100.7/24 dev eno2; ip route add 10.99.0.0/16 via 198.51.100.9 dev eno2; \
             ip rule add pref 99 from 192.0.2.7 lookup 100"
        ));
        host.set_file(
            "interfaces",
            &format!("{INTERFACES}{SIX}auto eno2\niface eno2 inet static\n\taddress 198.51.100.7/24\n"),
        );
        let all = "ip -4 -o address show | sort; ip -6 -o address show scope global | sort; ip route | sort; ip -6 route show default; ip rule";
        let before = host.sh(all);
        host.fault(fault);
        fails(&host.bridge(&shared()), &["lost a ", word, "the network is as it was before"]);
        assert_eq!(host.sh(all).replace(" linkdown", ""), before.replace(" linkdown", ""), "{fault}");
        host.fault("");
        assert_eq!(host.bridge(&shared())["error"], Value::Null, "{fault}: it can be run again");
        assert!(host.sh("ip route").contains("10.99.0.0/16 via 198.51.100.9 dev eno2"));
    }
}

#[test]
fn h59_an_api_that_cannot_be_reached_any_more_puts_the_network_back() {
    let host = Namespace::new();
    let listen = "import socket, time\ns = socket.create_server(('192.0.2.7', 8006))\nprint('ready', flush=True)\ntime.sleep(600)";
    let mut api = host.command("python3");
    let mut api = api.args(["-c", listen]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut output = std::io::BufReader::new(api.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut output, &mut line).unwrap();
    assert_eq!(line, "ready\n");
    host.fault(&format!("api-is-lost {}", api.id()));
    let answer = host.bridge(&shared());
    let _ = api.kill();
    api.wait().unwrap();
    fails(&answer, &["the Proxmox API is no longer reachable at 192.0.2.7", "port 8006"]);
    is_untouched(&host);
}

#[test]
fn h59_a_vnet_of_the_sdn_is_taken_as_it_is() {
    let host = Namespace::new();
    std::fs::create_dir(host.path().join("network/interfaces.d")).unwrap();
    host.set_file(
        "interfaces.d/sdn",
        "auto vnet1\niface vnet1\n\taddress 10.7.0.1/24\n\tbridge_ports none\n",
    );
    let answers = json!({"node": "pve", "bridge": "vnet1", "ip_network": "10.7.0.0/24", "ip_start": "100", "ip_end": "150", "gateway": "10.7.0.1"});
    fails(&host.bridge(&answers), &["vnet1 is configured in /etc/network/interfaces.d/sdn", "apply"]);
    host.sh("ip link add vnet1 type bridge; ip link set vnet1 up; ip address add 10.7.0.1/24 dev vnet1");
    assert_eq!(host.bridge(&answers)["error"], Value::Null);
    assert_eq!(host.file("interfaces").as_deref(), Some(INTERFACES));
    assert!(!host.file("calls").unwrap().contains("create"));
}
