#!/usr/bin/env bats
# The whole hook: first run, second run, both Debian releases, what it refuses and what it finds.
# shellcheck disable=SC2016 # words of the stand-ins, which are not this shell's to expand
load lib.bash

setup_file() { prepare; }
setup() { world "$BATS_TEST_TMPDIR/world"; }

# The first call that fits, as a number.
call_number() { grep -nE -m 1 -- "$1" "$W/calls" | cut -d : -f 1; }

@test "h40: Debian 12 gets Proxmox VE 8's repository and key, and all three steps are marked" {
    boot
    assert_done
    grep -qx 'URIs: http://download.proxmox.com/debian/pve' "$W/etc/apt/sources.list.d/pve-no-subscription.sources"
    grep -qx 'Suites: bookworm' "$W/etc/apt/sources.list.d/pve-no-subscription.sources"
    grep -qx 'Components: pve-no-subscription' "$W/etc/apt/sources.list.d/pve-no-subscription.sources"
    grep -qx 'Signed-By: /usr/share/keyrings/proxmox-release-bookworm.gpg' "$W/etc/apt/sources.list.d/pve-no-subscription.sources"
    cmp "$KIT/proxmox.gpg" "$W/keyrings/proxmox-release-bookworm.gpg"
    grep -Eq '^wget .* -O /run/[^ ]+ https://enterprise.proxmox.com/debian/proxmox-release-bookworm.gpg$' "$W/calls"
    grep -qx 'Suites: bookworm' "$W/etc/apt/sources.list.d/hashicorp.sources"
}

@test "h40: Debian 13 gets Proxmox VE 9's repository and key, and all three steps are marked" {
    world "$BATS_TEST_TMPDIR/trixie" trixie
    boot
    assert_done
    grep -qx 'Suites: trixie' "$W/etc/apt/sources.list.d/pve-no-subscription.sources"
    grep -qx 'Signed-By: /usr/share/keyrings/proxmox-archive-keyring.gpg' "$W/etc/apt/sources.list.d/pve-no-subscription.sources"
    cmp "$KIT/proxmox.gpg" "$W/keyrings/proxmox-archive-keyring.gpg"
    grep -Eq '^wget .* -O /run/[^ ]+ https://enterprise.proxmox.com/debian/proxmox-archive-keyring-trixie.gpg$' "$W/calls"
    grep -qx 'Suites: trixie' "$W/etc/apt/sources.list.d/hashicorp.sources"
}

@test "the packages of the contract, non-interactively, downloads first, the host name before them" {
    boot
    assert_done
    [ "$(call_number 'download-only install proxmox-ve postfix open-iscsi chrony$')" -lt "$(call_number 'confold install proxmox-ve postfix open-iscsi chrony$')" ]
    [ "$(call_number 'confold dist-upgrade')" -lt "$(call_number 'confold install proxmox-ve')" ]
    [ "$(call_number 'etc/hosts$')" -lt "$(call_number '^apt-get')" ]
    [ "$(grep '^apt-get' "$W/calls" | grep -cv -- '-q -y -o DPkg::Lock::Timeout=900 .*--force-confdef .*--force-confold')" -eq 0 ]
    grep -q 'confold install terraform libguestfs-tools jq$' "$W/calls"
    grep -qx 'postfix postfix/main_mailer_type select Local only' "$W/debconf"
    grep -qx 'postfix postfix/mailname string pve1.example.net' "$W/debconf"
}

@test "services are restarted in order, after the packages and before the marker" {
    boot
    [ "$(cat "$W/restarted")" = "$(printf '%s.service\n' pve-cluster pvedaemon pvestatd pveproxy spiceproxy)" ]
    [ "$(call_number '^systemctl restart spiceproxy')" -lt "$(call_number 'step-proxmox$')" ]
}

