#!/usr/bin/env bats
# The hook fails, loses its network, or is killed, at the calls it makes; the next run goes on from there and ends with the
# very same files as a run that nobody disturbed. Each way of going wrong takes its share of the calls, so that all calls have
# their turn in one way or another; HOOK_TESTS=all goes through every call in every way.
load lib.bash

setup_file() {
    prepare
    local codename
    for codename in bookworm trixie; do
        world "$KIT/undisturbed-$codename" "$codename"
        boot
        assert_done
        cp "$W/calls" "$KIT/calls-$codename"
        tree >"$KIT/tree-$codename"
    done
}

# What the markers say is true.
assert_markers_honest() {
    if marked hostname; then grep -Eqx '192\.0\.2\.10.pve1.example.net pve1' "$W/etc/hosts"; fi
    if marked proxmox; then
        grep -qx installed "$W/dpkg/proxmox-ve"
        grep -qx pve-cluster.service "$W/restarted"
        grep -qx pveproxy.service "$W/restarted"
        no_enterprise
    fi
    if marked terraform; then grep -qx installed "$W/dpkg/terraform"; fi
}

# disturbed CODENAME MODE NUMBER
disturbed() {
    world "$BATS_TEST_TMPDIR/$2-$3" "$1"
    local first last since=$SECONDS
    boot_with "$2" "$3"
    first=$status
    last=$(LOG | tail -n 1)
    assert_markers_honest
    case $2 in
    kill | after) [ "$first" -eq 137 ] ;;
    term)
        [ "$first" -eq 143 ]
        [ $((SECONDS - since)) -lt 40 ] # the program that was stopped would have taken 60
        grep -q 'FAILED: stopped by SIGTERM' <<<"$last"
        ;;
    *)
        # Healed by trying again, or stopped with the reason in the last line.
        if [ "$first" -eq 0 ]; then
            assert_done
        else
            grep -q ' first-boot: [a-z]*: FAILED: ' <<<"$last"
            [ "$(markers)" != ".step-hostname .step-proxmox .step-terraform" ]
        fi
        if [ "$2" = down ]; then [ "$first" -ne 0 ]; fi
        ;;
    esac
    rm -f "$W/down"
    boot
    assert_done
    diff "$KIT/tree-$1" <(tree)
}

# every STEP FIRST CODENAME MODE PATTERN: disturbed, at the calls of an undisturbed run that the pattern fits, of them every
# STEPth from number FIRST on. Three at a time.
every() {
    local number line running=0 count=0 seen=0 failed=0 out step=$1 first=$2
    shift 2
    if [ "${HOOK_TESTS-}" = all ]; then step=1 first=1; fi
    while IFS=: read -r number line; do
        seen=$((seen + 1))
        if [ $((seen % step)) -ne $((first % step)) ]; then continue; fi
        count=$((count + 1))
        out="$BATS_TEST_TMPDIR/out-$number"
        echo "$2 at call $number: $line" >"$out"
        # Not part of any condition: bash would not heed set -e then. A case that got to its end takes its output away.
        # shellcheck disable=SC2094 # it is removed while it is open
        (
            set -e
            disturbed "$1" "$2" "$number"
            rm -rf "$W" "$out"
        ) >>"$out" 2>&1 3>&- &
        running=$((running + 1))
        if [ "$running" -ge 3 ]; then
            wait -n || :
            running=$((running - 1))
        fi
    done < <(grep -nE "$3" "$KIT/calls-$1")
    wait || :
    [ "$count" -ge 4 ]
    for out in "$BATS_TEST_TMPDIR"/out-*; do
        if [ -e "$out" ]; then
            head -n 1 "$out" >&2
            tail -n +2 "$out" | tail -n 12 >&2
            failed=$((failed + 1))
        fi
    done
    [ "$failed" -eq 0 ]
}

programs='^(apt-get|wget|dpkg --configure|systemctl restart pve(-cluster|proxy)|debconf)'

# Before a rename nothing but an unfinished file is there; what lies between two calls is the state at the second.
@test "killed half-way through a call, the next run completes and leaves the same files" {
    every 3 1 bookworm kill "$programs|^mv"
}

@test "killed right after an installing call, the next run completes and leaves the same files" {
    every 2 2 bookworm after '^(apt-get .*confold (install|dist-upgrade)|systemctl .*(cluster|spice)|mv .*step)'
}

@test "stopped by SIGTERM during a call: stops at once, says so, and the next run completes" {
    every 4 2 bookworm term '^(apt-get .* (update|install|dist-upgrade)|wget|dpkg --configure)'
}

@test "a call fails once: healed, or stopped with the reason in the log and nothing marked" {
    every 3 2 bookworm fail "$programs|^mv"
}

@test "the network goes away at a download: stopped with the reason in the log, and the next run completes" {
    every 2 1 bookworm down '^(apt-get .* (update|--download-only)|wget)'
}

@test "h40: Debian 13, killed half-way through a call, the next run completes and leaves the same files" {
    every 3 3 trixie kill "$programs|^mv"
}
