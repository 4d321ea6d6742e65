#!/bin/sh
# Installs the Debian packages that the tests need and that are not there yet. With nothing missing it only asks dpkg:
# no network, no change, a fraction of a second.
#
# It leaves no trace beside the packages: package lists, downloads, an extra source and its pins live in a temporary
# folder that is handed to apt by options, so the machine's own sources and lists stay as they were, and what this script
# needs for one package can never become the source of another.
set -eu
export LC_ALL=C DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true

say() { printf 'packages: %s\n' "$*" >&2; }
die() {
    say "$*"
    exit 1
}

command -v dpkg-query >/dev/null 2>&1 || die "this is no Debian system (no dpkg-query): install by hand what tests/packages.sh names"

# bats: the tests of the first-boot hook; chromium: the wizard's pages in a browser; mmdebstrap, libguestfs-tools,
# qemu-utils: a small Debian image and virt-customize for the template; gnupg, apt-utils, dpkg-dev: small signed
# repositories; iproute2, util-linux, nftables: network and mount namespaces, and the rules in them; strace: which files
# commands read, write and sync; debhelper, lintian, binutils: the package, built and checked as Debian does.
wanted="bats chromium mmdebstrap gnupg apt-utils dpkg dpkg-dev qemu-utils libguestfs-tools iproute2 util-linux nftables strace"
wanted="$wanted debhelper lintian binutils"

# shellcheck disable=SC2086 # a list of words
have=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' $wanted 2>/dev/null) || : # names unknown to dpkg are missing
missing=
for p in $wanted; do
    case "
$have
" in
    *"
installed $p
"*) ;;
    *) missing="$missing $p" ;;
    esac
done

# python3 need not be Debian's own; what counts is whether the one on PATH can make a virtual environment.
python3 -c "import ensurepip, venv" >/dev/null 2>&1 || missing="$missing python3-venv"

# libguestfs starts a small machine with a kernel of the host. Any kernel will do if it can be read and has its modules;
# a machine that boots by itself has one, and so never gets a second one into its boot menu.
kernel() {
    for image in /boot/vmlinuz-*; do
        [ -r "$image" ] && [ -d "/lib/modules/${image#/boot/vmlinuz-}/kernel" ] && return 0
    done
    return 1
}
if ! kernel; then
    case "$(dpkg --print-architecture)" in
    amd64 | arm64) missing="$missing linux-image-cloud-$(dpkg --print-architecture)" ;;
    *) die "no readable kernel in /boot, and no cloud kernel is known for $(dpkg --print-architecture)" ;;
    esac
fi

# The judge of Prometheus' text format. Debian's package brings a server that would run on the machine, so the one program
# is taken out of it.
tool=$(cd "$(dirname "$0")/.." && pwd)/target/promtool
has_promtool() { [ -x "$tool" ] || command -v promtool >/dev/null 2>&1; }
has_promtool || without="$missing promtool"

[ -n "${without-$missing}" ] || exit 0
[ "$(id -u)" -eq 0 ] || die "not installed:${without-$missing}; run this as root"

# Two runs at once: the second waits, and then finds nothing missing.
if [ -z "${PACKAGES_LOCKED-}" ]; then
    PACKAGES_LOCKED=1 exec flock -w 900 /run/lock/blockhost-tests-packages.lock "$0" "$@"
fi

say "installing:${without-$missing}"
dir=$(mktemp -d "${TMPDIR:-/var/tmp}/packages.XXXXXX")
policy=/usr/sbin/policy-rc.d
mark="# from tests/packages.sh: no service starts while packages are installed"
unmark() { if grep -qsxF "$mark" "$policy"; then rm -f "$policy"; fi; }
trap 'unmark; rm -rf "$dir"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
unmark # of a run that was killed
if ! [ -e "$policy" ]; then
    printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >"$dir/policy"
    chmod 755 "$dir/policy"
    mv "$dir/policy" "$policy"
