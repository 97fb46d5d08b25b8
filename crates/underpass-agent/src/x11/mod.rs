//! X11: displays that programs elsewhere draw on.
//!
//! The publisher's machine has the display and the cookie that lets programs in (MIT-MAGIC-COOKIE-1). A client's machine gets a
//! display number of its own with a cookie of its own. Each agent exchanges the cookie in the first packet of a connection:
//! the client's looks whether it is its own and takes it out, the publisher's puts the display's in. So neither cookie leaves
//! its machine. What follows is carried as it is.
//!
//! `setup` (the first packet), `xauthority` (the file of cookies) and `display` (names of displays) are pure.

mod display;
mod far;
mod near;
mod setup;
mod xauthority;

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};

pub(crate) use display::{Display, FIRST_PORT};
pub(crate) use far::{carry, reach};
pub(crate) use near::Door;
use setup::{Header, NotX11};

/// A program says its first packet as soon as it is connected.
const SETUP_LIMIT: Duration = Duration::from_secs(10);

/// Length of a cookie, in bytes.
const COOKIE: usize = 16;
/// What MIT-MAGIC-COOKIE-1 compares.
type Cookie = [u8; COOKIE];

/// A connection, of whatever kind.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Why a first packet is not there.
#[derive(Debug, thiserror::Error)]
enum SetupError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    NotX11(#[from] NotX11),
    #[error("nothing was said within {} s", SETUP_LIMIT.as_secs())]
    Late,
}

/// Reads the first packet of a connection, and no byte after it: its header, and what the header tells the length of.
async fn read_setup(from: &mut (impl AsyncRead + Unpin)) -> Result<(Header, Vec<u8>), SetupError> {
    let reading = async {
        let mut bytes = [0; setup::HEADER];
        from.read_exact(&mut bytes).await?;
        let header = Header::read(&bytes)?;
        let mut rest = vec![0; header.rest()];
        from.read_exact(&mut rest).await?;
        Ok((header, rest))
    };
    let read = tokio::time::timeout(SETUP_LIMIT, reading).await;
    read.unwrap_or(Err(SetupError::Late))
}
