//! Which network this machine is on, and what is remembered of it.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

use underpass_carrier::RelayUrl;
use underpass_carrier::ladder::{Memory, Network, Remembered};

/// More than this of a file is not read, in bytes.
const MOST: u64 = 256 * 1024;

/// The network that leads to the relay, as a key. `peer` is the relay's address, or a box's, as far
/// as it is known; without it the system's default way counts. `proxy` is what decides about the way.
pub(crate) fn key(relay: &RelayUrl, peer: Option<SocketAddr>, proxy: Option<&str>) -> String {
    let table = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let towards = peer.map(|peer| peer.ip());
    let way = way_to(&table, towards);
    let network = Network {
        local: local_address(peer),
        gateway: way.as_ref().and_then(|(gateway, _)| *gateway),
        interface: way.as_ref().map(|(_, interface)| interface.as_str()),
        proxy,
        relay: &relay.to_string(),
    };
    network.key()
}

/// Our address towards `peer`. Connecting a UDP socket sends nothing: it only asks the routing table.
fn local_address(peer: Option<SocketAddr>) -> Option<IpAddr> {
    let peer = peer.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 9)));
    let any: SocketAddr = match peer {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(peer).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Router and interface on the way to an IPv4 address (none: to anywhere), from the kernel's table:
/// lines of interface, destination, gateway, flags, three counters and mask, the numbers in
/// hexadecimal in the order of the machine's memory.
fn way_to(table: &str, towards: Option<IpAddr>) -> Option<(Option<IpAddr>, String)> {
    let towards = match towards.map(|it| it.to_canonical()) {
        Some(IpAddr::V4(v4)) => u32::from(v4),
        Some(IpAddr::V6(_)) => return None,
        None => 0,
    };
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number = |index: usize| u32::from_str_radix(fields.get(index)?, 16).ok();
        let address = |index: usize| Some(u32::from_be_bytes(number(index)?.to_ne_bytes()));
        let (destination, gateway, mask) = (address(1)?, address(2)?, address(7)?);
        let metric = fields.get(6)?.parse::<u32>().ok()?;
        (towards & mask == destination).then(|| {
            let gateway = (gateway != 0).then(|| IpAddr::from(Ipv4Addr::from(gateway)));
            ((mask, u32::MAX - metric), (gateway, fields[0].to_owned()))
        })
    };
    let ways = table.lines().skip(1).filter_map(line);
    Some(ways.max_by_key(|(rank, _)| *rank)?.1)
}

/// The file in which networks are remembered. Without a path nothing is.
#[derive(Clone, Debug)]
pub(crate) struct Notebook {
    path: Option<PathBuf>,
}

impl Notebook {
    pub(crate) fn new(path: Option<PathBuf>) -> Self {
        Notebook { path }
    }

    fn read(&self) -> Memory {
        let text = self.path.as_deref().map(read_bounded);
        match text {
            Some(Ok(text)) => Memory::from_text(&text),
            Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => {
                tracing::debug!("what is remembered of networks cannot be read: {error}");
                Memory::default()
            }
            _ => Memory::default(),
        }
    }

    /// What is remembered of a network.
    pub(crate) fn recall(&self, key: &str) -> Option<Remembered> {
        self.read().of(key).cloned()
    }

    /// Remembers `ours`, where `before` was written or read last; what another program has written
    /// meanwhile is kept beside it. False where another program is about to write: to be tried again.
    /// That it cannot be written down for another reason costs a slower start, no more.
    pub(crate) fn note(&self, key: &str, before: &Remembered, ours: &Remembered) -> bool {
        let Some(path) = &self.path else {
            return true;
        };
        let written = match locked(path) {
            // Other programs of this user keep the same file.
            Ok(Some(_lock)) => {
                let mut memory = self.read();
                let merged = match memory.of(key) {
                    Some(theirs) => ours.merged(before, theirs),
                    None => ours.clone(),
                };
                if memory.of(key) == Some(&merged) {
                    return true;
                }
                memory.learn(key, merged);
                write_whole(path, &memory.to_text())
            }
            Ok(None) => return false,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            tracing::debug!("what was seen of this network cannot be written down: {error}");
        }
        true
    }
}

