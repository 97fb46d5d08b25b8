//! The proxy for SOCKS.
//!
//! | file | subject |
//! |---|---|
//! | `wire.rs` | what clients say and are answered (pure) |
//! | `associate.rs` | their datagrams |

mod associate;
mod wire;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use underpass_endpoint::splice::{end_by_reset, end_in_order};

use super::Shared;
use super::target::Asked;
use wire::{Broken, Hello, MAX_REQUEST, Read, Request};

/// A program says what it wants as soon as it is connected.
const ASK_LIMIT: Duration = Duration::from_secs(30);

/// Why a client got nothing.
enum Left {
    /// It was not understood.
    Broken(Broken, /* of version 5 */ bool),
    /// It went away, or said nothing.
    Io(io::Error),
}

impl From<io::Error> for Left {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A client, and what it has said that was not understood yet.
struct Client {
    tcp: TcpStream,
    said: BytesMut,
}

impl Client {
    /// What it says next, by `read`.
    async fn hear<T>(&mut self, five: bool, read: fn(&[u8]) -> Read<T>) -> Result<T, Left> {
        loop {
            let found = read(&self.said).map_err(|broken| Left::Broken(broken, five))?;
            if let Some((found, length)) = found {
                self.said.advance(length);
                return Ok(found);
            }
            if self.said.len() > MAX_REQUEST {
                return Err(Left::Broken(Broken::TooLong, five));
            }
            let mut room = [0; MAX_REQUEST];
            match self.tcp.read(&mut room).await? {
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                length => self.said.extend_from_slice(&room[..length]),
            }
        }
    }

    async fn tell(&mut self, answer: &[u8]) -> io::Result<()> {
        self.tcp.write_all(answer).await
    }
}

/// What a client wants, of either version.
enum Wish {
    Four(Asked),
    Five(Request),
}

/// Serves one client.
pub(super) async fn serve(shared: Arc<Shared>, tcp: TcpStream) {
    end_by_reset(&tcp);
    let mut client = Client {
        tcp,
        said: BytesMut::new(),
    };
    let wish = tokio::time::timeout(ASK_LIMIT, listen(&mut client)).await;
    let left = match wish {
        Ok(Ok(wish)) => match grant(&shared, client, wish).await {
            Ok(()) => return,
            Err(error) => error,
        },
        Ok(Err(Left::Broken(broken, five))) => {
            tracing::info!("a client of the SOCKS proxy: {broken}");
            let told = client.tell(&wire::refusal(broken, five)).await;
            // It is to read the answer before the end.
            end_in_order(&client.tcp);
            match told {
                Ok(()) => return,
                Err(error) => error,
            }
        }
        Ok(Err(Left::Io(error))) => error,
        Err(_) => io::ErrorKind::TimedOut.into(),
    };
    tracing::debug!("a client of the SOCKS proxy went away: {left}");
}

async fn listen(client: &mut Client) -> Result<Wish, Left> {
    match client.hear(false, wire::hello).await? {
        Hello::Four(asked) => Ok(Wish::Four(asked)),
        Hello::Five => {
            client.tell(&wire::WELCOME).await?;
            let request = client.hear(true, wire::request).await?;
            Ok(Wish::Five(request))
        }
    }
}

async fn grant(shared: &Arc<Shared>, mut client: Client, wish: Wish) -> io::Result<()> {
    let (asked, five) = match wish {
        Wish::Four(asked) => (asked, false),
        Wish::Five(Request::Connect(asked)) => (asked, true),
        Wish::Five(Request::Associate(port)) => {
            return associate::serve(shared, client.tcp, port).await;
        }
    };
    let reached = shared.reach(&asked).await;
    let answer = match (&reached, five) {
        (Ok(_), true) => wire::answer(Ok(None)),
        (Err(refused), true) => wire::answer(Err(refused.code)),
        (reached, false) => wire::answer_four(reached.is_ok()),
    };
    client.tell(&answer).await?;
    match reached {
        Ok(reached) => {
            reached.join(client.tcp, client.said.freeze(), &asked).await;
            Ok(())
        }
        Err(_) => {
            end_in_order(&client.tcp);
            Ok(())
        }
    }
}
