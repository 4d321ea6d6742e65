complete -c blockhost-vm-throttle -l cpu-shares -d 'Weight among the node\'s VMs where CPUs are short, 1 to 10000; 0: Proxmox\' default, which is 100' -r
complete -c blockhost-vm-throttle -l cpu-quota -d 'Percent of the VM\'s own vCPUs, 1 to 100' -r
complete -c blockhost-vm-throttle -l bandwidth-in -d 'What the guest receives, in kilobits per second' -r
complete -c blockhost-vm-throttle -l bandwidth-out -d 'What the guest sends, in kilobits per second' -r
complete -c blockhost-vm-throttle -l iops-read -d 'Reads per second of each disk' -r
complete -c blockhost-vm-throttle -l iops-write -d 'Writes per second of each disk' -r
complete -c blockhost-vm-throttle -l format -d 'With --show: print text or JSON' -r -f -a "text\t'Text for people'
json\t'One JSON object'"
complete -c blockhost-vm-throttle -l mock -d 'Use the mock database (accounting/mock-db.json or $BLOCKHOST_MOCK_DB); the host is not touched'
complete -c blockhost-vm-throttle -s v -l verbose -d 'Print more to stderr; -vv prints everything (RUST_LOG for fine control)'
complete -c blockhost-vm-throttle -s q -l quiet -d 'Print only errors to stderr'
complete -c blockhost-vm-throttle -l reset -d 'Remove every limit that is not named beside it'
complete -c blockhost-vm-throttle -l show -d 'Print the limits in force and change nothing'
complete -c blockhost-vm-throttle -s h -l help -d 'Print help (see more with \'--help\')'
complete -c blockhost-vm-throttle -s V -l version -d 'Print version'
complete -c blockhost-vm-throttle -n "not string match -q -- '-*' (commandline -ct)" -f -a '(blockhost-vm-list 2>/dev/null | awk -F \'\\t\' \'NR > 1 && $2 != "destroyed" && $1 ~ /^[A-Za-z0-9][A-Za-z0-9.-]*$/ { print $1 }\')'
