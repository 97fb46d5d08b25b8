//! Carries a connection whose heads are rewritten.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use underpass_endpoint::splice::{SpliceReport, end_by_reset, end_in_order};
use underpass_endpoint::{Channel, ChannelError, ChannelReader, ChannelWriter};
use underpass_proto::Code;

use super::Garbled;
use super::rewrite::Rewriter;

/// The server is read in pieces of up to this many bytes.
const PIECE: usize = 64 * 1024;

/// Why a connection came to no orderly end.
#[derive(Debug, Error)]
enum Broken {
    #[error(transparent)]
    Tcp(#[from] io::Error),
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("the client: {0}")]
    Client(Garbled),
    #[error("the server: {0}")]
    Server(Garbled),
    /// The service leads elsewhere by now, or the peer may not use it any more.
    #[error("it was cut on the host side")]
    Cut,
}

impl Broken {
    fn code(&self) -> Code {
        match self {
            Self::Tcp(_) | Self::Cut => Code::Aborted,
            Self::Channel(error) => error.code(),
            Self::Client(_) | Self::Server(_) => Code::OtherProtocol,
        }
    }
}

/// Carries one client's connection to the server at `HOST:PORT` until both sides have ended it, or it is `cut`.
pub(crate) async fn carry(
    channel: Channel,
    mut tcp: TcpStream,
    at: &str,
    cut: impl Future<Output = ()>,
) -> SpliceReport {
    let mut report = SpliceReport::default();
    let (mut reader, mut writer) = channel.into_split();
    end_by_reset(&tcp);
    let rewriter = Mutex::new(Rewriter::new(at));
    let carried = {
        let (mut from, mut to) = tcp.split();
        let up = upward(&rewriter, &mut reader, &mut to, &mut report.received);
        let down = downward(&rewriter, &mut from, &mut writer, &mut report.sent);
        tokio::select! {
            // The first failure ends both directions.
            carried = async { tokio::try_join!(up, down) } => carried.map(|_| ()),
            () = cut => Err(Broken::Cut),
        }
    };
    let Err(broken) = carried else {
        end_in_order(&tcp);
        return report;
    };
    let code = broken.code();
    if matches!(broken, Broken::Client(_)) && of(&rewriter).is_idle() {
        // It is no answer to anything else, so a client that speaks HTTP can read it.
        let text = format!("{}: {broken}\n", code.up());
        let answer = format!(
            "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
            text.len()
        );
        let told = writer.write_chunk(answer.into()).await;
        if told.is_ok() && writer.finish().await.is_ok() {
            reader.stop(Code::NoError);
            report.error = Some(broken.to_string());
            return report;
        }
    }
    writer.reset(code);
    reader.stop(code);
    report.error = Some(format!("{broken} [{}]", code.up()));
    report
}

fn of(rewriter: &Mutex<Rewriter>) -> MutexGuard<'_, Rewriter> {
    rewriter.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn upward(
    rewriter: &Mutex<Rewriter>,
    reader: &mut ChannelReader,
    to: &mut WriteHalf<'_>,
    count: &mut u64,
) -> Result<(), Broken> {
    let mut out = Vec::new();
    while let Some(bytes) = reader.read_chunk().await? {
        *count += bytes.len() as u64;
        let rewritten = of(rewriter).client_says(&bytes, &mut out);
        // What came before the fault is the server's to answer.
        to.write_all(&out).await?;
        rewritten.map_err(Broken::Client)?;
        out.clear();
    }
    Ok(to.shutdown().await?)
}

async fn downward(
    rewriter: &Mutex<Rewriter>,
    from: &mut ReadHalf<'_>,
    writer: &mut ChannelWriter,
    count: &mut u64,
) -> Result<(), Broken> {
    let mut buffer = vec![0; PIECE];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(writer.finish().await?);
        }
        *count += read as u64;
        let mut out = Vec::with_capacity(read);
        let rewritten = of(rewriter).server_says(&buffer[..read], &mut out);
        writer.write_chunk(out.into()).await?;
        rewritten.map_err(Broken::Server)?;
    }
}
