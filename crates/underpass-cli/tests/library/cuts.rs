//! A path that can be cut.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Passes connections on to a relay until it is told to break them all.
pub(crate) struct Path {
    address: SocketAddr,
    cuts: watch::Sender<u64>,
    living: Arc<()>,
}

impl Path {
    pub(crate) async fn to(relay: &str) -> Self {
        let target: SocketAddr = relay.trim_start_matches("http://").parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cuts = watch::Sender::new(0);
        let (seen, living) = (cuts.subscribe(), Arc::new(()));
        let counted = living.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (mut seen, living) = (seen.clone(), counted.clone());
                seen.mark_unchanged();
                tokio::spawn(async move {
                    let _living = living;
                    tokio::select! {
                        () = pass(near, target) => {}
                        // Both sockets are dropped with what they hold; or the test is over.
                        _ = seen.changed() => {}
                    }
                });
            }
        });
        Self {
            address,
            cuts,
            living,
        }
    }

    /// The address by which the relay is reached through here.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Breaks all connections, of which there must be some.
    pub(crate) fn cut(&self) {
        assert!(self.living() > 0, "there is nothing to cut");
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Connections that pass here.
    pub(crate) fn living(&self) -> usize {
        // This one, and that of whoever takes connections.
        Arc::strong_count(&self.living) - 2
    }
}

async fn pass(mut near: TcpStream, target: SocketAddr) {
    if let Ok(mut far) = TcpStream::connect(target).await {
        // What breaks is made anew by those at the ends.
        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    }
}