@test "a second run asks nothing of apt, the network or systemd, and changes nothing" {
    boot
    assert_done
    tree >"$W/tree-before"
    touch "$W/down"
    boot
    assert_done
    [ "$(grep -Ec '^(apt-get|wget|dpkg|systemctl|mv|debconf)' "$W/calls")" -eq 0 ]
    diff "$W/tree-before" <(tree)
}

@test "each step is done when its marker is missing, and left alone when it is there" {
    boot
    rm "$W/var/lib/blockhost/.step-terraform"
    boot
    assert_done
    grep -q 'install terraform' "$W/calls"
    [ "$(grep -c proxmox-ve "$W/calls")" -eq 0 ]
}

@test "STATE_DIR and LOG_FILE of the environment are used, folders and all" {
    boot STATE_DIR=/var/lib/else/where LOG_FILE=/var/log/some/log
    [ "$status" -eq 0 ]
    [ -f "$W/var/lib/else/where/.step-terraform" ]
    grep -q 'terraform: done' "$W/var/log/some/log"
    [ "$(ls "$W/var/lib")" = else ]
    [ "$(ls "$W/var/log")" = some ]
}

@test "h15: the log is 0640 and keeps what was in it; the markers are files of root's, empty" {
    echo earlier >"$W/var/log/blockhost-firstboot.log"
    chmod 666 "$W/var/log/blockhost-firstboot.log"
    boot
    [ "$(stat -c '%a %U' "$W/var/log/blockhost-firstboot.log")" = "640 root" ]
    [ "$(LOG | head -n 1)" = earlier ]
    [ "$(stat -c '%F %a %U' "$W/var/lib/blockhost/.step-proxmox")" = "regular empty file 644 root" ]
}

@test "h15: a link in STATE_DIR leads no write elsewhere" {
    mkdir "$W/var/lib/blockhost"
    echo precious >"$W/etc/precious"
    for name in .step-hostname .step-proxmox .step-terraform; do ln -s /etc/precious "$W/var/lib/blockhost/$name.tmp"; done
    ln -s /etc/precious-too "$W/var/lib/blockhost/.step-hostname"
    boot
    [ "$status" -eq 0 ]
    [ "$(cat "$W/etc/precious")" = precious ]
    if [ -e "$W/etc/precious-too" ]; then false; fi
    [ "$(stat -c %F "$W/var/lib/blockhost/.step-hostname")" = "regular empty file" ]
}

@test "every line of the log has date and step; the end is said on the terminal, too" {
    boot
    [ "$(LOG | grep -c ' first-boot: ')" -gt 8 ]
    [ "$(LOG | grep ' first-boot: ' | grep -Ecv '^20[0-9-]{8}T[0-9:]{8}[+-][0-9]{4} first-boot: (start|hostname|proxmox|terraform|end): ')" -eq 0 ]
    grep -q 'all steps are done' <<<"$output"
}

@test "another Debian is refused before anything of apt's is touched" {
    for name in bullseye forky; do
        sed -i "s/^VERSION_CODENAME=.*/VERSION_CODENAME=$name/" "$W/etc/os-release"
        boot
        [ "$status" -eq 1 ]
        log_has 'Debian 12 (bookworm) and Debian 13 (trixie) only'
        [ "$(grep -Ec '^(apt|dpkg --conf)' "$W/calls")" -eq 0 ]
        [ "$(markers)" = .step-hostname ]
    done
}

@test "Ubuntu, and a release file without a name, are refused" {
    sed -i 's/^ID=.*/ID=ubuntu/' "$W/etc/os-release"
    boot
    [ "$status" -eq 1 ]
    [ "$(called apt-get)" -eq 0 ]
    echo 'ID=debian' >"$W/etc/os-release"
    boot
    [ "$status" -eq 1 ]
    log_has 'FAILED: this is an unknown system'
}

@test "arm64 is refused" {
    echo arm64 >"$W/architecture"
    boot
    [ "$status" -eq 1 ]
    log_has 'amd64 only'
    [ "$(called apt-get)" -eq 0 ]
}

