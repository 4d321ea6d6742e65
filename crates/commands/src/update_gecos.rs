//! `blockhost-vm-update-gecos`: its flags and what it prints.

use crate::OneVm;
use clap::Parser;
use provisioner::operation::audited::audited;
use provisioner::operation::mock;
use provisioner::operation::update_gecos::update_gecos;
use provisioner::value::text::UserName;
use provisioner::value::wallet::{NftTokenId, WalletAddress};

/// Write the owner's wallet and NFT into the GECOS of the guest's user
#[derive(Debug, Parser)]
#[command(
    name = "blockhost-vm-update-gecos",
    version,
    styles = crate::STYLES,
    after_help = "The field becomes wallet=<WALLET>,nft=<ID> and is verified by reading it back; returns within 25 s.\n\n\
        Example:\n  blockhost-vm-update-gecos web-1 0xAb5801a7D398351b8bE11C439e05C5B3259aeC9B --nft-id 42"
)]
pub struct UpdateGecosCommand {
    #[command(flatten)]
    vm: OneVm,
    /// The owner's wallet
    #[arg(value_name = "WALLET")]
    wallet: WalletAddress,
    /// The NFT: a decimal number or up to 64 hexadecimal digits
    #[arg(long, value_name = "ID")]
    nft_id: NftTokenId,
    /// The guest's user [default: the record's, else admin]
    #[arg(long, value_name = "U")]
    username: Option<UserName>,
}

/// The command's entry point.
pub fn main() -> std::process::ExitCode {
    let command: UpdateGecosCommand = crate::parse();
    crate::run_vm(&command.vm, |host| {
        let name = &command.vm.name;
        let ctx = crate::open(host, &command.vm)?;
        let act = || update_gecos(&ctx, name, &command.wallet, &command.nft_id, command.username.as_ref());
        let gecos = match command.vm.mock {
            true => mock::update_gecos(&ctx, name, &command.wallet, &command.nft_id)?,
            false => audited(&ctx, "update-gecos", name, act)?,
        };
        crate::say(&format!("VM {name}: the GECOS is {gecos}"));
        Ok(())
    })
}
