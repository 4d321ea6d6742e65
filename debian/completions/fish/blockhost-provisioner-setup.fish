# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_blockhost_provisioner_setup_global_optspecs
    string join \n v/verbose q/quiet h/help V/version
end

function __fish_blockhost_provisioner_setup_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_blockhost_provisioner_setup_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_blockhost_provisioner_setup_using_subcommand
    set -l cmd (__fish_blockhost_provisioner_setup_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_needs_command" -s v -l verbose -d 'Print more to stderr; -vv prints everything (RUST_LOG for fine control)'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_needs_command" -s q -l quiet -d 'Print only errors to stderr'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_needs_command" -s h -l help -d 'Print help'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_needs_command" -s V -l version -d 'Print version'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_needs_command" -f -a "detect-resources" -d 'Inspect the node: storages, bridges, addresses, template'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_needs_command" -f -a "token" -d 'Create the Proxmox user, roles, pool and a least-privilege API token'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_needs_command" -f -a "terraform" -d 'Prepare the terraform directory and download the Proxmox provider'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_needs_command" -f -a "db_config" -d 'Write db.yaml and create an empty VM database'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_needs_command" -f -a "bridge" -d 'Create the VMs\' bridge; reverted if the host loses its network'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_needs_command" -f -a "template" -d 'Build the template VM unless it exists'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_needs_command" -f -a "cloud-init" -d 'Disable the node\'s own cloud-init, which would run guests\' user-data as root (every step does this)'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_needs_command" -f -a "network-guard" -d 'Part of bridge: puts the former network back'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_needs_command" -f -a "database" -d 'Part of db_config: the VM database, made by user blockhost itself'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_needs_command" -f -a "terraform-folder" -d 'Part of terraform and token: what user blockhost itself writes'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_using_subcommand detect-resources" -s v -l verbose -d 'Print more to stderr; -vv prints everything (RUST_LOG for fine control)'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_using_subcommand detect-resources" -s q -l quiet -d 'Print only errors to stderr'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_using_subcommand detect-resources" -s h -l help -d 'Print help'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_using_subcommand token" -s v -l verbose -d 'Print more to stderr; -vv prints everything (RUST_LOG for fine control)'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_using_subcommand token" -s q -l quiet -d 'Print only errors to stderr'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_using_subcommand token" -s h -l help -d 'Print help'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_using_subcommand terraform" -s v -l verbose -d 'Print more to stderr; -vv prints everything (RUST_LOG for fine control)'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_using_subcommand terraform" -s q -l quiet -d 'Print only errors to stderr'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_using_subcommand terraform" -s h -l help -d 'Print help'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_using_subcommand db_config" -s v -l verbose -d 'Print more to stderr; -vv prints everything (RUST_LOG for fine control)'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_using_subcommand db_config" -s q -l quiet -d 'Print only errors to stderr'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_using_subcommand db_config" -s h -l help -d 'Print help'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_using_subcommand bridge" -s v -l verbose -d 'Print more to stderr; -vv prints everything (RUST_LOG for fine control)'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_using_subcommand bridge" -s q -l quiet -d 'Print only errors to stderr'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_using_subcommand bridge" -s h -l help -d 'Print help'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_using_subcommand template" -s v -l verbose -d 'Print more to stderr; -vv prints everything (RUST_LOG for fine control)'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_using_subcommand template" -s q -l quiet -d 'Print only errors to stderr'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_using_subcommand template" -s h -l help -d 'Print help'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_using_subcommand cloud-init" -s v -l verbose -d 'Print more to stderr; -vv prints everything (RUST_LOG for fine control)'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_using_subcommand cloud-init" -s q -l quiet -d 'Print only errors to stderr'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_using_subcommand cloud-init" -s h -l help -d 'Print help'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_using_subcommand network-guard" -s v -l verbose -d 'Print more to stderr; -vv prints everything (RUST_LOG for fine control)'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_using_subcommand network-guard" -s q -l quiet -d 'Print only errors to stderr'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_using_subcommand network-guard" -s h -l help -d 'Print help'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_using_subcommand database" -s v -l verbose -d 'Print more to stderr; -vv prints everything (RUST_LOG for fine control)'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_using_subcommand database" -s q -l quiet -d 'Print only errors to stderr'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_using_subcommand database" -s h -l help -d 'Print help'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_using_subcommand terraform-folder" -s v -l verbose -d 'Print more to stderr; -vv prints everything (RUST_LOG for fine control)'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_using_subcommand terraform-folder" -s q -l quiet -d 'Print only errors to stderr'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_using_subcommand terraform-folder" -s h -l help -d 'Print help'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_using_subcommand help; and not __fish_seen_subcommand_from detect-resources token terraform db_config bridge template cloud-init network-guard database terraform-folder help" -f -a "detect-resources" -d 'Inspect the node: storages, bridges, addresses, template'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_using_subcommand help; and not __fish_seen_subcommand_from detect-resources token terraform db_config bridge template cloud-init network-guard database terraform-folder help" -f -a "token" -d 'Create the Proxmox user, roles, pool and a least-privilege API token'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_using_subcommand help; and not __fish_seen_subcommand_from detect-resources token terraform db_config bridge template cloud-init network-guard database terraform-folder help" -f -a "terraform" -d 'Prepare the terraform directory and download the Proxmox provider'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_using_subcommand help; and not __fish_seen_subcommand_from detect-resources token terraform db_config bridge template cloud-init network-guard database terraform-folder help" -f -a "db_config" -d 'Write db.yaml and create an empty VM database'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_using_subcommand help; and not __fish_seen_subcommand_from detect-resources token terraform db_config bridge template cloud-init network-guard database terraform-folder help" -f -a "bridge" -d 'Create the VMs\' bridge; reverted if the host loses its network'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_using_subcommand help; and not __fish_seen_subcommand_from detect-resources token terraform db_config bridge template cloud-init network-guard database terraform-folder help" -f -a "template" -d 'Build the template VM unless it exists'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_using_subcommand help; and not __fish_seen_subcommand_from detect-resources token terraform db_config bridge template cloud-init network-guard database terraform-folder help" -f -a "cloud-init" -d 'Disable the node\'s own cloud-init, which would run guests\' user-data as root (every step does this)'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_using_subcommand help; and not __fish_seen_subcommand_from detect-resources token terraform db_config bridge template cloud-init network-guard database terraform-folder help" -f -a "network-guard" -d 'Part of bridge: puts the former network back'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_using_subcommand help; and not __fish_seen_subcommand_from detect-resources token terraform db_config bridge template cloud-init network-guard database terraform-folder help" -f -a "database" -d 'Part of db_config: the VM database, made by user blockhost itself'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_using_subcommand help; and not __fish_seen_subcommand_from detect-resources token terraform db_config bridge template cloud-init network-guard database terraform-folder help" -f -a "terraform-folder" -d 'Part of terraform and token: what user blockhost itself writes'
complete -c blockhost-provisioner-setup -n "__fish_blockhost_provisioner_setup_using_subcommand help; and not __fish_seen_subcommand_from detect-resources token terraform db_config bridge template cloud-init network-guard database terraform-folder help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
