//! A web server on loopback with the manners of bad ones.

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// How one request is answered.
#[derive(Debug, Clone)]
pub enum Manner {
    /// So many bytes, then the connection is cut.
    Cut(usize),
    /// So many bytes, then nothing more.
    Silent(usize),
    /// The whole file, whatever range was asked for.
    Whole,
    /// Another address.
    Redirect(String),
    /// A status and nothing else.
    Status(u16),
}

#[derive(Default)]
struct Shelf {
    files: HashMap<String, Arc<Vec<u8>>>,
    manners: HashMap<String, VecDeque<Manner>>,
    asked: Vec<String>,
}

/// A running server; it ends with the test's process.
#[derive(Clone)]
pub struct Web {
    shelf: Arc<Mutex<Shelf>>,
    pub origin: String,
}

impl Web {
    pub fn start() -> Web {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let web = Web { shelf: Arc::default(), origin };
        let own = web.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let web = own.clone();
                // A client that goes away is part of the tests.
                std::thread::spawn(move || web.serve(&stream).ok());
            }
        });
        web
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Puts a file there.
    pub fn put(&self, path: &str, bytes: impl Into<Vec<u8>>) {
        self.shelf().files.insert(path.into(), Arc::new(bytes.into()));
    }

    /// How the next requests for a file are answered, one after the other; then as they should be.
    pub fn manners(&self, path: &str, manners: impl IntoIterator<Item = Manner>) {
        self.shelf().manners.entry(path.into()).or_default().extend(manners);
    }

    /// What was asked for since the last time: `/path` or `/path from 100`.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.shelf().asked)
    }

    fn serve(&self, mut stream: &TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream).lines();
        let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
        let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut from = 0;
        for line in lines {
            let line = line?.to_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(range) = line.strip_prefix("range: bytes=") {
                from = range.trim_end_matches('-').parse().unwrap();
            }
        }
        let (file, manner) = {
            let mut shelf = self.shelf();
            let asked = if from > 0 { format!("{path} from {from}") } else { path.clone() };
            shelf.asked.push(asked);
            (shelf.files.get(&path).cloned(), shelf.manners.get_mut(&path).and_then(VecDeque::pop_front))
        };
        match &manner {
            Some(Manner::Redirect(to)) => {
                return write!(stream, "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
            }
            Some(Manner::Status(status)) => {
                return write!(stream, "HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n");
            }
            Some(Manner::Whole) => from = 0,
            _ => {}
        }
        let Some(file) = file else {
            return write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
        };
        if from > 0 && from >= file.len() {
            return write!(stream, "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\n\r\n");
        }
        let (total, rest) = (file.len(), &file[from..]);
        let length = rest.len();
        if from > 0 {
            let last = total - 1;
            write!(stream, "HTTP/1.1 206 Partial\r\nContent-Range: bytes {from}-{last}/{total}\r\n")?;
        } else {
            write!(stream, "HTTP/1.1 200 OK\r\n")?;
        }
        write!(stream, "Content-Length: {length}\r\nConnection: close\r\n\r\n")?;
        match manner {
            Some(Manner::Cut(bytes)) => stream.write_all(&rest[..bytes.min(length)]),
            Some(Manner::Silent(bytes)) => {
                stream.write_all(&rest[..bytes.min(length)])?;
                std::thread::sleep(Duration::from_secs(30));
                Ok(())
            }
            _ => stream.write_all(rest),
        }
    }
}
