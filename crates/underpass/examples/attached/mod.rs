//! What all examples begin with.

use underpass::{Client, MachineKey, Result};

/// Attaches with the key in a file, which is made where there is none, and enrols by the code in the variable
/// `UNDERPASS_INVITATION` where the relay does not know the machine yet.
pub(crate) async fn attach(relay: &str, key_file: &str) -> Result<Client> {
    let client = Client::builder()
        .relay(relay)
        .key(MachineKey::load_or_create(key_file)?)
        .attach()
        .await?;
    if client.identity().await?.is_none()
        && let Ok(code) = std::env::var("UNDERPASS_INVITATION")
    {
        client.enrol(code.trim()).await?;
    }
    Ok(client)
}

/// Says what went wrong, if anything did, and how the program ends.
pub(crate) fn end(outcome: Result<(), Box<dyn std::error::Error>>) -> std::process::ExitCode {
    match outcome {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            std::process::ExitCode::FAILURE
        }
    }
}
