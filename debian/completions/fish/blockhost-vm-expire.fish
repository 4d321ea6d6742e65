complete -c blockhost-vm-expire -l at -d 'Set the expiry to TIME: a date (2027-03-01, midnight UTC) or a time with its zone (2027-03-01T12:00:00+01:00)' -r
complete -c blockhost-vm-expire -l extend-days -d 'Add N days to the current expiry, or to now if it has passed' -r
complete -c blockhost-vm-expire -l mock -d 'Use the mock database (accounting/mock-db.json or $BLOCKHOST_MOCK_DB); the host is not touched'
complete -c blockhost-vm-expire -s v -l verbose -d 'Print more to stderr; -vv prints everything (RUST_LOG for fine control)'
complete -c blockhost-vm-expire -s q -l quiet -d 'Print only errors to stderr'
complete -c blockhost-vm-expire -l force -d 'Set an expiry that has passed'
complete -c blockhost-vm-expire -s h -l help -d 'Print help'
complete -c blockhost-vm-expire -s V -l version -d 'Print version'
complete -c blockhost-vm-expire -n "not string match -q -- '-*' (commandline -ct)" -f -a '(blockhost-vm-list 2>/dev/null | awk -F \'\\t\' \'NR > 1 && $2 != "destroyed" && $1 ~ /^[A-Za-z0-9][A-Za-z0-9.-]*$/ { print $1 }\')'
