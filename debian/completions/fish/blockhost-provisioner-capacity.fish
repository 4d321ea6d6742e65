complete -c blockhost-provisioner-capacity -l format -d 'Print a table, JSON, or Prometheus\' text format' -r -f -a "table\t'A table for people'
json\t'One JSON object'
prometheus\t'Prometheus\' text exposition format'"
complete -c blockhost-provisioner-capacity -s v -l verbose -d 'Print more to stderr; -vv prints everything (RUST_LOG for fine control)'
complete -c blockhost-provisioner-capacity -s q -l quiet -d 'Print only errors to stderr'
complete -c blockhost-provisioner-capacity -s h -l help -d 'Print help (see more with \'--help\')'
complete -c blockhost-provisioner-capacity -s V -l version -d 'Print version'
