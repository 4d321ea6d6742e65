#!/bin/sh
# Runs inside the template's image, by virt-customize: what must not be the same in every VM, and what nobody needs.
set -eu
export LC_ALL=C
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
if command -v cloud-init >/dev/null 2>&1; then
    cloud-init clean --logs >/dev/null
fi
apt-get clean
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/apt/* /var/log/journal/*
rm -f /var/log/dpkg.log /var/log/alternatives.log
rm -f /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub
rm -f /var/lib/dbus/machine-id /var/lib/systemd/random-seed /var/lib/urandom/random-seed
# Empty, not missing: systemd then makes one at the first boot.
: >/etc/machine-id