@test "without root: refused, nothing written" {
    run setpriv --reuid 65534 --regid 65534 --clear-groups bash -c "STATE_DIR='$W/state' LOG_FILE='$W/log' bash" <"$HOOK"
    [ "$status" -eq 1 ]
    [ "$output" = "first-boot: must run as root" ]
    if [ -e "$W/state" ] || [ -e "$W/log" ]; then false; fi
}

@test "a wrong key of Proxmox is not installed, and its repository not named" {
    head -c 3000 /dev/urandom >"$W/site/proxmox-key"
    boot
    [ "$status" -eq 1 ]
    log_has 'does not have the published sha512 sum: not installed'
    [ -z "$(ls "$W/keyrings")" ]
    [ -z "$(ls "$W/etc/apt/sources.list.d")" ]
    [ "$(markers)" = .step-hostname ]
    cp "$KIT/proxmox.gpg" "$W/site/proxmox-key"
    boot
    assert_done
}

@test "a wrong key of Proxmox that lies there already is replaced, mode and all" {
    echo junk >"$W/keyrings/proxmox-release-bookworm.gpg"
    chmod 600 "$W/keyrings/proxmox-release-bookworm.gpg"
    boot
    assert_done
    [ "$(stat -c %a "$W/keyrings/proxmox-release-bookworm.gpg")" = 644 ] # apt reads it as its own user
    cmp "$KIT/proxmox.gpg" "$W/keyrings/proxmox-release-bookworm.gpg"
}

@test "a stranger's key in HashiCorp's place is not installed" {
    cp "$KIT/stranger.asc" "$W/site/hashicorp-key"
    boot
    [ "$status" -eq 1 ]
    log_has "what came as the key of HashiCorp's repository is not the key"
    [ "$(ls "$W/keyrings")" = proxmox-release-bookworm.gpg ]
    [ "$(markers)" = ".step-hostname .step-proxmox" ]
}

@test "a stranger's key beside HashiCorp's own is not installed either" {
    cat "$KIT/hashicorp.asc" "$KIT/stranger.asc" >"$W/site/hashicorp-key"
    boot
    [ "$status" -eq 1 ]
    [ "$(ls "$W/keyrings")" = proxmox-release-bookworm.gpg ]
}

@test "an error page in the place of a key is not installed" {
    echo '<html>It works!</html>' >"$W/site/hashicorp-key"
    boot
    [ "$status" -eq 1 ]
    [ "$(ls "$W/keyrings")" = proxmox-release-bookworm.gpg ]
}

@test "HashiCorp without packages for Debian 13 yet: those for Debian 12, and a line about it" {
    world "$BATS_TEST_TMPDIR/trixie" trixie
    rm -r "$W/site/dists/trixie"
    boot
    assert_done
    grep -qx 'Suites: bookworm' "$W/etc/apt/sources.list.d/hashicorp.sources"
    log_has 'HashiCorp has no packages for trixie yet'
}

@test "no answer is no reason to take HashiCorp's packages of the other release" {
    world "$BATS_TEST_TMPDIR/trixie" trixie
    echo dists/trixie >"$W/silent"
    boot
    [ "$status" -eq 1 ]
    log_has 'dists/trixie/InRelease could not be fetched'
    if [ -e "$W/etc/apt/sources.list.d/hashicorp.sources" ]; then false; fi
}

@test "no proxy anywhere: downloads go straight" {
    boot
    assert_done
    [ "$(cut -d ' ' -f 2 "$W/proxies" | sort -u)" = none ]
    [ "$(grep -Ec 'no-proxy|DIRECT' "$W/calls")" -eq 0 ]
}

