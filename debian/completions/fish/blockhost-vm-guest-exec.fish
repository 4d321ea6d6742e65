complete -c blockhost-vm-guest-exec -l timeout -d 'Seconds the command may take' -r
complete -c blockhost-vm-guest-exec -l mock -d 'Use the mock database (accounting/mock-db.json or $BLOCKHOST_MOCK_DB); the host is not touched'
complete -c blockhost-vm-guest-exec -s v -l verbose -d 'Print more to stderr; -vv prints everything (RUST_LOG for fine control)'
complete -c blockhost-vm-guest-exec -s q -l quiet -d 'Print only errors to stderr'
complete -c blockhost-vm-guest-exec -s h -l help -d 'Print help'
complete -c blockhost-vm-guest-exec -s V -l version -d 'Print version'
complete -c blockhost-vm-guest-exec -n "not string match -q -- '-*' (commandline -ct)" -f -a '(blockhost-vm-list 2>/dev/null | awk -F \'\\t\' \'NR > 1 && $2 != "destroyed" && $1 ~ /^[A-Za-z0-9][A-Za-z0-9.-]*$/ { print $1 }\')'