fi

# apt's own downloader runs as another user and has to get in.
chmod 755 "$dir"
mkdir -p "$dir/sources" "$dir/preferences" "$dir/lists/partial" "$dir/archives/partial"
etc=/etc/apt
for f in "$etc/sources.list" "$etc"/sources.list.d/*.list "$etc"/sources.list.d/*.sources; do
    [ -e "$f" ] && cp "$f" "$dir/sources/"
done
for f in "$etc"/preferences.d/*; do
    [ -e "$f" ] && cp "$f" "$dir/preferences/"
done
apt() {
    apt_command=$1
    shift
    "$apt_command" -q -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$dir/sources" \
        -o Dir::Etc::preferencesparts="$dir/preferences" -o Dir::State::lists="$dir/lists" \
        -o Dir::Cache::archives="$dir/archives" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= \
        -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 -o APT::Get::Assume-Yes=true \
        -o APT::Install-Recommends=false -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "$@"
}

# What an earlier run that was killed left half configured.
dpkg --configure -a >&2 || die "dpkg --configure -a failed: dpkg's own state has to be repaired first"
apt apt-get update >&2 || die "apt-get update failed: see above; are the sources in $etc reachable?"

# libguestfs needs the rest of qemu in the version of the qemu-utils that is installed. Where that one came from backports
# and backports is not among the sources, apt finds no way: name the suite of the same archive for this run, for qemu and
# its firmware alone.
codename=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
case "$(dpkg-query -W -f '${Version}' qemu-utils 2>/dev/null || :)" in
*~bpo*)
    # shellcheck disable=SC2016 # apt's own names, not the shell's
    targets=$(apt apt-get indextargets --format '$(CREATED_BY)|$(ORIGIN)|$(CODENAME)|$(COMPONENT)|$(REPO_URI)|')
    if ! printf '%s\n' "$targets" | grep -q "^Packages|[^|]*|$codename-backports|main|"; then
        archive=$(printf '%s\n' "$targets" | sed -n "s/^Packages|Debian|$codename|main|\\([^|]*\\)|\$/\\1/p" | sed q)
        [ -n "$archive" ] || die "qemu-utils is from $codename-backports, and no source of Debian's main archive is known to find it by"
        keys=/usr/share/keyrings/debian-archive-keyring.gpg
        {
            printf 'Types: deb\nURIs: %s\nSuites: %s-backports\nComponents: main\n' "$archive" "$codename"
            if [ -e "$keys" ]; then printf 'Signed-By: %s\n' "$keys"; fi
        } >"$dir/sources/packages-backports.sources"
        printf 'Package: *\nPin: release n=%s\nPin-Priority: -1\n\nPackage: src:qemu src:seabios\nPin: release n=%s\nPin-Priority: 990\n' \
            "$codename-backports" "$codename-backports" >"$dir/preferences/packages-backports.pref"
        say "qemu-utils is from $codename-backports: taking the rest of qemu from there too"
        apt apt-get update >&2 || die "apt-get update failed with $codename-backports added"
    fi
    ;;
esac

if [ -n "$missing" ]; then
    # shellcheck disable=SC2086 # a list of words
    apt apt-get install $missing >&2 || die "apt-get install failed:$missing"
fi

if ! has_promtool; then
    mkdir "$dir/prometheus"
    chmod 777 "$dir/prometheus" # for apt's own downloader
    (cd "$dir/prometheus" && apt apt-get download prometheus >&2) || die "apt-get download prometheus failed"
    dpkg-deb -x "$dir"/prometheus/*.deb "$dir/unpacked" || die "prometheus could not be unpacked"
    mkdir -p "${tool%/*}"
    cp "$dir/unpacked/usr/bin/promtool" "$tool.new"
    mv "$tool.new" "$tool"
fi

kernel || die "there is still no readable kernel with modules in /boot; libguestfs cannot work"
say "done"
