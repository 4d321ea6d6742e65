"""The Proxmox provisioner's page of the BlockHost installer; see `wizard`."""
