//! A service that sends back what it gets, and its client.
//!
//! ```text
//! echo RELAY KEYFILE serve APPLICATION USER   (USER may use it)
//! echo RELAY KEYFILE ask PEER APPLICATION TEXT
//! ```

mod attached;

use std::process::ExitCode;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use underpass::{Channel, Client, ConnectOptions};

#[tokio::main]
async fn main() -> ExitCode {
    attached::end(run().await)
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [relay, key, "serve", application, user] => {
            serve(&attached::attach(relay, key).await?, application, user).await
        }
        [relay, key, "ask", peer, application, text] => {
            ask(
                &attached::attach(relay, key).await?,
                peer,
                application,
                text,
            )
            .await
        }
        _ => Err(
            "usage: echo RELAY KEYFILE serve APPLICATION USER | ask PEER APPLICATION TEXT".into(),
        ),
    }
}

async fn serve(
    client: &Client,
    application: &str,
    user: &str,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut listener = client.listen(application).await?;
    client.allow(user, application).await?;
    println!("{} is served", listener.full_name());
    while let Some((channel, peer)) = listener.accept().await {
        tokio::spawn(async move {
            match echo(channel).await {
                Ok(bytes) => println!("{}: {bytes} bytes", peer.user),
                Err(error) => eprintln!("{}: {error}", peer.user),
            }
        });
    }
    Ok(())
}

async fn echo(channel: Channel) -> std::io::Result<u64> {
    let (mut reader, mut writer) = channel.into_split();
    let bytes = tokio::io::copy(&mut reader, &mut writer).await?;
    writer.shutdown().await?;
    Ok(bytes)
}

async fn ask(
    client: &Client,
    peer: &str,
    application: &str,
    text: &str,
) -> Result<(), Box<dyn std::error::Error>> {
    let options = ConnectOptions::new().wait(Duration::from_secs(30));
    let mut channel = client.connect_with(peer, application, &options).await?;
    channel.write_all(text.as_bytes()).await?;
    channel.shutdown().await?;
    let mut answer = String::new();
    channel.read_to_string(&mut answer).await?;
    println!("{answer}");
    client.disconnect().await;
    Ok(())
}
