#!/bin/bash
# First-boot hook: makes a Proxmox VE host with terraform out of a fresh Debian 12 or 13. Runs as root.
#
#   STATE_DIR  where the markers .step-hostname, .step-proxmox, .step-terraform go   (/var/lib/blockhost)
#   LOG_FILE   gets a dated line for everything done, and all that the tools say     (/var/log/blockhost-firstboot.log)
#              (a caller that copies our output there gets our own lines on stderr alone, so that none stands there twice)
#
# A marker is made after its step succeeded and was checked, never before; a step without one is done again from its
# start, and every part of it can be: whatever this script writes arrives whole, by rename. It can be killed at any moment.
# Exit code 0: all three steps are done. Anything else stops the first boot; the last line of the log says why.
# bash, not sh: the lists of apt's options need arrays. Debian's bash is Essential, so it is there.
set -euo pipefail
shopt -s nullglob
umask 022
# The caller's PATH comes first: whoever sets the environment of a program that root starts is root already, and could as
# well put in other programs by BASH_ENV. The standard folders are added, since cron's and su's PATH lack the sbin ones.
for dir in /usr/local/sbin /usr/local/bin /usr/sbin /usr/bin /sbin /bin; do
    case ":${PATH-}:" in *":$dir:"*) ;; *) PATH=${PATH:+$PATH:}$dir ;; esac
done
export PATH
export LC_ALL=C DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true
# needrestart would restart services below us (the one that runs this script, too), apt-listchanges would wait for a key.
export NEEDRESTART_SUSPEND=1 APT_LISTCHANGES_FRONTEND=none

STATE_DIR=${STATE_DIR:-/var/lib/blockhost}
LOG_FILE=${LOG_FILE:-/var/log/blockhost-firstboot.log}

readonly RUN_DIR=/run/blockhost-firstboot # scratch, emptied at each start; /run, since only root can write there
readonly LOCK=/run/blockhost-firstboot.lock
readonly TEMP=.blockhost-firstboot # what every unfinished file of ours begins with
readonly SOURCES=/etc/apt/sources.list.d
readonly KEYRINGS=/usr/share/keyrings
readonly DATASOURCE=/etc/cloud/cloud.cfg.d/zz-blockhost-datasource.cfg # the last file that names a list counts
readonly PROXMOX_SITE=download.proxmox.com/debian/pve
readonly HASHICORP_SITE=apt.releases.hashicorp.com
# The primary key of HashiCorp's package signing, as published on its security page.
readonly HASHICORP_KEY=798AEC654E5C15428C8E42EEAA16FCBCA621E701

step=start
child=
direct=() # apt's options for hosts that are reached past its proxy

# ---------------------------------------------------------------------------------------------------------------- log

copied= # yes: what is written to stderr gets into LOG_FILE by our caller; no: it does not

log() {
    local line size
    printf -v line '%(%Y-%m-%dT%H:%M:%S%z)T first-boot: %s: %s' -1 "$step" "$*"
    if [ "$copied" = no ]; then printf '%s\n' "$line" >>"$LOG_FILE"; fi
    size=$(stat -c %s "$LOG_FILE")
    printf '%s\n' "$line" >&8
    if [ -z "$copied" ]; then
        if arrives "$line" "$size"; then
            copied=yes
        else
            copied=no
            printf '%s\n' "$line" >>"$LOG_FILE"
        fi
    fi
}

# arrives LINE SIZE: whether the line that was just printed gets into LOG_FILE, which had SIZE bytes, without us. The
# installer's first boot redirects or pipes its hooks' output there, and a pipe does not tell where it leads.
arrives() {
    local try
    if [ "$LOG_FILE" -ef /proc/self/fd/8 ]; then return 0; fi
    if ! [ -p /proc/self/fd/8 ]; then return 1; fi
    for try in 1 2 3 4 5; do
        if tail -c "+$(($2 + 1))" "$LOG_FILE" | grep -qF -- "$1"; then return 0; fi
        read -rt "0.$try" <> <(:) || :
    done
    return 1
}

die() {
    log "FAILED: $*"
    exit 1
}

