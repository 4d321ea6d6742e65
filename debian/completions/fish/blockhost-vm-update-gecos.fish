complete -c blockhost-vm-update-gecos -l nft-id -d 'The NFT: a decimal number or up to 64 hexadecimal digits' -r
complete -c blockhost-vm-update-gecos -l username -d 'The guest\'s user [default: the record\'s, else admin]' -r
complete -c blockhost-vm-update-gecos -l mock -d 'Use the mock database (accounting/mock-db.json or $BLOCKHOST_MOCK_DB); the host is not touched'
complete -c blockhost-vm-update-gecos -s v -l verbose -d 'Print more to stderr; -vv prints everything (RUST_LOG for fine control)'
complete -c blockhost-vm-update-gecos -s q -l quiet -d 'Print only errors to stderr'
complete -c blockhost-vm-update-gecos -s h -l help -d 'Print help'
complete -c blockhost-vm-update-gecos -s V -l version -d 'Print version'
complete -c blockhost-vm-update-gecos -n "not string match -q -- '-*' (commandline -ct)" -f -a '(blockhost-vm-list 2>/dev/null | awk -F \'\\t\' \'NR > 1 && $2 != "destroyed" && $1 ~ /^[A-Za-z0-9][A-Za-z0-9.-]*$/ { print $1 }\')'
