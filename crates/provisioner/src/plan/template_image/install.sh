#!/bin/sh
# Runs inside the template's image, by virt-customize: the packages.
# What stands after "BLOCKHOST: " reaches the operator when something fails.
set -eu
export LC_ALL=C DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true SYSTEMD_OFFLINE=1
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
work=/var/tmp/blockhost-template

step() {
    what=$1
    shift
    "$@" >"$work/log" 2>&1 && return
    echo "BLOCKHOST: $what failed in the image:"
    tail -n 12 "$work/log" | sed 's/^/BLOCKHOST: /'
    exit 1
}

apt() {
    apt-get -q -y -o Acquire::Retries=3 -o APT::Update::Error-Mode=any -o Dpkg::Use-Pty=0 \
        -o DPkg::Options::=--force-confdef -o DPkg::Options::=--force-confold "$@"
}

# Nothing is started in here.
if [ ! -e /usr/sbin/policy-rc.d ]; then
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod 755 /usr/sbin/policy-rc.d
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
fi
chmod 755 "$work"
chmod 644 /etc/apt/keyrings/nodesource.* /etc/apt/sources.list.d/nodesource.sources "$work"/*.deb

step 'apt-get update' apt update
step 'installing qemu-guest-agent and nodejs' apt install qemu-guest-agent nodejs
step 'installing the packages of template-packages' apt install "$work"/*.deb
for deb in "$work"/*.deb; do
    # shellcheck disable=SC2016 # dpkg-deb fills these in
    dpkg-deb -W --showformat '${Package} ${Version}\n' "$deb"
done >"$work/packages"
