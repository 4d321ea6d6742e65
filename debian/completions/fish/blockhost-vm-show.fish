complete -c blockhost-vm-show -l format -d 'Print a page or JSON' -r -f -a "text\t'Text for people'
json\t'One JSON object'"
complete -c blockhost-vm-show -l mock -d 'Use the mock database (accounting/mock-db.json or $BLOCKHOST_MOCK_DB); the host is not touched'
complete -c blockhost-vm-show -s v -l verbose -d 'Print more to stderr; -vv prints everything (RUST_LOG for fine control)'
complete -c blockhost-vm-show -s q -l quiet -d 'Print only errors to stderr'
complete -c blockhost-vm-show -s h -l help -d 'Print help (see more with \'--help\')'
complete -c blockhost-vm-show -s V -l version -d 'Print version'
complete -c blockhost-vm-show -n "not string match -q -- '-*' (commandline -ct)" -f -a '(blockhost-vm-list 2>/dev/null | awk -F \'\\t\' \'NR > 1 && $2 != "destroyed" && $1 ~ /^[A-Za-z0-9][A-Za-z0-9.-]*$/ { print $1 }\')'
