complete -c blockhost-vm-list -l format -d 'Print a table or JSON' -r -f -a "table\t'NAME, STATUS, IP, CREATED, separated by tabs; columns on a terminal'
json\t'One JSON array'"
complete -c blockhost-vm-list -l status -d 'Show only VMs with this status ("unknown" requires --live)' -r -f -a "active\t''
suspended\t''
destroyed\t''
unknown\t''"
complete -c blockhost-vm-list -l json -d 'The same as --format json'
complete -c blockhost-vm-list -l live -d 'Query the node for each VM instead of trusting the database'
complete -c blockhost-vm-list -l mock -d 'Use the mock database'
complete -c blockhost-vm-list -s v -l verbose -d 'Print more to stderr; -vv prints everything (RUST_LOG for fine control)'
complete -c blockhost-vm-list -s q -l quiet -d 'Print only errors to stderr'
complete -c blockhost-vm-list -s h -l help -d 'Print help (see more with \'--help\')'
complete -c blockhost-vm-list -s V -l version -d 'Print version'
