#!/usr/bin/env bats
# /etc/hosts and the address behind the host name.
load lib.bash

setup_file() { prepare; }
setup() { world "$BATS_TEST_TMPDIR/world"; }

# Only the first step is of interest here: the others are done.
boot_hostname() {
    mkdir -p "$W/var/lib/blockhost"
    touch "$W/var/lib/blockhost/.step-terraform" "$W/var/lib/blockhost/.step-proxmox"
    echo installed >"$W/dpkg/proxmox-ve"
    boot
}

# becomes TEXT: the hook makes TEXT of /etc/hosts as it is, and a second time changes nothing.
becomes() {
    boot_hostname
    [ "$status" -eq 0 ]
    diff <(printf '%b' "$1") "$W/etc/hosts"
    local before
    before=$(stat -c '%i %y' "$W/etc/hosts")
    rm "$W/var/lib/blockhost/.step-hostname"
    boot
    [ "$status" -eq 0 ]
    [ "$(stat -c '%i %y' "$W/etc/hosts")" = "$before" ]
}

@test "127.0.1.1 gives way to the real address; the full name comes first; all else stays" {
    printf '# mine\n127.0.0.1 localhost\n127.0.1.1 pve1.example.net pve1\n10.0.0.7\tstore # nfs\n\n::1 localhost ip6-loopback\n' >"$W/etc/hosts"
    becomes '# mine\n127.0.0.1 localhost\n192.0.2.10\tpve1.example.net pve1\n10.0.0.7\tstore # nfs\n\n::1 localhost ip6-loopback\n'
}

@test "other names of a loopback line stay there" {
    printf '127.0.0.1 localhost pve1\n127.0.1.1 pve1.example.net pve1 puppet # old\n::1 localhost pve1\n' >"$W/etc/hosts"
    becomes '192.0.2.10\tpve1.example.net pve1\n127.0.0.1\tlocalhost\n127.0.1.1\tpuppet # old\n::1\tlocalhost\n'
}

@test "a name that stands nowhere is added, also where the last line has no end" {
    printf '127.0.0.1 localhost\n10.0.0.7 store' >"$W/etc/hosts"
    becomes '127.0.0.1 localhost\n10.0.0.7 store\n192.0.2.10\tpve1\n'
}

@test "an entry that is right already is left as it is, spaces and all" {
    printf '127.0.0.1 localhost\n192.0.2.10    pve1.example.net   pve1   pve  # node\n' >"$W/etc/hosts"
    becomes '127.0.0.1 localhost\n192.0.2.10    pve1.example.net   pve1   pve  # node\n'
}

@test "an entry with the short name first is put in order, its other names and its comment kept" {
    printf '127.0.0.1 localhost\n192.0.2.10 pve1 pve pve1.example.net # node\n' >"$W/etc/hosts"
    becomes '127.0.0.1 localhost\n192.0.2.10\tpve1.example.net pve1 pve # node\n'
}

@test "a stale address gives way; names that only look alike are left alone; capitals are the same name" {
    printf '127.0.0.1 localhost\n10.9.9.9 PVE1.example.net PVE1\n10.0.0.8 pve10 pve1-mgmt pve1.other.net\n' >"$W/etc/hosts"
    becomes '127.0.0.1 localhost\n192.0.2.10\tPVE1.example.net pve1\n10.0.0.8 pve10 pve1-mgmt pve1.other.net\n'
}

@test "a commented line is no entry" {
    printf '127.0.0.1 localhost\n#127.0.1.1 pve1.old.net pve1\n' >"$W/etc/hosts"
    becomes '127.0.0.1 localhost\n#127.0.1.1 pve1.old.net pve1\n192.0.2.10\tpve1\n'
}

@test "an IPv6 entry of the host stays beside the IPv4 one" {
    printf '127.0.1.1 pve1.example.net pve1\n2001:db8::10 pve1.example.net pve1\n' >"$W/etc/hosts"
    becomes '192.0.2.10\tpve1.example.net pve1\n2001:db8::10 pve1.example.net pve1\n'
}

@test "a host name with a domain keeps it" {
    echo node7.example.org >"$W/hostname"
    printf '127.0.0.1 localhost\n127.0.1.1 node7.example.org node7\n' >"$W/etc/hosts"
    becomes '127.0.0.1 localhost\n192.0.2.10\tnode7.example.org node7\n'
}

