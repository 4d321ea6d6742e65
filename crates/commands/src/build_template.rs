//! The flags of `blockhost-build-template`, and how its progress is shown.

use crate::Common;
use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use provisioner::host::Host;
use provisioner::operation::build_template::progress::{Progress, Unit};
use provisioner::operation::build_template::{Request, build_template};
use provisioner::plan::template_image::DebianRelease;
use provisioner::value::apt_repository::AptRepository;
use provisioner::value::proxmox_host::ProxmoxHost;
use provisioner::value::text::{BridgeName, StorageId};
use provisioner::value::vmid::Vmid;
use provisioner::value::web_address::WebAddress;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Build the template VM: Debian's cloud image with the guest agent, Node.js and our packages
#[derive(Debug, Parser)]
#[command(
    name = "blockhost-build-template",
    version,
    styles = crate::STYLES,
    after_help = "Run it as root on the Proxmox node, or anywhere with --host root@NODE. It can be run again at any time: a \
        template of ours is replaced once the new one is complete, but not while linked clones depend on it. Leftovers of an \
        interrupted run are completed or removed, and interrupted downloads are resumed.\n\n\
        Examples:\n  blockhost-build-template\n  blockhost-build-template --debian 13 --template-vmid 9002 --storage local-zfs\n  \
        blockhost-build-template --host root@pve.example.org"
)]
pub struct BuildTemplateCommand {
    /// VMID of the template
    #[arg(long, env = "TEMPLATE_VMID", value_name = "VMID", default_value_t = Vmid::DEFAULT_TEMPLATE)]
    template_vmid: Vmid,
    /// Storage of its disks
    #[arg(long, env = "STORAGE", value_name = "STORAGE", default_value = "local-lvm")]
    storage: StorageId,
    /// The Proxmox node: localhost, or root@HOST by ssh
    #[arg(long, env = "PROXMOX_HOST", value_name = "HOST", default_value = "localhost")]
    host: ProxmoxHost,
    /// Debian release
    #[arg(long, value_enum, default_value = "12")]
    debian: Release,
    /// Where to download the image from; SHA512SUMS must be in the same directory [default: the release's at cloud.debian.org]
    #[arg(long, env = "IMAGE_URL", value_name = "URL")]
    image_url: Option<WebAddress>,
    /// Bridge of its network card [default: proxmox_bridge of terraform.tfvars, bridge of db.yaml, vmbr0]
    #[arg(long)]
    bridge: Option<BridgeName>,
    /// Directory of the packages to install in it [default: template-packages in the state directory]
    #[arg(long, value_name = "DIR")]
    packages_dir: Option<PathBuf>,
    /// Apt repository of Node.js
    #[arg(long, value_name = "URL", default_value = "https://deb.nodesource.com/node_22.x")]
    nodejs_repository: AptRepository,
    /// Suite of the Node.js repository
    #[arg(long, value_name = "SUITE", default_value = "nodistro", value_parser = suite)]
    nodejs_suite: String,
    /// Signing key of the Node.js repository
    #[arg(
        long,
        value_name = "URL",
        default_value = "https://deb.nodesource.com/gpgkey/nodesource-repo.gpg.key"
    )]
    nodejs_key: WebAddress,
    /// Cache directory for downloads and work; must belong to root, mode 0700
    #[arg(
        long,
        env = "BLOCKHOST_CACHE_DIR",
        value_name = "DIR",
        default_value = "/var/cache/blockhost-provisioner"
    )]
    cache_dir: PathBuf,
    /// Flags of every command.
    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Release {
    #[value(name = "12")]
    Bookworm,
    #[value(name = "13")]
    Trixie,
}

/// Checks a suite, which must be a plain word of an apt source.
fn suite(text: &str) -> Result<String, String> {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/'));
    let plain = plain && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if plain { Ok(text.to_owned()) } else { Err("it must be a plain word, such as nodistro".into()) }
}

