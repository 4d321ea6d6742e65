complete -c blockhost-provisioner-doctor -l format -d 'Print text or JSON' -r -f -a "text\t'Text for people'
json\t'One JSON object'"
complete -c blockhost-provisioner-doctor -l fix -d 'Mend what can be mended safely; asks before on a terminal'
complete -c blockhost-provisioner-doctor -s y -l yes -d 'Do not ask'
complete -c blockhost-provisioner-doctor -s v -l verbose -d 'Print more to stderr; -vv prints everything (RUST_LOG for fine control)'
complete -c blockhost-provisioner-doctor -s q -l quiet -d 'Print only errors to stderr'
complete -c blockhost-provisioner-doctor -s h -l help -d 'Print help (see more with \'--help\')'
complete -c blockhost-provisioner-doctor -s V -l version -d 'Print version'
