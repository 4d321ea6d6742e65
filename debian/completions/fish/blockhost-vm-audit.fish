complete -c blockhost-vm-audit -l since -d 'Show only changes since TIME: a date (UTC), a time with its zone, or how long ago (90min, 12h, 7d)' -r
complete -c blockhost-vm-audit -l verb -d 'Show only changes by these verbs, separated by commas' -r
complete -c blockhost-vm-audit -l limit -d 'Show only the newest N of them' -r
complete -c blockhost-vm-audit -l format -d 'Print a table or JSON' -r -f -a "table\t'One line for each change, separated by tabs; columns on a terminal'
json\t'One JSON array'"
complete -c blockhost-vm-audit -l no-pager -d 'Do not use a pager'
complete -c blockhost-vm-audit -s v -l verbose -d 'Print more to stderr; -vv prints everything (RUST_LOG for fine control)'
complete -c blockhost-vm-audit -s q -l quiet -d 'Print only errors to stderr'
complete -c blockhost-vm-audit -s h -l help -d 'Print help (see more with \'--help\')'
complete -c blockhost-vm-audit -s V -l version -d 'Print version'
complete -c blockhost-vm-audit -n "not string match -q -- '-*' (commandline -ct)" -f -a '(blockhost-vm-list 2>/dev/null | awk -F \'\\t\' \'NR > 1 && $2 != "destroyed" && $1 ~ /^[A-Za-z0-9][A-Za-z0-9.-]*$/ { print $1 }\')'
