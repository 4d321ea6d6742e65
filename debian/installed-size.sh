#!/bin/sh
# The installed size of a package's tree in KiB, as Debian counts it: each file once for all its names, one for each
# directory. dpkg-gencontrol would count the maintainer scripts too.
set -eu
find "$1" -path "$1/DEBIAN" -prune -o -printf '%i %y %s\n' | sort -u |
    awk '{ if ($2 == "f" || $2 == "l") n += int(($3 + 1023) / 1024); else n++ } END { print n }'
