//! Datagrams that come back.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;

use crate::host::Host;

/// How often it is looked whether it is to end.
const LOOK: Duration = Duration::from_millis(100);

/// Sends every datagram back, on the loopback address of a host, until dropped.
pub struct DatagramEcho {
    address: SocketAddr,
    ends: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl DatagramEcho {
    /// Starts one on `host`.
    ///
    /// # Errors
    /// There is no port left.
    pub fn start(host: &Host) -> Result<Self> {
        let socket = host.inside(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)))??;
        socket.set_read_timeout(Some(LOOK))?;
        let address = socket.local_addr()?;
        let ends = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&ends);
        let thread = std::thread::spawn(move || {
            let mut room = vec![0; 65_536];
            while !asked.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut room) {
                    // What is lost here is lost as on any network.
                    let _ = socket.send_to(&room[..length], from);
                }
            }
        });
        Ok(Self {
            address,
            ends,
            thread: Some(thread),
        })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for DatagramEcho {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
