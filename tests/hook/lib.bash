# What the tests of the first-boot hook share. Each test works in a world of its own (world/enter.sh) below the test's
# temporary folder; the hook is the real one but for the three keys that it knows, whose private halves nobody here has.
# shellcheck disable=SC2119,SC2120,SC2154 # the tests give arguments to boot; bats sets status and output

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
HOOK=$(cd "$HERE/../.." && pwd)/provisioner-hooks/first-boot.sh

# Once per file: the hook with the tests' own keys in the place of the published ones.
prepare() {
    if [ "$(id -u)" -ne 0 ]; then
        echo "these tests need root: they make mount namespaces" >&2
        return 1
    fi
    if ! unshare -m true; then
        echo "these tests need mount namespaces: 'unshare -m true' failed" >&2
        return 1
    fi
    local fingerprint name
    export KIT=$BATS_FILE_TMPDIR
    mkdir -m 700 "$KIT/gnupg"
    for name in hashicorp stranger; do
        gpg --homedir "$KIT/gnupg" --batch --quiet --passphrase '' --quick-gen-key "$name@test.invalid" ed25519 sign never 2>/dev/null
        gpg --homedir "$KIT/gnupg" --batch --armor --export "$name@test.invalid" >"$KIT/$name.asc"
        gpg --homedir "$KIT/gnupg" --batch --export "$name@test.invalid" >"$KIT/$name.gpg"
    done
    gpgconf --homedir "$KIT/gnupg" --kill all
    fingerprint=$(gpg --homedir "$KIT/gnupg" --no-autostart --with-colons --show-keys "$KIT/hashicorp.asc" | awk -F : '$1 == "fpr" { print $10; exit }')
    head -c 3000 /dev/urandom >"$KIT/proxmox.gpg"
    sed -e "s/798AEC654E5C15428C8E42EEAA16FCBCA621E701/$fingerprint/" \
        -e "s/7da6fe34168adc6e479327ba517796d4702fa2f8b4f0a9833f5ea6e6b48f6507a6da403a274fe201595edc86a84463d50383d07f64bdde2e3658108db7d6dc87/$(sha512sum <"$KIT/proxmox.gpg" | cut -d ' ' -f 1)/" \
        -e "s/136673be77aba35dcce385b28737689ad64fd785a797e57897589aed08db6e45/$(sha256sum <"$KIT/proxmox.gpg" | cut -d ' ' -f 1)/" \
        "$HOOK" >"$KIT/first-boot.sh"
    chmod 755 "$KIT/first-boot.sh"
    # All three have to be the published ones, or the lines above would not have found them.
    [ "$(diff "$HOOK" "$KIT/first-boot.sh" | grep -c '^<')" -eq 3 ] || {
        echo "the hook does not hold the three published keys" >&2
        return 1
    }
    template "$KIT/bookworm" bookworm
    template "$KIT/trixie" trixie
}

# template DIR bookworm|trixie: what world copies.
template() {
    local W=$1 codename=$2 version=12 name
    if [ "$codename" = trixie ]; then version=13; fi
    mkdir -p "$W"/{etc/apt/apt.conf.d,etc/apt/sources.list.d,etc/alternatives,var/lib,var/log,run/systemd/system,keyrings,bin,site,dpkg,archives}
    cp /etc/passwd /etc/group /etc/ld.so.cache "$W/etc/"
    echo 'hosts: files' >"$W/etc/nsswitch.conf"
    cp -P /etc/alternatives/awk "$W/etc/alternatives/"
    if [ -x /usr/bin/mawk ]; then ln -sf /usr/bin/mawk "$W/etc/alternatives/awk"; fi # what a fresh Debian has
    printf 'PRETTY_NAME="Debian GNU/Linux %s (%s)"\nVERSION_ID="%s"\nVERSION_CODENAME=%s\nID=debian\n' "$version" "$codename" "$version" "$codename" >"$W/etc/os-release"
    printf 'deb http://deb.debian.org/debian %s main\n' "$codename" >"$W/etc/apt/sources.list"
    printf '127.0.0.1\tlocalhost\n127.0.1.1\tpve1.example.net\tpve1\n\n# IPv6\n::1     localhost ip6-localhost ip6-loopback\n' >"$W/etc/hosts"
    echo pve1 >"$W/hostname"
    echo amd64 >"$W/architecture"
    printf 'default via 192.0.2.1 dev eth0 proto dhcp src 192.0.2.10 metric 100 \n' >"$W/route4"
    : >"$W/route6"
    printf '%s\n' '2: eth0    inet 192.0.2.10/24 brd 192.0.2.255 scope global dynamic eth0\       valid_lft 3000sec preferred_lft 3000sec' >"$W/addr4"
    : >"$W/addr6"
    cp "$KIT/proxmox.gpg" "$W/site/proxmox-key"
    cp "$KIT/hashicorp.asc" "$W/site/hashicorp-key"
    cp "$KIT/hashicorp.gpg" "$W/site/hashicorp-key-binary"
    mkdir -p "$W/site/dists/bookworm" "$W/site/dists/trixie"
    touch "$W/site/dists/bookworm/InRelease" "$W/site/dists/trixie/InRelease"
    cp "$HERE/world/fake" "$W/bin/apt-get"
    for name in wget dpkg dpkg-query systemctl debconf-set-selections hostname ip sleep mv; do ln "$W/bin/apt-get" "$W/bin/$name"; done
}

