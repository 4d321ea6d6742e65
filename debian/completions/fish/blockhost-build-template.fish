complete -c blockhost-build-template -l template-vmid -d 'VMID of the template' -r
complete -c blockhost-build-template -l storage -d 'Storage of its disks' -r
complete -c blockhost-build-template -l host -d 'The Proxmox node: localhost, or root@HOST by ssh' -r
complete -c blockhost-build-template -l debian -d 'Debian release' -r -f -a "12\t''
13\t''"
complete -c blockhost-build-template -l image-url -d 'Where to download the image from; SHA512SUMS must be in the same directory [default: the release\'s at cloud.debian.org]' -r
complete -c blockhost-build-template -l bridge -d 'Bridge of its network card [default: proxmox_bridge of terraform.tfvars, bridge of db.yaml, vmbr0]' -r
complete -c blockhost-build-template -l packages-dir -d 'Directory of the packages to install in it [default: template-packages in the state directory]' -r -F
complete -c blockhost-build-template -l nodejs-repository -d 'Apt repository of Node.js' -r
complete -c blockhost-build-template -l nodejs-suite -d 'Suite of the Node.js repository' -r
complete -c blockhost-build-template -l nodejs-key -d 'Signing key of the Node.js repository' -r
complete -c blockhost-build-template -l cache-dir -d 'Cache directory for downloads and work; must belong to root, mode 0700' -r -F
complete -c blockhost-build-template -s v -l verbose -d 'Print more to stderr; -vv prints everything (RUST_LOG for fine control)'
complete -c blockhost-build-template -s q -l quiet -d 'Print only errors to stderr'
complete -c blockhost-build-template -s h -l help -d 'Print help'
complete -c blockhost-build-template -s V -l version -d 'Print version'
