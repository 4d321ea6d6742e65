complete -c blockhost-provisioner-detect -s v -l verbose -d 'Print more to stderr; -vv prints everything (RUST_LOG for fine control)'
complete -c blockhost-provisioner-detect -s q -l quiet -d 'Print only errors to stderr'
complete -c blockhost-provisioner-detect -s h -l help -d 'Print help'
complete -c blockhost-provisioner-detect -s V -l version -d 'Print version'
