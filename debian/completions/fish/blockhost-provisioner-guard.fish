complete -c blockhost-provisioner-guard -s v -l verbose -d 'Print more to stderr; -vv prints everything (RUST_LOG for fine control)'
complete -c blockhost-provisioner-guard -s q -l quiet -d 'Print only errors to stderr'
complete -c blockhost-provisioner-guard -s h -l help -d 'Print help'
complete -c blockhost-provisioner-guard -s V -l version -d 'Print version'
