complete -c blockhost-vm-metrics -l format -d 'Print JSON or Prometheus\' text format' -r -f -a "json\t'One JSON object; with --all one for each VM and line'
prometheus\t'Prometheus\' text exposition format'"
complete -c blockhost-vm-metrics -l all -d 'Print all active and suspended VMs, from one request to the node'
complete -c blockhost-vm-metrics -l mock -d 'Use the mock database (accounting/mock-db.json or $BLOCKHOST_MOCK_DB); the host is not touched'
complete -c blockhost-vm-metrics -s v -l verbose -d 'Print more to stderr; -vv prints everything (RUST_LOG for fine control)'
complete -c blockhost-vm-metrics -s q -l quiet -d 'Print only errors to stderr'
complete -c blockhost-vm-metrics -s h -l help -d 'Print help (see more with \'--help\')'
complete -c blockhost-vm-metrics -s V -l version -d 'Print version'
complete -c blockhost-vm-metrics -n "not string match -q -- '-*' (commandline -ct)" -f -a '(blockhost-vm-list 2>/dev/null | awk -F \'\\t\' \'NR > 1 && $2 != "destroyed" && $1 ~ /^[A-Za-z0-9][A-Za-z0-9.-]*$/ { print $1 }\')'