# Anything that fails without a line of its own.
unforeseen() {
    log "FAILED: unforeseen error in line $1 (exit code $2); this step is not marked; see $LOG_FILE and run the first boot again"
    exit 1
}

stopped() {
    trap '' TERM INT HUP
    if [ -n "$child" ]; then kill -TERM "$child" 2>/dev/null || :; fi
    log "FAILED: stopped by SIG$1; this step is not marked, the next run goes on with it"
    exit $((128 + $2))
}

# run_into FILE SECONDS COMMAND…: output is added to FILE, nothing to read from, never longer than SECONDS. In the background
# and waited for, so that a signal to this script is acted on at once; the lock is not handed down, a daemon would keep it.
run_into() {
    local rc=0 out=$1
    shift
    timeout -k 60 "$@" </dev/null >>"$out" 2>&1 8>&- 9>&- &
    child=$!
    wait "$child" || rc=$?
    child=
    if [ "$rc" -eq 124 ]; then log "${*:2:2}: did not end within $1 s and was stopped"; fi
    return "$rc"
}

run() { run_into "$LOG_FILE" "$@"; }

# ------------------------------------------------------------------------------------------------------------- files

# replace FILE <CONTENTS: whole or not at all; owner, mode and ACL of a file that is there already are kept. A file
# that says just this already is left alone.
replace() {
    local file temp
    file=$(readlink -f -- "$1")
    temp=$(mktemp "${file%/*}/$TEMP.XXXXXX")
    if [ -f "$file" ]; then cp -a -- "$file" "$temp"; else chmod 644 "$temp"; fi
    cat >"$temp"
    if [ -f "$file" ] && cmp -s -- "$temp" "$file"; then
        rm -f -- "$temp"
        return 0
    fi
    sync "$temp"
    if ! mv -fT -- "$temp" "$file"; then
        # Nothing can be renamed over a file that is mounted, as /etc/hosts is in some containers.
        grep -qF " $file " /proc/self/mountinfo || return 1
        cat "$temp" >"$file"
        rm -f -- "$temp"
    fi
    sync "${file%/*}"
}

marked() { [ -f "$STATE_DIR/.step-$1" ]; }

# STATE_DIR may belong to a user who leaves links in it: -C opens a new file only, and nothing is done by its name after.
mark() {
    local temp="$STATE_DIR/$TEMP.$BASHPID"
    (set -C && : >"$temp")
    sync "$temp"
    mv -fT -- "$temp" "$STATE_DIR/.step-$1"
    sync "$STATE_DIR"
    log "done"
}

# --------------------------------------------------------------------------------------------------------------- apt

apt_options=(-q -y -o DPkg::Lock::Timeout=900 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0
    -o APT::Get::Download-Only=false -o APT::Get::Simulate=false
    -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold)

# again TIMES COMMAND…: for what fails while a network comes up or another apt runs (the lists have no waiting lock).
again() {
    local left=$1
    shift
    until "$@"; do
        left=$((left - 1))
        if [ "$left" -le 0 ]; then return 1; fi
        log "failed, trying again in 20 s ($left more): ${*:1:2}"
        run 60 sleep 20
    done
}

apt_get() { run 5400 apt-get "${apt_options[@]}" "$@"; }

# Half an update counts as none: without --error-on, apt-get goes on with yesterday's lists and exit code 0.
apt_update() {
    remove_enterprise # Proxmox' packages bring it back whenever one of them is configured, in settle_dpkg, too
    log "apt-get update"
    again 6 apt_get --error-on=any update ||
        die "apt-get update failed. Check the network, the name servers, the proxy in /etc/apt/apt.conf.d/00proxy and the sources in /etc/apt, then run the first boot again"
}

# apt_do VERB…: first all downloads, which can be repeated, then the work, which finds no network in its way.
apt_do() {
    again 3 apt_get --download-only "$@" || die "downloading packages failed ($*). Check the network and run the first boot again"
    apt_get "$@" || die "apt-get $* failed. Its output is in $LOG_FILE; after mending the cause run the first boot again"
}