impl BuildTemplateCommand {
    /// Runs the command.
    pub fn run(self, host: &Host) -> anyhow::Result<()> {
        let release = match self.debian {
            Release::Bookworm => DebianRelease::Bookworm,
            Release::Trixie => DebianRelease::Trixie,
        };
        let image = match self.image_url {
            Some(address) => address,
            None => WebAddress::parse(&release.image_address())?,
        };
        let request = Request {
            release,
            image,
            host: self.host,
            vmid: self.template_vmid,
            storage: self.storage,
            bridge: self.bridge,
            packages: self.packages_dir,
            cache: self.cache_dir,
            node_repository: self.nodejs_repository,
            node_suite: self.nodejs_suite,
            node_key: self.nodejs_key,
        };
        let mut shown: Box<dyn Progress> = match (self.common.quiet, io::stderr().is_terminal()) {
            (true, _) => Box::new(provisioner::operation::build_template::progress::Silent),
            (false, true) => Box::new(Bar::default()),
            (false, false) => Box::new(Lines::default()),
        };
        let built = build_template(host, &request, shown.as_mut())?;
        crate::answer(&format!("template VM {} ({}) is ready\n", built.vmid, built.name))
    }
}

/// Progress bar on a terminal.
#[derive(Default)]
struct Bar(Option<ProgressBar>);

impl Progress for Bar {
    fn begin(&mut self, what: &str, total: Option<u64>, unit: Unit) {
        self.end();
        let bar = match total {
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::new_spinner(),
        };
        let form = match (unit, total) {
            (Unit::Bytes, Some(_)) => "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}",
            (Unit::Bytes, None) => "{msg} {spinner} {bytes} {bytes_per_sec}",
            (Unit::Percent, _) => "{msg} [{bar:30}] {percent} %",
        };
        // The template string is ours and valid; without it the bar would have its default look.
        if let Ok(style) = ProgressStyle::with_template(form) {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        self.0 = Some(bar);
    }

    fn reach(&mut self, done: u64) {
        if let Some(bar) = &self.0 {
            bar.set_position(done);
        }
    }

    fn end(&mut self) {
        if let Some(bar) = self.0.take() {
            bar.finish_and_clear();
        }
    }
}

/// Progress lines for logs: one at each tenth, and one after [`SILENCE`].
#[derive(Default)]
struct Lines(Option<Part>);

struct Part {
    what: String,
    total: Option<u64>,
    unit: Unit,
    tenths: u64,
    said: Instant,
}

/// Longest time without a progress line while work goes on.
const SILENCE: Duration = Duration::from_secs(20);

impl Progress for Lines {
    fn begin(&mut self, what: &str, total: Option<u64>, unit: Unit) {
        self.0 = Some(Part { what: what.to_owned(), total, unit, tenths: 0, said: Instant::now() });
        crate::say(what);
    }

    fn reach(&mut self, done: u64) {
        let Some(part) = &mut self.0 else { return };
        let tenths = part.total.filter(|total| *total > 0).map_or(0, |total| done.saturating_mul(10) / total);
        if tenths <= part.tenths && part.said.elapsed() < SILENCE {
            return;
        }
        part.tenths = tenths;
        part.said = Instant::now();
        crate::say(&part.line(done));
    }

    fn end(&mut self) {
        self.0 = None;
    }
}

impl Part {
    fn line(&self, done: u64) -> String {
        let mib = |bytes: u64| bytes >> 20;
        match (self.unit, self.total) {
            (Unit::Percent, _) => format!("{}: {done} %", self.what),
            (Unit::Bytes, Some(total)) => {
                let percent = done.saturating_mul(100) / total.max(1);
                format!("{}: {percent} % ({} of {} MiB)", self.what, mib(done), mib(total))
            }
            (Unit::Bytes, None) => format!("{}: {} MiB", self.what, mib(done)),
        }
    }
}

/// The command's entry point.
pub fn main() -> std::process::ExitCode {
    let command: BuildTemplateCommand = crate::parse();
    crate::run_as_root(&command.common.clone(), |host| command.run(host))
}
