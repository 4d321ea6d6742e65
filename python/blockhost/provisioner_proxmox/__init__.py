"""The Proxmox provisioner's pages: of the BlockHost installer (`wizard`), of the admin panel (`admin`)."""
