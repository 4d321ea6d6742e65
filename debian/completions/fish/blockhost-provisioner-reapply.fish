complete -c blockhost-provisioner-reapply -s v -l verbose -d 'Print more to stderr; -vv prints everything (RUST_LOG for fine control)'
complete -c blockhost-provisioner-reapply -s q -l quiet -d 'Print only errors to stderr'
complete -c blockhost-provisioner-reapply -s h -l help -d 'Print help'
complete -c blockhost-provisioner-reapply -s V -l version -d 'Print version'
