complete -c blockhost-vm-create -l owner-wallet -d 'Wallet of the owner; required unless --no-web3' -r
complete -c blockhost-vm-create -l nft-token-id -d 'NFT token: a decimal number or up to 64 hexadecimal digits; engines send it later by update-gecos' -r
complete -c blockhost-vm-create -l expiry-days -d 'Days until the VM expires and is suspended; 0: the next gc run suspends it [default: default_expiry_days of db.yaml, 30]' -r
complete -c blockhost-vm-create -l cpu -d 'Number of vCPUs' -r
complete -c blockhost-vm-create -l memory -d 'Memory in MB' -r
complete -c blockhost-vm-create -l disk -d 'Disk in GB' -r
complete -c blockhost-vm-create -l cloud-init-content -d 'Use this cloud-config file unchanged' -r -F
complete -c blockhost-vm-create -l cloud-init -d 'Fill in this cloud-init template [default with wallet login: nft-auth]' -r
complete -c blockhost-vm-create -l purpose -d 'What the VM is for, a free text' -r
complete -c blockhost-vm-create -l owner -d 'Who owns the VM, a free text' -r
complete -c blockhost-vm-create -l username -d 'The user inside the VM' -r
complete -c blockhost-vm-create -l tags -d 'Proxmox tags in addition to "blockhost", separated by commas; separated by blanks only after NAME' -r
complete -c blockhost-vm-create -l node -d 'Proxmox node [default: proxmox_node of terraform.tfvars]' -r
complete -c blockhost-vm-create -l template-vmid -d 'Template VM to clone [default: template_vmid of db.yaml, else 9001]' -r
complete -c blockhost-vm-create -l disk-datastore -d 'Storage of the disk [default: as terraform.tfvars says]' -r
complete -c blockhost-vm-create -l cloudinit-datastore -d 'Storage of the cloud-init drive [default: as terraform.tfvars says]' -r
complete -c blockhost-vm-create -l ip -d 'IPv4 address [default: the lowest free one of ip_pool]' -r
complete -c blockhost-vm-create -l ipv6 -d 'IPv6 address [default: the lowest free one of the broker\'s prefix]' -r
complete -c blockhost-vm-create -l vmid -d 'VMID [default: the next free one of vmid_range]' -r
complete -c blockhost-vm-create -l network-mode -d 'Network mode; required if several are enabled' -r
complete -c blockhost-vm-create -l guest-timeout -d 'Seconds the guest agent may take to answer [default: guest_ready_timeout of db.yaml, 180]' -r
complete -c blockhost-vm-create -l queue-timeout -d 'Seconds to wait for other creates to finish' -r
complete -c blockhost-vm-create -l apply -d 'Create the VM. Without this flag, only show what would be created'
complete -c blockhost-vm-create -l mock -d 'Use the mock database and a mock node; the host is not touched'
complete -c blockhost-vm-create -l no-web3 -d 'Create a VM without wallet login'
complete -c blockhost-vm-create -s v -l verbose -d 'Print more to stderr; -vv prints everything (RUST_LOG for fine control)'
complete -c blockhost-vm-create -s q -l quiet -d 'Print only errors to stderr'
complete -c blockhost-vm-create -s h -l help -d 'Print help'
complete -c blockhost-vm-create -s V -l version -d 'Print version'