# world DIR [bookworm|trixie]: a fresh Debian, as far as the hook can see one.
world() {
    W=$1
    local name
    cp -a "$KIT/${2:-bookworm}" "$W"
    printf '%s %s none bind 0 0\n' "$W/etc" /etc "$W/var/lib" /var/lib "$W/var/log" /var/log "$W/run" /run \
        "$W/keyrings" /usr/share/keyrings "$W/bin" /usr/local/sbin >"$W/fstab"
    for name in apt-get dpkg debconf-set-selections; do
        printf '%s %s none bind 0 0\n' "$W/bin/$name" "/usr/bin/$name" >>"$W/fstab"
    done
}

# hide NAME: no such program in /usr/bin.
hide() {
    mkdir -p "$W/hidden"
    mknod "$W/hidden/$1" c 0 0 # overlayfs' own sign for a file that is not there
    sed -i "1i overlay /usr/bin overlay ro,lowerdir=$W/hidden:/usr/bin 0 0" "$W/fstab"
}

# boot [NAME=VALUE…]: the hook in world W. Its exit code in $status, what it says on the terminal in $output.
boot() {
    : >"$W/calls"
    rm -f "$W/troubled"
    run unshare -m env "$@" "$HERE/world/enter.sh" "$W" "$KIT/first-boot.sh"
}

# boot_with MODE NUMBER: as boot, where call NUMBER goes wrong.
boot_with() {
    echo "$1" >"$W/mode"
    echo "$2" >"$W/at"
    boot
    rm -f "$W/at"
}

LOG() { cat "$W/var/log/blockhost-firstboot.log"; }
log_has() { LOG | grep -qF -- "$1" || { LOG | tail -n 15 >&2; return 1; }; }
called() { grep -c "^$1" "$W/calls" || :; }
marked() { [ -f "$W/var/lib/blockhost/.step-$1" ]; }
markers() { (cd "$W/var/lib/blockhost" 2>/dev/null && echo .step-*); }
hosts() { cat "$W/etc/hosts"; }

# Everything that the hook leaves behind, but for the log and what /run forgets: names, owners, modes, contents.
tree() {
    (cd "$W" && find etc var/lib keyrings \( -type f -o -type l -o -type d \) -printf '%p %u:%g %m %l\n' | sort &&
        find etc var/lib keyrings -type f -print0 | sort -z | xargs -0 sha256sum && sort -u restarted && cat debconf &&
        grep -H . dpkg/*)
}

# (No test relies on a line with "!": bash does not stop at one that fails.)
no_enterprise() {
    if grep -rqi '^[^#]*enterprise.proxmox.com' "$W/etc/apt"; then
        echo "an enterprise repository is left" >&2
        return 1
    fi
}

# A run that got to its end and left what it has to leave.
assert_done() {
    [ "$status" -eq 0 ] || { echo "exit code $status: $output" >&2; return 1; }
    [ "$(markers)" = ".step-hostname .step-proxmox .step-terraform" ]
    for package in proxmox-ve postfix open-iscsi chrony terraform libguestfs-tools jq; do
        [ "$(cat "$W/dpkg/$package")" = installed ] || { echo "$package is not installed" >&2; return 1; }
    done
    [ "$(stat -c %F "$W/etc/blockhost/bridge-managed")" = "regular empty file" ]
    no_enterprise
    [ -z "$(find "$W/etc" "$W/keyrings" "$W/var/lib" -name '.blockhost-firstboot*')" ] || { echo "an unfinished file is left" >&2; return 1; }
}
