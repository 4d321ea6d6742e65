#!/bin/sh
# make-image.sh FOLDER: a small Debian image for the real virt-customize, with its own repositories inside, so that
# nothing is fetched from within it. What is there already is kept: it takes minutes.
#
#   FOLDER/image.qcow2     Debian without network sources; sshd's configuration, machine-id and host keys are as a
#                          template must not have them
#   FOLDER/key.asc         the key of the repository of Node.js, which is signed
#   FOLDER/packages/*.deb  web3-auth-svc, which depends on a package of the repository
#   FOLDER/plain/*.deb     the same without dependencies
#   FOLDER/broken/*.deb    one whose installation fails
set -eu
export LC_ALL=C
export LIBGUESTFS_BACKEND=direct LIBGUESTFS_BACKEND_SETTINGS=force_tcg
folder=$1
for tool in mmdebstrap virt-make-fs qemu-img gpg apt-ftparchive dpkg-deb; do
    command -v "$tool" >/dev/null || {
        echo "$tool is missing: run tests/packages.sh" >&2
        exit 1
    }
done
mkdir -p "$folder"
exec 9>"$folder/lock"
flock 9
stamp=$(sha256sum "$0" | cut -c1-16)
[ "$(cat "$folder/stamp" 2>/dev/null || :)" != "$stamp" ] || exit 0
work=$folder/work
rm -rf "$work" "$folder/packages" "$folder/plain" "$folder/broken" "$folder/image.qcow2"
mkdir -p "$work/repo/debian" "$work/repo/node/pool" "$work/gpg" "$folder/packages" "$folder/plain" "$folder/broken"
chmod 700 "$work/gpg"
export GNUPGHOME="$work/gpg"
trap 'gpgconf --kill all' EXIT

# package NAME VERSION FIELDS: the tree is in $work/NAME already
package() {
    mkdir -p "$work/$1/DEBIAN"
    printf 'Package: %s\nVersion: %s\nArchitecture: amd64\nMaintainer: Test <test@example.org>\nDescription: test\n%s' \
        "$1" "$2" "$3" >"$work/$1/DEBIAN/control"
    dpkg-deb --root-owner-group -b "$work/$1" "$4" >/dev/null
}
unit() {
    mkdir -p "$work/$1/usr/lib/systemd/system"
    printf '[Unit]\nDescription=test\n[Service]\nExecStart=/bin/true\n%b' "$2" >"$work/$1/usr/lib/systemd/system/$1.service"
}
# As Debian's: static.
unit qemu-guest-agent ''
package qemu-guest-agent 1:7.2 '' "$work/repo/debian"
mkdir -p "$work/web3-dependency"
package web3-dependency 2.0 '' "$work/repo/debian"
mkdir -p "$work/nodejs/usr/bin"
printf '#!/bin/sh\necho v22.99.0\n' >"$work/nodejs/usr/bin/node"
chmod 755 "$work/nodejs/usr/bin/node"
package nodejs 22.99.0-1nodesource1 '' "$work/repo/node/pool"
# An older one in the ordinary repository, as Debian has.
printf '#!/bin/sh\necho v18.0.0\n' >"$work/nodejs/usr/bin/node"
package nodejs 18.0.0 '' "$work/repo/debian"
unit web3-auth-svc '[Install]\nWantedBy=multi-user.target\n'
package web3-auth-svc 1.5-1 'Depends: web3-dependency (>= 2), nodejs (>= 22)
' "$folder/packages"
package web3-auth-svc 1.5-1 '' "$folder/plain"
mkdir -p "$work/broken/DEBIAN"
printf '#!/bin/sh\necho "the postinst of broken says no" >&2\nexit 1\n' >"$work/broken/DEBIAN/postinst"
chmod 755 "$work/broken/DEBIAN/postinst"
package broken 1 '' "$folder/broken"

(cd "$work/repo/debian" && apt-ftparchive packages . >Packages)
gpg --batch --quiet --passphrase '' --quick-generate-key 'Node test <node@example.org>' rsa3072 sign never
gpg --batch --quiet --armor --export >"$folder/key.asc"
(
    cd "$work/repo/node"
    # The second one is empty.
    for suite in nodistro old; do
        mkdir -p "dists/$suite/main/binary-amd64"
        pool=pool
        [ "$suite" = nodistro ] || pool=dists/old
        apt-ftparchive packages "$pool" >"dists/$suite/main/binary-amd64/Packages"
        apt-ftparchive -o "APT::FTPArchive::Release::Suite=$suite" -o APT::FTPArchive::Release::Components=main \
            -o APT::FTPArchive::Release::Architectures=amd64 release "dists/$suite" >Release
        mv Release "dists/$suite/"
        gpg --batch --quiet --clearsign -o "dists/$suite/InRelease" "dists/$suite/Release"
    done
)

cat >"$work/customize.sh" <<'IN'
#!/bin/sh
set -eu
rm -f "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d/*
echo 'deb [trusted=yes] file:/opt/repo/debian ./' >"$1/etc/apt/sources.list"
sed -i -e '/^Include/d' -e '/^#*KbdInteractiveAuthentication/d' "$1/etc/ssh/sshd_config"
printf 'KbdInteractiveAuthentication no\nMatch User nobody\n  Include /etc/ssh/sshd_config.d/*.conf\n' >>"$1/etc/ssh/sshd_config"
rm -f "$1/etc/machine-id" "$1/var/lib/dbus/machine-id"
echo 0123456789abcdef0123456789abcdef >"$1/etc/machine-id"
mkdir -p "$1/var/lib/dbus" "$1/var/lib/systemd"
cp "$1/etc/machine-id" "$1/var/lib/dbus/machine-id"
head -c 32 /dev/urandom >"$1/var/lib/systemd/random-seed"
ls "$1"/etc/ssh/ssh_host_*_key >/dev/null
IN
chmod 755 "$work/customize.sh"
mmdebstrap --quiet --variant=minbase --include=openssh-server,systemd-sysv,dbus,gpgv \
    --customize-hook="copy-in $work/repo /opt" --customize-hook="$work/customize.sh \"\$1\"" \
    bookworm "$work/root.tar"
virt-make-fs --format=qcow2 --type=ext4 --size=+200M --partition=mbr "$work/root.tar" "$work/large.qcow2"
qemu-img convert -c -O qcow2 "$work/large.qcow2" "$work/image.qcow2"
mv "$work/image.qcow2" "$folder/image.qcow2"
rm -rf "$work"
echo "$stamp" >"$folder/stamp"
