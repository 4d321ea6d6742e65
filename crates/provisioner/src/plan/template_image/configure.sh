#!/bin/sh
# Runs inside the template's image, by virt-customize: sshd and services.
set -eu
export LC_ALL=C SYSTEMD_OFFLINE=1
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
work=/var/tmp/blockhost-template
sshd=/etc/ssh/sshd_config

step() {
    what=$1
    shift
    "$@" >"$work/log" 2>&1 && return
    echo "BLOCKHOST: $what failed in the image:"
    tail -n 12 "$work/log" | sed 's/^/BLOCKHOST: /'
    exit 1
}

step "looking for $sshd" test -f "$sshd"
mkdir -p /etc/ssh/sshd_config.d
# An Include in a Match block would hold there alone; sshd takes the first value of a keyword, so it goes to the top.
if ! awk 'tolower($1) == "match" { exit }
    tolower($1) == "include" && index($0, "/etc/ssh/sshd_config.d/*.conf") { found = 1; exit }
    END { exit !found }' "$sshd"; then
    { echo 'Include /etc/ssh/sshd_config.d/*.conf' && cat "$sshd"; } >"$sshd.new"
    cat "$sshd.new" >"$sshd"
    rm "$sshd.new"
fi
# The wallet login is keyboard-interactive. The second word is the older name of the same.
sed -E -i 's/^[[:space:]]*(KbdInteractiveAuthentication|ChallengeResponseAuthentication)([[:space:]]+|[[:space:]]*=[[:space:]]*)"?no"?[[:space:]]*(#.*)?$/#&/I' "$sshd"
if [ -x /usr/sbin/sshd ]; then
    ssh-keygen -q -t ed25519 -N '' -f "$work/key"
    [ -d /run/sshd ] || { mkdir /run/sshd && trap 'rmdir /run/sshd' EXIT; }
    step 'reading the configuration by sshd -t' /usr/sbin/sshd -t -h "$work/key"
fi

step 'enabling web3-auth-svc' systemctl enable web3-auth-svc
# Debian's unit of the agent is static: a udev rule starts it.
case $(systemctl is-enabled qemu-guest-agent 2>/dev/null || :) in
enabled | static) ;;
*) step 'enabling qemu-guest-agent' systemctl enable qemu-guest-agent ;;
esac