@test "no /etc/hosts: one is made" {
    rm "$W/etc/hosts"
    becomes '127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n192.0.2.10\tpve1\n'
}

@test "h15: owner and mode of /etc/hosts are kept, and a link stays one" {
    mkdir "$W/etc/net"
    mv "$W/etc/hosts" "$W/etc/net/hosts"
    ln -s net/hosts "$W/etc/hosts"
    chown 1:2 "$W/etc/net/hosts"
    chmod 664 "$W/etc/net/hosts"
    boot_hostname
    [ "$status" -eq 0 ]
    [ -L "$W/etc/hosts" ]
    [ "$(stat -c '%u:%g %a' "$W/etc/net/hosts")" = "1:2 664" ]
    grep -q '^192.0.2.10' "$W/etc/net/hosts"
}

@test "a host with IPv6 alone gets its lasting global address" {
    : >"$W/route4"
    : >"$W/addr4"
    echo 'default via fe80::1 dev eth0 proto ra metric 1024 expires 1700sec hoplimit 64 pref medium' >"$W/route6"
    printf '%s\n' '2: eth0    inet6 2001:db8::bad/64 scope global temporary dynamic \       valid_lft 3000sec preferred_lft 300sec' \
        '2: eth0    inet6 2001:db8::10/64 scope global dynamic mngtmpaddr noprefixroute \       valid_lft 3000sec preferred_lft 3000sec' >"$W/addr6"
    becomes '127.0.0.1\tlocalhost\n2001:db8::10\tpve1.example.net pve1\n\n# IPv6\n::1     localhost ip6-localhost ip6-loopback\n'
}

@test "the address is that of the default route's interface, without src and with several routes, too" {
    printf 'default via 192.0.2.1 dev eth0 onlink \ndefault via 198.51.100.1 dev eth1 src 198.51.100.9 metric 200 \n' >"$W/route4"
    printf '%s\n' '2: eth0    inet 192.0.2.99/24 brd 192.0.2.255 scope global secondary eth0\       valid_lft forever' \
        '2: eth0    inet 192.0.2.10/24 brd 192.0.2.255 scope global eth0\       valid_lft forever' >"$W/addr4"
    boot_hostname
    [ "$status" -eq 0 ]
    grep -q '^192.0.2.10' "$W/etc/hosts"
}

@test "a route over several links: the first one's address" {
    printf 'default proto static metric 100 \n\tnexthop via 192.0.2.1 dev eth0 weight 1 \n\tnexthop via 198.51.100.1 dev eth1 weight 1 \n' >"$W/route4"
    boot_hostname
    [ "$status" -eq 0 ]
    grep -q '^192.0.2.10' "$W/etc/hosts"
}

@test "no default route: waits for it, then takes the one address there is" {
    : >"$W/route4"
    boot_hostname
    [ "$status" -eq 0 ]
    [ "$(called sleep)" -ge 3 ]
    grep -q '^192.0.2.10' "$W/etc/hosts"
}

@test "without iproute2: the one address there is, at once; and another run finds it right" {
    rm "$W/bin/ip"
    hide ip
    boot_hostname
    [ "$status" -eq 0 ]
    [ "$(called sleep)" -eq 0 ]
    grep -q '^192.0.2.10' "$W/etc/hosts"
    boot
    [ "$status" -eq 0 ]
    [ "$(called mv)" -eq 0 ]
}

@test "/etc/hosts that is mounted, as in a container, is written where it is" {
    echo "$W/etc/hosts /etc/hosts none bind 0 0" >>"$W/fstab"
    becomes '127.0.0.1\tlocalhost\n192.0.2.10\tpve1.example.net pve1\n\n# IPv6\n::1     localhost ip6-localhost ip6-loopback\n'
    [ -z "$(find "$W/etc" -name '.blockhost-firstboot*')" ]
}

@test "no default route and more than one address: waits, then stops with a clear line and no marker" {
    : >"$W/route4"
    echo '3: eth1    inet 10.1.1.1/24 scope global eth1\       valid_lft forever' >>"$W/addr4"
    boot
    [ "$status" -eq 1 ]
    [ "$(called sleep)" -ge 3 ]
    log_has "FAILED: this machine has no default route with a global address"
    [ "$(markers)" = ".step-*" ]
    grep -q 127.0.1.1 "$W/etc/hosts"
}