apt_install() {
    log "installing: $*"
    apt_do install "$@"
    # apt-get's word is good for what dpkg does not list; but what dpkg lists has to be whole.
    if dpkg-query -W -f '${db:Status-Status}\n' "$@" 2>/dev/null | grep -qvx installed; then
        die "apt-get reported success, but not all of these are installed: $*"
    fi
}

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# An earlier run, or somebody else, may have been cut off in the midst of dpkg.
settle_dpkg() {
    if again 2 run 1800 dpkg --configure -a; then return 0; fi
    log "dpkg --configure -a could not finish; letting apt-get complete what is missing"
    apt_update
    apt_get --fix-broken install || die "packages are half installed and apt-get --fix-broken install failed. See $LOG_FILE"
}

# What fetching and checking keys takes; a minimal Debian has none of it.
need_tools() {
    local missing=() tool
    installed ca-certificates || missing+=(ca-certificates)
    for tool in gpg wget; do command -v "$tool" >/dev/null || missing+=("$tool"); done
    if [ "${#missing[@]}" -eq 0 ]; then return 0; fi
    apt_update
    apt_install "${missing[@]}"
}

# apt_proxy HOST: the proxy that apt takes for https to HOST, looked for in apt's order, after "0"; after "1" when it is named
# for http only, which apt takes for https, too. Nothing when apt has none.
apt_proxy() {
    apt-config dump | awk -v host="$1" '
        { key = tolower($1); sub(/^[^"]*"/, ""); sub(/";$/, ""); value[key] = $0 }
        END {
            n = split("https::proxy::" host " http::proxy::" host " https::proxy http::proxy", order, " ")
            for (i = 1; i <= n; i++) if (value["acquire::" order[i]] != "") { print (i + 1) % 2, value["acquire::" order[i]]; exit }
        }'
}

# fetch URL FILE: by wget, with apt's proxy in its environment, as a proxy's password has no place in argv. A proxy that is
# named for http only may be a plain package cache, which refuses https; then the direct way is tried.
# Returns 4 where the server says that there is no such file.
fetch() {
    local out="$RUN_DIR/fetch" host=${1#https://} http_only proxy options=() try rc
    local -x https_proxy=${https_proxy-${http_proxy-}}
    local -x http_proxy=${http_proxy-}
    host=${host%%/*}
    proxy=$(apt_proxy "$host") || return 1
    read -r http_only proxy <<<"${proxy:-0}"
    if [[ "${proxy,,}" =~ ^(direct|false)$ || " ${direct[*]}" == *"::$host="* ]]; then
        http_only=0 proxy='' options=(--no-proxy)
    fi
    if [ -n "$proxy" ]; then http_proxy=$proxy https_proxy=$proxy; fi
    for try in apt direct; do
        rm -f -- "$2" "$out"
        rc=0
        run_into "$out" 300 wget -nv --tries=3 --timeout=30 --retry-connrefused --retry-on-host-error \
            --retry-on-http-error=429,500,502,503,504 "${options[@]}" -O "$2" "$1" || rc=$?
        sed -E 's|//[^/ ]*@|//|g' "$out" >>"$LOG_FILE" # a proxy's password
        if [ "$rc" -eq 0 ]; then break; fi
        if grep -q 'ERROR 404' "$out"; then return 4; fi
        if [ "$http_only" -eq 0 ] || [ "$try" = direct ]; then return 1; fi
        log "$host was not reached through apt's http proxy; trying without a proxy"
        options=(--no-proxy)
    done
    if [ "$try" = direct ]; then
        log "$host is reached without the proxy"
        direct+=(-o "Acquire::https::Proxy::$host=DIRECT")
    fi
}

fetch_key() {
    fetch "$@" || die "the key $1 could not be fetched. Check the network; a proxy that does not let https through needs Acquire::https::Proxy \"DIRECT\"; in /etc/apt/apt.conf.d/00proxy. Then run the first boot again"
}

# other_source OWN WORD…: the first other file of sources in use that has all these words. apt takes one repository that
# is named twice, with two different keys, for an error that stops everything, so an administrator's entry is used as it is.
other_source() {
    local file text word own=$1
    shift
    for file in /etc/apt/sources.list "$SOURCES"/*.list "$SOURCES"/*.sources; do
        if ! [ -f "$file" ] || [ "$file" = "$own" ]; then continue; fi
        text=$(grep -v '^[[:space:]]*#' "$file") || continue
        if [[ "${text,,}" =~ (^|[[:cntrl:]])enabled:[[:space:]]*(no|false|0) ]]; then continue; fi
        for word; do
            [[ "$text" == *"$word"* ]] || continue 2
        done
        printf '%s\n' "$file"
        return 0
    done
    return 1
}

# ---------------------------------------------------------------------------------------------------- step: hostname

# address FAMILY: of the interface of the default route with the lowest metric. Its "src" when the route has one (the
# kernel uses that), else the interface's first lasting global address.
address() {
    local route dev src
    route=$(ip "-$1" route show default)
    src=$(awk '$1 == "default" { for (i = 2; i < NF; i++) if ($i == "src") { print $(i + 1); exit }; exit }' <<<"$route")
    if [ -z "$src" ]; then
        dev=$(awk '$1 == "default" || $1 == "nexthop" { for (i = 1; i < NF; i++) if ($i == "dev") { print $(i + 1); exit } }' <<<"$route")
        if [ -z "$dev" ]; then return 1; fi
        src=$(ip -o "-$1" addr show dev "$dev" scope global |
            awk '!/ (secondary|temporary|deprecated|tentative|dadfailed)( |\\|$)/ { sub("/.*", "", $4); print $4; exit }')
    fi
    [ -n "$src" ] && printf '%s\n' "$src"
}

any_address() { own=$(address 4) || own=$(address 6); }

# Without a default route (a package cache on the same wire is enough), or without iproute2.
only_address() { own=$(hostname -I | tr ' ' '\n' | grep -Ex '[0-9]+([.][0-9]+){3}') && [[ "$own" != *$'\n'* ]]; }

# The new /etc/hosts on stdout. The host's names leave every line with a loopback address or with another address of the
# same family; they stand, the full one first, on a line of the real address. All else is kept as it is.
hosts_with() {
    awk -v own="$1" -v short="$2" -v kernel="$3" '
        function ours(name) { name = tolower(name); return name == tolower(short) || name == tolower(full) }
        function split_line(text,  hash) {
            hash = index(text, "#")
            comment = hash ? substr(text, hash) : ""
            count = split(hash ? substr(text, 1, hash - 1) : text, word)
        }
        # The full name, where the file has one: on a line of the real address first.
        function look_for_full(anywhere,  n, i) {
            for (n = 1; n <= NR && full == ""; n++) {
                split_line(line[n])
                for (i = 2; i <= count; i++)
                    if (full == "" && (anywhere || word[1] == own) && index(tolower(word[i]), tolower(short) ".") == 1) full = word[i]
            }
        }
        function rest(  i, text) {
            for (i = 2; i <= count; i++) if (!ours(word[i])) text = text " " word[i]
            return substr(text, 2)
        }
        function names_us(  i) { for (i = 2; i <= count; i++) if (ours(word[i])) return 1; return 0 }
        function has_short(  i) { for (i = 2; i <= count; i++) if (tolower(word[i]) == tolower(short)) return 1; return 0 }
        function join(a, b, between) { return a == "" || b == "" ? a b : a between b }
        { line[NR] = $0 }
        END {
            if (index(kernel, ".")) full = kernel
            look_for_full(0)
            look_for_full(1)
            names = join(full, short, " ")
            for (n = 1; n <= NR; n++) {
                split_line(line[n])
                if (!names_us()) continue
                if (word[1] == own) {
                    if (has_short() && tolower(word[2]) == tolower(full == "" ? short : full)) good = n
                    else if (!old) old = n
                } else if (word[1] ~ /^127\./ || word[1] ~ /^(0*:)+0*1$/ || (index(word[1], ":") > 0) == (index(own, ":") > 0)) {
                    if (rest() != "") line[n] = join(word[1] "\t" rest(), comment, " ")
                    else if (comment != "") line[n] = comment
                    else drop[n] = 1
                    if (!place) place = n
                }
            }
            if (!good && old) {
                split_line(line[old])
                line[old] = join(own "\t" join(names, rest(), " "), comment, " ")
                good = old
            }
            for (n = 1; n <= NR; n++) {
                if (n == place && !good) print own "\t" names
                if (!drop[n]) print line[n]
            }
            if (!place && !good) print own "\t" names
        }' "$4"
}

# look_up NAME: its addresses into $found, the way every program on the host finds them. Fails where one is a loopback.
look_up() { found=$(getent ahosts "$1" | awk '{ print $1 }' | sort -u) && ! grep -Eq '^(127\.|::1$)' <<<"$found"; }

host_name() {
    kernel=$(hostname)
    short=${kernel%%.*}
    if ! [[ "$short" =~ ^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$ ]] || [ "${short,,}" = localhost ]; then
        die "'$kernel' is no name for a Proxmox node. Set one with hostnamectl set-hostname (letters, digits, hyphens) and run the first boot again"
    fi
}

# Once marked, an entry of the administrator's own is respected; but a name that leads to a loopback or to no address that
# this machine has now (DHCP gave another) breaks Proxmox, and costs nothing to look at.
hostname_still_right() {
    look_up "$short" &&
        grep -qxFf <({ ip -o addr show || :; } | awk '{ sub("/.*", "", $4); print $4 }'; hostname -I | tr ' ' '\n' || :) <<<"$found"
}

# cloud-init with manage_etc_hosts writes 127.0.1.1 back at every boot. What user data says outranks every file of
# configuration; there, only taking the module out of the list helps.
tame_cloud_init() {
    if ! [ -f /etc/cloud/cloud.cfg ]; then return 0; fi
    mkdir -p /etc/cloud/cloud.cfg.d
    printf '# Proxmox VE needs the host name to lead to a real address; /etc/hosts is not to be made anew at boot.\nmanage_etc_hosts: false\n' |
        replace /etc/cloud/cloud.cfg.d/99-blockhost-hosts.cfg
    local data=(/var/lib/cloud/instance/cloud-config.txt /var/lib/cloud/instance/vendor-cloud-config.txt)
    if grep -Eqs "^[[:space:]]*[\"']?manage_etc_hosts[\"']?:[[:space:]]*[\"']?(true|yes|on|localhost|template)" "${data[@]}" &&
        grep -Eq '^[[:space:]]*-[[:space:]]*update[_-]etc[_-]hosts' /etc/cloud/cloud.cfg; then
        log "the user data of cloud-init ask for /etc/hosts to be managed; taking the module update_etc_hosts out of /etc/cloud/cloud.cfg"
        sed -E 's/^([[:space:]]*)(-[[:space:]]*update[_-]etc[_-]hosts)/\1# \2/' /etc/cloud/cloud.cfg | replace /etc/cloud/cloud.cfg
    fi
}

# A guest's cloud-init drive on LVM or ZFS is a block device of this node with the label "cidata". A node that was made of
# a cloud image would take it for its own at its next boot and run the guest's user data as root. What cloud-init had to do
# here is done: it is switched off for good, and where somebody switches it on again it looks for no data. The network that
# it has set up stays: its configuration lies in /etc (interfaces.d, netplan, systemd/network) and is read without it.
switch_off_cloud_init() {
    step=cloud-init
    if ! [ -d /etc/cloud ]; then return 0; fi
    if [ -e /etc/cloud/cloud-init.disabled ] && [ -e "$DATASOURCE" ]; then return 0; fi
    mkdir -p "${DATASOURCE%/*}"
    printf '# A Proxmox node must not take the cloud-init drives of its guests for its own.\ndatasource_list: [ None ]\n' |
        replace "$DATASOURCE"
    printf 'Switched off by the first boot of BlockHost: a Proxmox node must not take the cloud-init drives of its guests for its own.\n' |
        replace /etc/cloud/cloud-init.disabled
    log "cloud-init of this node is switched off from the next boot on (/etc/cloud/cloud-init.disabled): it would run the user data of guests"
    if grep -Eqs '(^| )(cloud-init=enabled|ds=|ci\.)' /proc/cmdline; then
        log "WARNING: the kernel command line switches cloud-init on or names its data source; remove that (cloud-init=enabled, ds=, ci.*) from the boot loader's configuration"
    fi
}

step_hostname() {
    step=hostname
    host_name
    if marked hostname; then
        if hostname_still_right; then return 0; fi
        log "$short no longer leads to an address of this machine; doing this step again"
        rm -f -- "$STATE_DIR/.step-hostname"
        sync "$STATE_DIR"
    fi
    if ! { command -v ip >/dev/null && again 6 any_address; } && ! only_address; then
        die "this machine has no default route with a global address, and not just one address either. Bring the network up (ip route, ip addr) and run the first boot again"
    fi
    log "host name $short, address $own"
    tame_cloud_init
    if ! [ -e /etc/hosts ]; then printf '127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n' | replace /etc/hosts; fi
    hosts_with "$own" "$short" "$kernel" /etc/hosts >"$RUN_DIR/hosts"
    replace /etc/hosts <"$RUN_DIR/hosts"
    if ! look_up "$short" || ! grep -qxF -- "$own" <<<"$found"; then
        die "/etc/hosts says $own for $short, but the system finds: ${found//$'\n'/ }. The line 'hosts:' in /etc/nsswitch.conf must name 'files' first"
    fi
    # A host that runs Proxmox already, and got another address.
    if marked proxmox; then restart_proxmox; fi
    mark hostname
}

# ----------------------------------------------------------------------------------------------------- step: proxmox

debian_release() {
    local ID='' VERSION_CODENAME='' PRETTY_NAME=''
    # shellcheck source=/dev/null # a file of assignments, by its definition
    . /etc/os-release
    release=$VERSION_CODENAME
    case $ID/$release in
    debian/bookworm)
        proxmox_key=proxmox-release-bookworm.gpg
        proxmox_keyring=$KEYRINGS/proxmox-release-bookworm.gpg
        proxmox_sum=(sha512 7da6fe34168adc6e479327ba517796d4702fa2f8b4f0a9833f5ea6e6b48f6507a6da403a274fe201595edc86a84463d50383d07f64bdde2e3658108db7d6dc87)
        ;;
    debian/trixie)
        proxmox_key=proxmox-archive-keyring-trixie.gpg
        # The package proxmox-archive-keyring, which proxmox-ve brings, takes this file over.
        proxmox_keyring=$KEYRINGS/proxmox-archive-keyring.gpg
        proxmox_sum=(sha256 136673be77aba35dcce385b28737689ad64fd785a797e57897589aed08db6e45)
        ;;
    *) die "this is ${PRETTY_NAME:-an unknown system}; Proxmox VE is installed on Debian 12 (bookworm) and Debian 13 (trixie) only" ;;
    esac
    [ "$(dpkg --print-architecture)" = amd64 ] || die "this is $(dpkg --print-architecture); Proxmox VE exists for amd64 only"
}

sum_is() { [ "$("${1}sum" <"$3" | cut -d ' ' -f 1)" = "$2" ]; }

# adopt FILE KEYRING: a checked key goes to its place, with a mode of its own: apt reads it as another user.
adopt() {
    rm -f -- "$2"
    replace "$2" <"$1"
}

proxmox_key() {
    if [ -f "$proxmox_keyring" ]; then
        if sum_is "${proxmox_sum[@]}" "$proxmox_keyring"; then return 0; fi
        if dpkg-query -S "$proxmox_keyring" >/dev/null 2>&1; then return 0; fi
        log "$proxmox_keyring is not the published key; fetching it anew"
    fi
    log "fetching the key of the Proxmox repository"
    fetch_key "https://enterprise.proxmox.com/debian/$proxmox_key" "$RUN_DIR/proxmox.gpg"
    sum_is "${proxmox_sum[@]}" "$RUN_DIR/proxmox.gpg" ||
        die "what came as the key of the Proxmox repository does not have the published ${proxmox_sum[0]} sum: not installed. Somebody may be answering in Proxmox' place; check the way to enterprise.proxmox.com"
    adopt "$RUN_DIR/proxmox.gpg" "$proxmox_keyring"
}

# What Proxmox' packages bring along: repositories that answer 401 without a subscription, and so stop every apt-get update.
remove_enterprise() {
    local file files site='^[^#]*enterprise[.]proxmox[.]com'
    mapfile -t files < <(grep -Eils "$site" /etc/apt/sources.list "$SOURCES"/*.list "$SOURCES"/*.sources || :)
    for file in "${files[@]}"; do
        log "removing the enterprise repository from $file"
        # One entry is a line of a .list, a paragraph of a .sources.
        awk -v site="$site" -v kind="${file##*.}" '
            function flush() { if (!gone) printf "%s", entry; entry = ""; gone = 0 }
            { entry = entry $0 "\n"; if (tolower($0) ~ site) gone = 1 }
            kind == "list" || /^[ \t]*$/ { flush() }
            END { flush() }' "$file" >"$RUN_DIR/sources"
        # dpkg takes a configuration file that was deleted for a wish and does not bring it back.
        if [ "${file%/*}" = "$SOURCES" ] && ! grep -Eiq '^([[:space:]]*deb|uris:)' "$RUN_DIR/sources"; then
            rm -f -- "$file"
            sync "$SOURCES"
        else
            replace "$file" <"$RUN_DIR/sources"
        fi
    done
}

restart_proxmox() {
    local unit
    # pve-cluster provides /etc/pve, which all the others read.
    for unit in pve-cluster pvedaemon pvestatd pveproxy spiceproxy; do
        if run 180 systemctl restart "$unit.service"; then continue; fi
        if ! [ -d /run/systemd/system ]; then
            log "systemd does not run here; Proxmox' services start with the next boot"
            return 0
        fi
        die "$unit does not start. See journalctl -u $unit, then run the first boot again"
    done
    run 30 systemctl is-active --quiet pve-cluster.service || die "pve-cluster started and stopped again. See journalctl -u pve-cluster, then run the first boot again"
}

step_proxmox() {
    local file="$SOURCES/pve-no-subscription.sources" other
    step=proxmox
    if marked proxmox; then return 0; fi
    debian_release
    settle_dpkg
    need_tools
    if other=$(other_source "$file" "$PROXMOX_SITE" pve-no-subscription "$release"); then
        log "$other names the Proxmox repository already; using that"
    else
        proxmox_key
        printf 'Types: deb\nURIs: http://%s\nSuites: %s\nComponents: pve-no-subscription\nArchitectures: amd64\nSigned-By: %s\n' \
            "$PROXMOX_SITE" "$release" "$proxmox_keyring" | replace "$file"
    fi
    apt_update
    # Only where nobody chose a mail server before: mail of the host stays on the host.
    if ! installed postfix; then
        printf 'postfix postfix/main_mailer_type select Local only\npostfix postfix/mailname string %s\n' "$(hostname -f)" >"$RUN_DIR/debconf"
        run 60 debconf-set-selections "$RUN_DIR/debconf" || die "debconf-set-selections failed; see $LOG_FILE"
    fi
    # Proxmox' packages are made for, and supported on, the newest state of their Debian release.
    log "bringing Debian up to date"
    apt_do dist-upgrade
    apt_install proxmox-ve postfix open-iscsi chrony
    remove_enterprise
    restart_proxmox
    [[ "$(uname -r)" == *-pve ]] || log "the running kernel $(uname -r) is Debian's; Proxmox' own runs after the next reboot"
    mark proxmox
}

# --------------------------------------------------------------------------------------------------- step: terraform

# The keys in a file, by their fingerprints; all of them have to be the one that is known.
only_hashicorp() {
    local keys
    install -d -m 700 "$RUN_DIR/gnupg"
    keys=$(gpg --homedir "$RUN_DIR/gnupg" --batch --quiet --no-autostart --with-colons --show-keys "$1" 2>>"$LOG_FILE" |
        awk -F : '$1 == "pub" { pub = 1 } $1 == "fpr" && pub { print $10; pub = 0 }' | sort -u) || return 1
    [ "$keys" = "$HASHICORP_KEY" ]
}

hashicorp_key() {
    local keyring=$1
    if [ -f "$keyring" ] && only_hashicorp "$keyring"; then return 0; fi
    log "fetching the key of HashiCorp's repository"
    fetch_key "https://$HASHICORP_SITE/gpg" "$RUN_DIR/hashicorp.asc"
    only_hashicorp "$RUN_DIR/hashicorp.asc" ||
        die "what came as the key of HashiCorp's repository is not the key $HASHICORP_KEY: not installed. Somebody may be answering in HashiCorp's place; if HashiCorp has a new key, install terraform by hand and create $STATE_DIR/.step-terraform"
    run 30 gpg --homedir "$RUN_DIR/gnupg" --batch --quiet --no-autostart --dearmor -o "$RUN_DIR/hashicorp.gpg" "$RUN_DIR/hashicorp.asc" ||
        die "gpg --dearmor failed; see $LOG_FILE"
    adopt "$RUN_DIR/hashicorp.gpg" "$keyring"
}

# HashiCorp adds a new Debian release to its repository some time after it is out; its packages are single static programs,
# and those for the release before run as well.
hashicorp_suite() {
    local one rc
    suite=
    for one in "$release" bookworm; do
        rc=0
        fetch "https://$HASHICORP_SITE/dists/$one/InRelease" "$RUN_DIR/InRelease" || rc=$?
        if [ "$rc" -eq 0 ]; then suite=$one; fi
        if [ "$rc" -ne 4 ]; then break; fi
    done
    [ -n "$suite" ] || die "https://$HASHICORP_SITE/dists/$release/InRelease could not be fetched. Check the network, then run the first boot again"
    if [ "$suite" != "$release" ]; then log "HashiCorp has no packages for $release yet; using those for $suite"; fi
}

step_terraform() {
    local file="$SOURCES/hashicorp.sources" keyring="$KEYRINGS/hashicorp-archive-keyring.gpg" other
    step=terraform
    if marked terraform; then return 0; fi
    debian_release
    settle_dpkg
    need_tools
    if other=$(other_source "$file" "$HASHICORP_SITE"); then
        log "$other names HashiCorp's repository already; using that"
    else
        hashicorp_key "$keyring"
        hashicorp_suite
        printf 'Types: deb\nURIs: https://%s\nSuites: %s\nComponents: main\nArchitectures: amd64\nSigned-By: %s\n' \
            "$HASHICORP_SITE" "$suite" "$keyring" | replace "$file"
    fi
    if [[ " ${direct[*]} " == *"::$HASHICORP_SITE="* ]]; then
        apt_options+=("${direct[@]}")
        log "later updates need this line in /etc/apt/apt.conf.d/00proxy: Acquire::https::Proxy::$HASHICORP_SITE \"DIRECT\";"
    fi
    apt_update
    apt_install terraform libguestfs-tools jq
    mark terraform
}

# -------------------------------------------------------------------------------------------------------------- main

main() {
    if [ "$(id -u)" -ne 0 ]; then
        echo "first-boot: must run as root" >&2
        exit 1
    fi
    mkdir -p "${LOG_FILE%/*}" "$STATE_DIR"
    (umask 027 && : >>"$LOG_FILE")
    chmod 640 "$LOG_FILE"
    exec 8>&2 2>>"$LOG_FILE"
    trap 'unforeseen "$LINENO" "$?"' ERR
    set -E
    trap 'stopped TERM 15' TERM
    trap 'stopped INT 2' INT
    trap 'stopped HUP 1' HUP

    exec 9>"$LOCK"
    if ! flock -n 9; then
        log "another run is at work; waiting for it"
        flock -w 7200 9 || die "another run has been at work for two hours (lock $LOCK); see what hangs with: fuser -v $LOCK"
    fi
    rm -rf "$RUN_DIR"
    mkdir -m 700 "$RUN_DIR"
    # What killed runs left half written.
    rm -f /etc/"$TEMP".* /etc/blockhost/"$TEMP".* /etc/apt/"$TEMP".* "$SOURCES/$TEMP".* /etc/cloud/"$TEMP".* /etc/cloud/cloud.cfg.d/"$TEMP".* "$KEYRINGS/$TEMP".* "$STATE_DIR/$TEMP".*

    # Tells the other parts of the product that the provisioner makes the bridge.
    if ! [ -e /etc/blockhost/bridge-managed ]; then
        mkdir -p /etc/blockhost
        replace /etc/blockhost/bridge-managed </dev/null
    fi

    step_hostname
    step_proxmox
    step_terraform
    switch_off_cloud_init
    rm -rf "$RUN_DIR"
    step=end
    log "all steps are done"
}

main "$@"
