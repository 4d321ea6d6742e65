complete -c blockhost-provisioner-import -l format -d 'Print a table or JSON' -r -f -a "table\t'A table, and a sentence for each VM with something to say'
json\t'One JSON object'"
complete -c blockhost-provisioner-import -l apply -d 'Move the VMs (default: show what would be done)'
complete -c blockhost-provisioner-import -s v -l verbose -d 'Print more to stderr; -vv prints everything (RUST_LOG for fine control)'
complete -c blockhost-provisioner-import -s q -l quiet -d 'Print only errors to stderr'
complete -c blockhost-provisioner-import -s h -l help -d 'Print help (see more with \'--help\')'
complete -c blockhost-provisioner-import -s V -l version -d 'Print version'