@test "a proxy of apt's for http that refuses https: the direct way is tried, said, and taken for HashiCorp's packages" {
    echo 'Acquire::http::Proxy "http://192.0.2.3:3142";' >"$W/etc/apt/apt.conf.d/00proxy"
    touch "$W/proxy-refuses-https"
    boot
    assert_done
    log_has 'apt.releases.hashicorp.com was not reached through apt'
    log_has 'Acquire::https::Proxy::apt.releases.hashicorp.com "DIRECT";'
    grep -qE '^apt-get .*Acquire::https::Proxy::apt.releases.hashicorp.com=DIRECT .*update' "$W/calls"
    [ "$(cat "$W/etc/apt/apt.conf.d/00proxy")" = 'Acquire::http::Proxy "http://192.0.2.3:3142";' ]
    # Once it is known, the proxy is not asked again for the same host.
    diff "$W/proxies" <(printf '%s\n' 'enterprise.proxmox.com http://192.0.2.3:3142' 'enterprise.proxmox.com none' \
        'apt.releases.hashicorp.com http://192.0.2.3:3142' 'apt.releases.hashicorp.com none' 'apt.releases.hashicorp.com none')
}

@test "a proxy of apt's that lets https through is used, and no other way; its password is in no argv and no log" {
    echo 'acquire::HTTP::proxy "http://me:geheim@192.0.2.3:3142/";' >"$W/etc/apt/apt.conf.d/00proxy"
    boot
    assert_done
    [ "$(cut -d ' ' -f 2 "$W/proxies" | sort -u)" = "http://me:geheim@192.0.2.3:3142/" ]
    [ "$(grep -Ec 'DIRECT|no-proxy|geheim' "$W/calls")" -eq 0 ]
    [ "$(LOG | grep -c geheim)" -eq 0 ]
}

@test "a proxy that is named for https is never gone past, and its password stays out of the log when it fails" {
    printf 'Acquire::http::Proxy "http://192.0.2.3:3142";\nAcquire::https::Proxy "http://me:geheim@192.0.2.4:3128";\n' >"$W/etc/apt/apt.conf.d/00proxy"
    touch "$W/proxy-refuses-https"
    boot
    [ "$status" -eq 1 ]
    [ "$(cat "$W/proxies")" = "enterprise.proxmox.com http://me:geheim@192.0.2.4:3128" ]
    [ "$(grep -Ec 'DIRECT|no-proxy' "$W/calls")" -eq 0 ]
    log_has 'could not be fetched'
    log_has '/etc/apt/apt.conf.d/00proxy'
    log_has 'Proxy tunneling failed'
    [ "$(LOG | grep -c geheim)" -eq 0 ]
}

@test "apt's word about one host goes before its general one: another proxy, or none, also against the environment" {
    printf '%s\n' 'Acquire::https::Proxy "http://192.0.2.4:3128";' 'Acquire::http::Proxy::enterprise.proxmox.com "http://192.0.2.5:1";' \
        'Acquire::https::Proxy::apt.releases.hashicorp.com "DIRECT";' >"$W/etc/apt/apt.conf.d/00proxy"
    boot https_proxy=http://192.0.2.9:9 http_proxy=http://192.0.2.9:9
    [ "$(markers)" = ".step-hostname .step-proxmox .step-terraform" ]
    [ "$(sort -u "$W/proxies")" = "$(printf 'apt.releases.hashicorp.com none\nenterprise.proxmox.com http://192.0.2.5:1')" ]
}

