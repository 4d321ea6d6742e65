#!/bin/sh
# Runs inside the template's image, by virt-customize, as the last: names everything that is not as it should be.
set -eu
export LC_ALL=C SYSTEMD_OFFLINE=1
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
work=/var/tmp/blockhost-template
sshd=/etc/ssh/sshd_config
good=1

wrong() {
    good=0
    echo "BLOCKHOST: the image is not as it should be: $*"
}

installed() {
    # shellcheck disable=SC2016 # dpkg-query fills these in
    dpkg-query -W -f '${db:Status-Status} ${Version}' "$1" 2>/dev/null || :
}

while read -r package version; do
    found=$(installed "$package")
    [ "$found" = "installed $version" ] || wrong "package $package is \"$found\", expected version $version"
done <"$work/packages"
[ -s "$work/packages" ] || wrong "no package of template-packages is installed"
case $(installed qemu-guest-agent) in "installed "*) ;; *) wrong "qemu-guest-agent is not installed" ;; esac
audit=$(dpkg --audit) || :
[ -z "$audit" ] || wrong "dpkg --audit says $audit"
node=$(node --version 2>&1) || :
case $node in v22.*) ;; *) wrong "node --version says \"$node\", expected v22" ;; esac

state=$(systemctl is-enabled web3-auth-svc 2>&1) || :
[ "$state" = enabled ] || wrong "service web3-auth-svc is \"$state\", expected enabled"
state=$(systemctl is-enabled qemu-guest-agent 2>&1) || :
case $state in enabled | static) ;; *) wrong "service qemu-guest-agent is \"$state\", expected enabled or static" ;; esac

grep -Eqi '^[[:space:]]*Include[[:space:]].*/etc/ssh/sshd_config\.d/\*\.conf' "$sshd" ||
    wrong "$sshd does not include /etc/ssh/sshd_config.d/*.conf"
if grep -Eqi '^[[:space:]]*(KbdInteractiveAuthentication|ChallengeResponseAuthentication)[[:space:]=]+"?no' "$sshd"; then
    wrong "$sshd forbids keyboard-interactive logins"
fi

{ [ -f /etc/machine-id ] && [ ! -s /etc/machine-id ]; } || wrong "/etc/machine-id is not empty"
[ ! -e /var/lib/dbus/machine-id ] || wrong "/var/lib/dbus/machine-id is there"
for left in /etc/ssh/ssh_host_*_key /var/lib/systemd/random-seed /var/lib/apt/lists/*_Packages* \
    /var/cache/apt/archives/*.deb; do
    [ ! -e "$left" ] || wrong "$left is there"
done
[ "$good" = 1 ] || exit 1
rm -rf "$work"
