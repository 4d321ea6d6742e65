#!/bin/sh
# Makes build/blockhost-provisioner-proxmox_VERSION_amd64.deb, the one package in build/.
#
# The build of BlockHost's installer image calls this, on a machine that has cargo and dpkg-deb and perhaps nothing else of
# Debian's. So the lists in debian/ are carried out here instead of by debhelper. `dpkg-buildpackage -b` makes the same
# package, byte for byte, which the package suite (tests/package) holds.
#
# EXECUTABLE names a program that was built before; without it debian/executables.sh builds it.
set -eu
umask 022
export LC_ALL=C
cd "$(dirname "$0")"
package=blockhost-provisioner-proxmox
version=$(sed -n "1s/^$package (\\([^)]*\\)).*/\\1/p" debian/changelog)
[ -n "$version" ] || { echo "build-deb.sh: cannot read the version from debian/changelog" >&2; exit 1; }
if [ -z "${SOURCE_DATE_EPOCH-}" ]; then
    SOURCE_DATE_EPOCH=$(date -d "$(sed -n 's/^ -- .*>  //p' debian/changelog | sed q)" +%s)
fi
export SOURCE_DATE_EPOCH

root=build/root
rm -rf build
mkdir -p "$root/DEBIAN"
debian/executables.sh build/tmp/usr/bin

# debian/install: what, and the directory it goes to.
while read -r line; do
    # shellcheck disable=SC2086 # a list of words and patterns
    set -- $line
    while [ $# -gt 1 ]; do
        what=$1
        shift
        eval "into=\${$#}"
        case $what in debian/tmp/*) what=build/tmp/${what#debian/tmp/} ;; esac
        mkdir -p "$root/$into"
        cp -a "$what" "$root/$into/"
    done
done <debian/install
find "$root" -name __pycache__ -prune -exec rm -rf {} +

doc=$root/usr/share/doc/$package
mkdir -p "$doc"
while read -r what; do cp -a "$what" "$doc/"; done <debian/docs
cp debian/copyright "$doc/copyright"
gzip -9nc debian/changelog >"$doc/changelog.gz"
if [ -e debian/manpages ]; then
    while read -r pages; do
        for page in $pages; do
            into=$root/usr/share/man/man${page##*.}
            mkdir -p "$into"
            gzip -9nc "$page" >"$into/$(basename "$page").gz"
        done
    done <debian/manpages
fi
if [ -e debian/lintian-overrides ]; then
    install -D -m 0644 debian/lintian-overrides "$root/usr/share/lintian/overrides/$package"
fi

find "$root" -type d -exec chmod 0755 {} +
find "$root" -type f ! -perm -u+x -exec chmod 0644 {} +
find "$root" -type f -perm -u+x -exec chmod 0755 {} +

for script in preinst postinst prerm postrm; do
    sed 's/^#DEBHELPER#$//' "debian/$script" >"$root/DEBIAN/$script"
    chmod 0755 "$root/DEBIAN/$script"
done
(cd "$root" && find usr -type f -printf '%P\0' | sort -z | sed -z 's|^|usr/|' | xargs -0 md5sum) >"$root/DEBIAN/md5sums"

size=$(debian/installed-size.sh "$root")
awk -v version="$version" -v size="$size" '
    function field(name) { return name in value ? name ":" value[name] "\n" : "" }
    /^Package:/ { binary = 1 }
    /^[A-Za-z-]+:/ { name = $1; sub(/:$/, "", name); rest = $0; sub(/^[^:]*:/, "", rest); value[name] = rest; next }
    /^[ \t]/ { if (name == "Description") value[name] = value[name] "\n" $0; else { sub(/^[ \t]+/, " "); value[name] = value[name] $0 } }
    END {
        sub(/ \${misc:Depends},/, "", value["Depends"])
        value["Version"] = " " version
        value["Installed-Size"] = " " size
        split("Package Version Architecture Maintainer Installed-Size Depends Recommends Conflicts Provides Section Priority Description", order, " ")
        for (i = 1; i in order; i++) printf "%s", field(order[i])
    }' debian/control >"$root/DEBIAN/control"
chmod 0644 "$root/DEBIAN/control" "$root/DEBIAN/md5sums"

# One hash, however old the checkout is.
find "$root" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
dpkg-deb --root-owner-group -Zxz --build "$root" "build/${package}_${version}_amd64.deb" >/dev/null
rm -rf "$root" build/tmp
echo "build/${package}_${version}_amd64.deb"