@test "where apt has no proxy, the environment's is used, as apt does" {
    boot http_proxy=http://192.0.2.9:9
    assert_done
    [ "$(cut -d ' ' -f 2 "$W/proxies" | sort -u)" = http://192.0.2.9:9 ]
}

@test "half a key that wget takes for a whole one is not installed" {
    boot
    local number numbers
    mapfile -t numbers < <(grep -nE '^wget .*gpg$' "$W/calls" | cut -d : -f 1)
    [ "${#numbers[@]}" -eq 2 ]
    for number in "${numbers[@]}"; do
        rm -rf "$W"
        world "$BATS_TEST_TMPDIR/world"
        boot_with short "$number"
        [ "$status" -eq 1 ]
        log_has ': not installed'
        [ -z "$(find "$W/keyrings" -size -30c -type f)" ]
        [ "$(markers)" != ".step-hostname .step-proxmox .step-terraform" ]
    done
}

@test "without wget, it is installed first" {
    mkdir "$W/spare"
    mv "$W/bin/wget" "$W/spare/wget"
    hide wget
    boot
    assert_done
    [ "$(call_number 'confold install .*wget$')" -lt "$(call_number '^wget')" ]
}

@test "programs that the caller put first on PATH are used, and the standard folders are there without being named" {
    mkdir "$W/front"
    printf '#!/bin/sh\necho pve7\n' >"$W/front/hostname"
    printf '#!/bin/sh\necho "front $*" >>"$WORLD/calls"\nexec "$WORLD/bin/apt-get" "$@"\n' >"$W/front/apt-get"
    chmod 755 "$W/front"/*
    boot HOOK_PATH="$W/front"
    [ "$(called front)" -gt 0 ]
    [ "$(called front)" -eq "$(called apt-get)" ]
    grep -q '^192.0.2.10.pve7$' "$W/etc/hosts"
    marked hostname
}

@test "an apt.conf that has packages downloaded only does not make a step done that is not" {
    printf 'APT::Get::Download-Only "true";\nAPT::Get::Simulate "true";\n' >"$W/etc/apt/apt.conf.d/50careful"
    boot
    assert_done
    [ "$(grep '^apt-get' "$W/calls" | grep -cv -- '-o APT::Get::Download-Only=false -o APT::Get::Simulate=false')" -eq 0 ]
}

@test "apt-get, wget and systemctl that do next to nothing, and a dpkg that knows nothing of it, are enough" {
    printf '#!/bin/sh\necho "apt-get $*" >>"$WORLD/calls"\n' >"$W/apt-get"
    printf '%s\n' '#!/bin/sh' 'while [ "$1" != -O ]; do shift; done' \
        'case $3 in *proxmox*) page=proxmox-key ;; *) page=hashicorp-key ;; esac' 'cp "$WORLD/site/$page" "$2"' >"$W/wget"
    printf '#!/bin/sh\necho "systemctl $*" >>"$WORLD/calls"\n' >"$W/systemctl"
    printf '#!/bin/sh\nexit 1\n' >"$W/dpkg-query"
    for name in apt-get wget systemctl dpkg-query; do
        rm "$W/bin/$name"
        install -m 755 "$W/$name" "$W/bin/$name"
    done
    rm -r "$W/run/systemd"
    boot
    [ "$status" -eq 0 ]
    [ "$(markers)" = ".step-hostname .step-proxmox .step-terraform" ]
    grep -q 'install proxmox-ve postfix open-iscsi chrony$' "$W/calls"
    grep -q '^systemctl restart pveproxy' "$W/calls"
}

@test "enterprise repositories are gone wherever they are named, and everything beside them stays" {
    printf 'deb http://deb.debian.org/debian bookworm main\ndeb https://enterprise.proxmox.com/debian/pve bookworm pve-enterprise\n' >"$W/etc/apt/sources.list"
    printf '# ceph\ndeb https://enterprise.proxmox.com/debian/ceph-reef bookworm enterprise\n' >"$W/etc/apt/sources.list.d/ceph.list"
    printf 'Types: deb\nURIs: http://mirror.example.net/a\nSuites: bookworm\nComponents: main\n# not enterprise.proxmox.com\n\nTypes: deb\nURIs: https://enterprise.proxmox.com/debian/pve\nSuites: bookworm\nComponents: pve-enterprise\n\nTypes: deb\nURIs: http://mirror.example.net/b\nSuites: bookworm\nComponents: main\n' >"$W/etc/apt/sources.list.d/mixed.sources"
    printf 'Types: deb\nURIs: https://enterprise.proxmox.com/debian/pve\nSuites: bookworm\nComponents: pve-enterprise\n' >"$W/etc/apt/sources.list.d/pve-enterprise.sources"
    boot
    assert_done
    [ "$(cat "$W/etc/apt/sources.list")" = "deb http://deb.debian.org/debian bookworm main" ]
    [ "$(ls "$W/etc/apt/sources.list.d")" = "$(printf 'hashicorp.sources\nmixed.sources\npve-no-subscription.sources')" ]
    diff "$W/etc/apt/sources.list.d/mixed.sources" - <<'END'
Types: deb
URIs: http://mirror.example.net/a
Suites: bookworm
Components: main
# not enterprise.proxmox.com

Types: deb
URIs: http://mirror.example.net/b
Suites: bookworm
Components: main
END
}

@test "repositories that an administrator named already are used as they are" {
    cp "$KIT/proxmox.gpg" "$W/keyrings/own.gpg"
    cp "$KIT/hashicorp.gpg" "$W/keyrings/own-hashicorp.gpg"
    echo 'deb [arch=amd64 signed-by=/usr/share/keyrings/own.gpg] http://download.proxmox.com/debian/pve bookworm pve-no-subscription' >"$W/etc/apt/sources.list.d/mine.list"
    echo 'deb [signed-by=/usr/share/keyrings/own-hashicorp.gpg] https://apt.releases.hashicorp.com bookworm main' >"$W/etc/apt/sources.list.d/hashi.list"
    boot
    assert_done
    [ "$(ls "$W/etc/apt/sources.list.d")" = "$(printf 'hashi.list\nmine.list')" ]
    [ "$(called wget)" -eq 0 ]
}

@test "a repository that is only commented out, or switched off, is not taken for one" {
    echo '# deb http://download.proxmox.com/debian/pve bookworm pve-no-subscription' >"$W/etc/apt/sources.list.d/mine.list"
    printf 'Enabled: no\nTypes: deb\nURIs: https://apt.releases.hashicorp.com\nSuites: bookworm\nComponents: main\n' >"$W/etc/apt/sources.list.d/hashi.sources"
    boot
    assert_done
    [ -f "$W/etc/apt/sources.list.d/pve-no-subscription.sources" ]
    [ -f "$W/etc/apt/sources.list.d/hashicorp.sources" ]
}

@test "half-installed packages of an earlier run are completed first, also where dpkg alone cannot" {
    echo half >"$W/dpkg/chrony"
    touch "$W/dpkg/.broken"
    boot
    assert_done
    grep -q -- '--fix-broken install' "$W/calls"
    [ "$(call_number '--fix-broken')" -lt "$(call_number 'install proxmox-ve')" ]
}

@test "a mail server that is there already keeps its settings" {
    echo installed >"$W/dpkg/postfix"
    boot
    assert_done
    if [ -e "$W/debconf" ]; then false; fi
}

@test "apt-get's word is not enough: a package that is not installed afterwards is found out" {
    sed -i 's/^    echo installed >"\$WORLD\/dpkg\/\$1"/    [ "$1" = chrony ] || echo installed >"$WORLD\/dpkg\/$1"/' "$W/bin/apt-get"
    boot
    [ "$status" -eq 1 ]
    log_has 'apt-get reported success, but not all of these are installed'
    [ "$(markers)" = .step-hostname ]
}

@test "a Proxmox service that does not start stops the first boot" {
    sed -i 's/^systemctl)$/systemctl) [ "$2" != pveproxy.service ] || exit 1/' "$W/bin/systemctl"
    boot
    [ "$status" -eq 1 ]
    log_has 'pveproxy does not start. See journalctl -u pveproxy'
    [ "$(markers)" = .step-hostname ]
}

@test "services are restarted where systemctl works, whatever it is that answers it" {
    rm -r "$W/run/systemd"
    touch "$W/systemctl-anyway"
    boot
    assert_done
    [ "$(wc -l <"$W/restarted")" -eq 5 ]
}

@test "without systemd running, as in an image build, the services are left to the next boot" {
    rm -r "$W/run/systemd"
    boot
    assert_done
    if [ -e "$W/restarted" ]; then false; fi
    log_has 'start with the next boot'
    marked proxmox
}

@test "two at once: the second waits, says so, and finds nothing left to do" {
    echo slow >"$W/mode"
    echo 20 >"$W/at"
    : >"$W/calls"
    unshare -m "$HERE/world/enter.sh" "$W" "$KIT/first-boot.sh" 2>"$W/first.out" 3>&- &
    local first=$!
    for _ in $(seq 200); do
        if [ -s "$W/troubled" ]; then break; fi
        /bin/sleep 0.05
    done
    [ -s "$W/troubled" ]
    run unshare -m "$HERE/world/enter.sh" "$W" "$KIT/first-boot.sh"
    [ "$status" -eq 0 ]
    grep -q 'another run is at work; waiting for it' <<<"$output"
    wait "$first"
    rm "$W/at"
    [ "$(grep -c 'confold install proxmox-ve' "$W/calls")" -eq 1 ]
    assert_done
}

@test "a caller that copies the output into the log gets each line once, however it does it" {
    local way
    for way in '2>&1 | tee -a /var/log/blockhost-firstboot.log' '>>/var/log/blockhost-firstboot.log 2>&1' \
        '2>&1 | while read -r line; do echo "outer: $line" >>/var/log/blockhost-firstboot.log; done'; do
        rm -f "$W/var/log/blockhost-firstboot.log" "$W"/var/lib/blockhost/.step-*
        printf '#!/bin/bash\nset -o pipefail\n%s %s\n' "$KIT/first-boot.sh" "$way" >"$W/caller"
        chmod 755 "$W/caller"
        : >"$W/calls"
        run unshare -m "$HERE/world/enter.sh" "$W" "$W/caller"
        assert_done
        for text in 'host name pve1, address' 'bringing Debian up to date' 'hostname: done' 'terraform: done' 'all steps are done'; do
            [ "$(LOG | grep -c "$text")" -eq 1 ] || { echo "$way: $text" >&2; LOG | tail -n 5 >&2; return 1; }
        done
    done
}

@test "h60: the node's own cloud-init is off once the hook is done, and looks for no guest's data" {
    mkdir -p "$W/etc/cloud/cloud.cfg.d" "$W/etc/network/interfaces.d"
    printf 'datasource_list: [ NoCloud, ConfigDrive ]\n' >"$W/etc/cloud/cloud.cfg.d/99_somebody.cfg"
    printf 'cloud_init_modules:\n  - update_hostname\n' >"$W/etc/cloud/cloud.cfg"
    printf 'auto eth0\niface eth0 inet dhcp\n' >"$W/etc/network/interfaces.d/50-cloud-init"
    boot
    assert_done
    [ -s "$W/etc/cloud/cloud-init.disabled" ]
    # The last file counts, by the order of the C locale.
    last=$(cd "$W/etc/cloud/cloud.cfg.d" && LC_ALL=C ls | tail -n 1)
    grep -qx 'datasource_list: \[ None \]' "$W/etc/cloud/cloud.cfg.d/$last"
    log_has 'cloud-init of this node is switched off'
    # The network that it has set up stays as it is.
    [ "$(cat "$W/etc/network/interfaces.d/50-cloud-init")" = "$(printf 'auto eth0\niface eth0 inet dhcp')" ]
    # A node of an older package, whose steps are all done, is mended by the next run.
    rm "$W/etc/cloud/cloud-init.disabled"
    boot
    [ -s "$W/etc/cloud/cloud-init.disabled" ]
    rm "$W/var/log/blockhost-firstboot.log"
    boot
    [ "$(LOG | grep -c 'switched off')" -eq 0 ]
}

@test "h60: a first boot that fails leaves cloud-init as it is" {
    mkdir -p "$W/etc/cloud"
    printf 'cloud_init_modules:\n  - update_hostname\n' >"$W/etc/cloud/cloud.cfg"
    boot_with fail 6
    [ "$status" -ne 0 ]
    if [ -e "$W/etc/cloud/cloud-init.disabled" ]; then false; fi
}
