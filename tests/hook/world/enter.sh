#!/bin/sh
# Runs the hook in a mount namespace of its own: enter.sh WORLD SCRIPT. WORLD/fstab puts folders of WORLD over those that the
# hook writes to, and the stand-ins over the programs that would change the machine, wherever they are looked for.
set -eu
export WORLD="$1"
mount --all --fstab "$WORLD/fstab"
echo $$ >"$WORLD/pid"
# The tests' own PATH must not lead past the stand-ins.
export PATH="${HOOK_PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}"
exec "$2"
