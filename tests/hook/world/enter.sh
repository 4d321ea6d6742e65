#!/bin/bash
# Runs the hook in a mount namespace of its own: enter.sh WORLD SCRIPT. The folders of WORLD lie over those that the hook
# writes to, the stand-ins over the programs that would change the machine. Nothing outside WORLD can be written by path.
set -eu
world=$1 script=$2
mount --make-rprivate /
mount --bind "$world/etc" /etc
mount --bind "$world/var/lib" /var/lib
mount --bind "$world/var/log" /var/log
mount --bind "$world/run" /run
mount --bind "$world/keyrings" /usr/share/keyrings
mount --bind "$world/bin" /usr/local/sbin
mount --bind "$world/bin/apt-helper" /usr/lib/apt/apt-helper
echo $$ >"$world/pid"
export WORLD=$world
exec "$script"
