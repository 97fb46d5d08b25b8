//! Copies a file to another user, by messages: its name, its pieces, and the receiver's word that it has it all.
//!
//! ```text
//! file_copy RELAY KEYFILE receive APPLICATION USER FOLDER   (USER may send)
//! file_copy RELAY KEYFILE send PEER APPLICATION FILE
//! ```

mod attached;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use bytes::BytesMut;
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use underpass::{Client, ConnectOptions, Messages, Priority};

/// Bytes of the file in one message.
const PIECE: usize = 256 * 1024;
/// Who sends nothing for so long is given up.
const PATIENCE: Duration = Duration::from_secs(600);

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[tokio::main]
async fn main() -> ExitCode {
    attached::end(
        run()
            .await
            .map_err(|error| error as Box<dyn std::error::Error>),
    )
}

async fn run() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [relay, key, "receive", application, user, folder] => {
            receive(&attached::attach(relay, key).await?, application, user, folder).await
        }
        [relay, key, "send", peer, application, file] => {
            send(&attached::attach(relay, key).await?, peer, application, file).await
        }
        _ => Err("usage: file_copy RELAY KEYFILE receive APPLICATION USER FOLDER | send PEER APPLICATION FILE".into()),
    }
}

async fn receive(client: &Client, application: &str, user: &str, folder: &str) -> Outcome {
    let mut listener = client.listen(application).await?;
    client.allow(user, application).await?;
    println!("{} takes files", listener.full_name());
    while let Some((channel, peer)) = listener.accept().await {
        let folder = PathBuf::from(folder);
        tokio::spawn(async move {
            match take(&channel.into_messages(), &folder).await {
                Ok(what) => println!("{}: {what}", peer.user),
                Err(error) => eprintln!("{}: {error}", peer.user),
            }
        });
    }
    Ok(())
}

/// Takes one file, which must be new in the folder.
async fn take(messages: &Messages, folder: &Path) -> Outcome<String> {
    let name = messages.get_data(PATIENCE).await?.ok_or("no name came")?;
    let name = String::from_utf8(name.to_vec())?;
    // No way out of the folder.
    if Path::new(&name).file_name() != Some(name.as_ref()) {
        return Err(format!("{name:?} is not the name of a file").into());
    }
    let path = folder.join(&name);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .await?;
    let mut length = 0;
    while let Some(piece) = messages.get_data(PATIENCE).await? {
        file.write_all(&piece).await?;
        length += piece.len();
    }
    file.sync_all().await?;
    messages.send_data(length.to_string()).await?;
    messages.finish().await?;
    Ok(format!("{name}, {length} bytes"))
}

async fn send(client: &Client, peer: &str, application: &str, path: &str) -> Outcome {
    let name = Path::new(path).file_name().and_then(|name| name.to_str());
    let name = name
        .ok_or("the file has no name that can be sent")?
        .to_owned();
    let mut file = File::open(path).await?;
    let options = ConnectOptions::new()
        .priority(Priority::Bulk)
        .wait(Duration::from_secs(30));
    let channel = client.connect_with(peer, application, &options).await?;
    let messages = channel.into_messages();
    messages.send_data(name).await?;
    let mut length = 0;
    loop {
        let mut piece = BytesMut::with_capacity(PIECE);
        if file.read_buf(&mut piece).await? == 0 {
            break;
        }
        length += piece.len();
        messages.send_data(piece).await?;
    }
    messages.finish().await?;
    let answer = messages
        .get_data(PATIENCE)
        .await?
        .ok_or("the receiver did not answer")?;
    if answer != length.to_string() {
        return Err("the receiver has another length".into());
    }
    println!("{length} bytes were received");
    client.disconnect().await;
    Ok(())
}
