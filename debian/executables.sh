#!/bin/sh
# Puts all executables into a directory: one program, with a hard link for each command (SPECIAL.md, "One program under
# many names"). It is built unless EXECUTABLE names it already.
set -eu
into=$1
case $into in /*) ;; *) into=$PWD/$into ;; esac
cd "$(dirname "$0")/.."

if [ -z "${EXECUTABLE-}" ]; then
    # No path of the machine that builds, in the program or in its hash.
    home=${CARGO_HOME:-$HOME/.cargo}
    export RUSTFLAGS="${RUSTFLAGS-} --remap-path-prefix=$home=/cargo --remap-path-prefix=$PWD=/source"
    target=${CARGO_TARGET_DIR:-target}
    if command -v zig >/dev/null 2>&1 && command -v cargo-zigbuild >/dev/null 2>&1; then
        # For the glibc of Debian 12, on whatever distribution.
        cargo zigbuild --locked --release --package commands --bin all-commands --target x86_64-unknown-linux-gnu.2.36
        EXECUTABLE=$target/x86_64-unknown-linux-gnu/release/all-commands
    else
        cargo build --locked --release --package commands --bin all-commands
        EXECUTABLE=$target/release/all-commands
    fi
fi

rm -rf "$into"
mkdir -p "$into"
first=
for source in crates/commands/src/bin/*.rs; do
    name=$(basename "$source" .rs)
    if [ -z "$first" ]; then
        first=$into/$name
        install -m 0755 "$EXECUTABLE" "$first"
    else
        ln "$first" "$into/$name"
    fi
done
