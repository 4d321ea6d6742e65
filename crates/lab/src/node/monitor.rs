//! QEMU's monitor of a running guest: `/run/qemu-server/<vmid>.qmp`, one client at a time, as QEMU's is. It answers
//! what the root agent's plugin asks (greeting, `qmp_capabilities`, `query-status`) and refuses the rest.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::net::{Shutdown, shutdown};

/// The listening end; dropping it ends the thread behind it.
#[derive(Debug)]
pub(super) struct Monitor {
    listener: Arc<UnixListener>,
    paused: Arc<AtomicBool>,
}

impl Monitor {
    /// Opens the socket. A lab whose folder's name is too long for one has no monitor: nobody is told then, as on a
    /// node whose QEMU does not answer.
    pub fn open(path: &Path) -> Option<Self> {
        // Left by the guest's last run.
        let _ = std::fs::remove_file(path);
        let listener = Arc::new(UnixListener::bind(path).ok()?);
        let paused = Arc::new(AtomicBool::new(false));
        let (ours, flag) = (listener.clone(), paused.clone());
        std::thread::spawn(move || {
            while let Ok((client, _)) = ours.accept() {
                // A client that goes away in between has its answer.
                let _ = serve(&client, &flag);
            }
        });
        Some(Self { listener, paused })
    }

    pub fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // Wakes `accept`, which then fails; where it does not, the thread ends with the process.
        let _ = shutdown(&*self.listener, Shutdown::Both);
    }
}

fn serve(mut client: &UnixStream, paused: &AtomicBool) -> std::io::Result<()> {
    client.set_read_timeout(Some(Duration::from_secs(5)))?;
    client.write_all(b"{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 0, \"minor\": 0, \"major\": 10}}, \"capabilities\": []}}\r\n")?;
    for line in BufReader::new(client).lines() {
        let line = line?;
        let request: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        let answer = match request["execute"].as_str() {
            Some("qmp_capabilities") => serde_json::json!({"return": {}}),
            Some("query-status") => {
                let stands = paused.load(Ordering::Relaxed);
                serde_json::json!({"return": {"running": !stands, "status": if stands { "paused" } else { "running" }}})
            }
            _ => {
                serde_json::json!({"error": {"class": "CommandNotFound", "desc": "the lab knows no such command"}})
            }
        };
        client.write_all(format!("{answer}\r\n").as_bytes())?;
    }
    Ok(())
}