/// The lock of whoever changes the file, until it is dropped. It is on a file beside, because the file
/// itself is replaced. None while another program has it.
fn locked(path: &Path) -> io::Result<Option<fs::File>> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".lock");
    let file = fs::File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(beside)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MOST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The old file or the new one is there at any time, never half of one.
fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let name = format!(
        ".networks-{}-{:x}",
        std::process::id(),
        rand::random::<u64>()
    );
    let temporary = folder.join(name);
    let written = fs::File::create_new(&temporary).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        fs::rename(&temporary, path)
    });
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
wlan0\t00000000\t0107A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0
eth0\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0
wlan0\t0007A8C0\t00000000\t0001\t0\t0\t600\t00FFFFFF\t0\t0\t0
broken line
";

    #[test]
    #[cfg(target_endian = "little")]
    fn the_longest_prefix_and_then_the_least_metric_decide() {
        let way = |to: Option<&str>| way_to(TABLE, to.map(|to| to.parse().unwrap()));
        let default = Some((Some("10.0.0.1".parse().unwrap()), "eth0".to_owned()));
        assert_eq!(way(None), default);
        assert_eq!(way(Some("9.9.9.9")), default);
        assert_eq!(way(Some("192.168.7.9")), Some((None, "wlan0".to_owned())));
        assert_eq!(way(Some("2001:db8::1")), None);
        assert_eq!(way_to("", None), None);
    }

    #[test]
    fn a_notebook_survives_what_happens_to_files() {
        let folder = std::env::temp_dir().join(format!("underpass-{:x}", rand::random::<u64>()));
        fs::create_dir(&folder).unwrap();
        let path = folder.join("networks");
        let notebook = Notebook::new(Some(path.clone()));
        assert_eq!(notebook.recall("a"), None);
        let remembered = Remembered {
            best: "poll".into(),
            ..Remembered::default()
        };
        let nothing = Remembered::default();
        assert!(notebook.note("a", &nothing, &remembered));
        assert_eq!(notebook.recall("a"), Some(remembered.clone()));
        fs::write(&path, [0xff; 1000]).unwrap();
        assert_eq!(notebook.recall("a"), None);
        assert!(notebook.note("a", &nothing, &remembered));
        assert_eq!(notebook.recall("a"), Some(remembered.clone()));
        let files = fs::read_dir(&folder).unwrap().count();
        assert_eq!(files, 2, "it and its lock: nothing is left behind");
        fs::remove_dir_all(&folder).unwrap();
        assert!(notebook.note("a", &nothing, &remembered));
        assert_eq!(notebook.recall("a"), None);
    }

    #[test]
    fn what_several_programs_write_at_once_is_all_there() {
        let folder = std::env::temp_dir().join(format!("underpass-{:x}", rand::random::<u64>()));
        fs::create_dir(&folder).unwrap();
        let path = folder.join("networks");
        let write = |program: usize| {
            let notebook = Notebook::new(Some(path.clone()));
            for network in 0..10 {
                let remembered = Remembered {
                    best: "poll".into(),
                    ..Remembered::default()
                };
                let key = format!("{program}-{network}");
                while !notebook.note(&key, &Remembered::default(), &remembered) {
                    std::thread::yield_now();
                }
            }
        };
        std::thread::scope(|scope| {
            for program in 0..4 {
                let write = &write;
                scope.spawn(move || write(program));
            }
        });
        let notebook = Notebook::new(Some(path.clone()));
        let all =
            (0..4).flat_map(|program| (0..10).map(move |network| format!("{program}-{network}")));
        let missing: Vec<String> = all.filter(|key| notebook.recall(key).is_none()).collect();
        assert!(missing.is_empty(), "{missing:?}");
        fs::remove_dir_all(&folder).unwrap();
    }
}
