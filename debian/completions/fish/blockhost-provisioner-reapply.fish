complete -c blockhost-provisioner-reapply -l anti-spoofing -d 'Let these VMs send only from their own addresses, or from any, and remember it' -r -f -a "on\t'From now on'
off\t'Not any more'"
complete -c blockhost-provisioner-reapply -l remove-guard -d 'Remove the hook script from all VMs, before the package is removed: without the script they would not start'
complete -c blockhost-provisioner-reapply -s v -l verbose -d 'Print more to stderr; -vv prints everything (RUST_LOG for fine control)'
complete -c blockhost-provisioner-reapply -s q -l quiet -d 'Print only errors to stderr'
complete -c blockhost-provisioner-reapply -s h -l help -d 'Print help (see more with \'--help\')'
complete -c blockhost-provisioner-reapply -s V -l version -d 'Print version'