@test "a host that is called localhost is told to get a name" {
    echo localhost >"$W/hostname"
    boot
    [ "$status" -eq 1 ]
    log_has "hostnamectl set-hostname"
    [ "$(markers)" = ".step-*" ]
}

@test "another address by DHCP: the next run corrects /etc/hosts and restarts Proxmox' services" {
    boot
    assert_done
    rm "$W/restarted"
    sed -i 's/192\.0\.2\.10/192.0.2.77/g' "$W/route4" "$W/addr4"
    boot
    assert_done
    grep -qx '192.0.2.77.pve1.example.net pve1' "$W/etc/hosts"
    grep -qx pve-cluster.service "$W/restarted"
    [ "$(called apt-get)" -eq 0 ]
}

@test "another address of this machine, set by the administrator later, is respected" {
    boot
    assert_done
    sed -i 's/^192.0.2.10/10.1.1.1/' "$W/etc/hosts"
    echo '3: eth1    inet 10.1.1.1/24 scope global eth1\       valid_lft forever' >>"$W/addr4"
    cp "$W/etc/hosts" "$W/hosts-before"
    boot
    [ "$status" -eq 0 ]
    cmp "$W/hosts-before" "$W/etc/hosts"
}

@test "a name service that does not read /etc/hosts is found out" {
    echo 'hosts: dns' >"$W/etc/nsswitch.conf"
    : >"$W/etc/resolv.conf"
    boot
    [ "$status" -eq 1 ]
    log_has /etc/nsswitch.conf
    [ "$(markers)" = ".step-*" ]
}

@test "h37: cloud-init is told not to write /etc/hosts at boot" {
    mkdir -p "$W/etc/cloud"
    printf 'cloud_init_modules:\n  - update_hostname\n  - update_etc_hosts\n  - users_groups\n' >"$W/etc/cloud/cloud.cfg"
    cp "$W/etc/cloud/cloud.cfg" "$W/cloud-before"
    boot_hostname
    [ "$status" -eq 0 ]
    grep -qx 'manage_etc_hosts: false' "$W/etc/cloud/cloud.cfg.d/99-blockhost-hosts.cfg"
    cmp "$W/cloud-before" "$W/etc/cloud/cloud.cfg"
}

@test "h37: where user data outrank that, the module goes" {
    mkdir -p "$W/etc/cloud" "$W/var/lib/cloud/instance"
    printf 'cloud_init_modules:\n  - update_hostname\n  - update_etc_hosts\n  - users_groups\n' >"$W/etc/cloud/cloud.cfg"
    printf '#cloud-config\nhostname: pve1\nmanage_etc_hosts: true\n' >"$W/var/lib/cloud/instance/cloud-config.txt"
    boot_hostname
    [ "$status" -eq 0 ]
    diff <(printf 'cloud_init_modules:\n  - update_hostname\n  # - update_etc_hosts\n  - users_groups\n') "$W/etc/cloud/cloud.cfg"
}

@test "no cloud-init, nothing for it" {
    boot_hostname
    if [ -e "$W/etc/cloud" ]; then false; fi
}

@test "/etc/hosts comes out the same with mawk and with gawk" {
    [ -x /usr/bin/mawk ] && [ -x /usr/bin/gawk ] || skip "mawk and gawk are not both installed"
    local awk text='127.0.0.1 localhost pve1\n127.0.1.1 a pve1.example.net pve1 # x\n192.0.2.10 pve\n::1 pve1 localhost\n'
    for awk in mawk gawk; do
        printf '%b' "$text" >"$W/etc/hosts"
        rm -f "$W/var/lib/blockhost/.step-hostname"
        ln -sf "/usr/bin/$awk" "$W/etc/alternatives/awk"
        boot_hostname
        [ "$status" -eq 0 ]
        cp "$W/etc/hosts" "$W/hosts-$awk"
    done
    cmp "$W/hosts-mawk" "$W/hosts-gawk"
    diff <(printf '192.0.2.10\tpve1.example.net pve1\n127.0.0.1\tlocalhost\n127.0.1.1\ta # x\n192.0.2.10 pve\n::1\tlocalhost\n') "$W/hosts-gawk"
}
