//! Taking the wishes of other machines to lead a service elsewhere.
//!
//! They come in sessions from end to end, whose handshake proves the key of the machine. That key alone
//! decides: the relay's word on whose machine it is would let the relay lead services elsewhere.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncReadExt as _;
use underpass_endpoint::{Channel, ChannelError, Incoming, PeerInfo};
use underpass_proto::steer::{Lead, Led, MAX_STEER, NotLed, Steer};
use underpass_proto::{Code, Role};
use underpass_seal::Fingerprint;

use super::serve::Catalogue;
use super::{RetargetError, Retargeted};

/// A wish must be there within this. It is not written before the channel is accepted, so a relay cannot
/// hold one back for longer and let it through when nobody wants it any more.
const WISH_LIMIT: Duration = Duration::from_secs(10);

/// Takes one wish, and answers it.
pub(super) async fn take(catalogue: &Catalogue, incoming: Incoming, peer: &PeerInfo) {
    let machine = peer.machine.fingerprint();
    if !catalogue.names(&machine) {
        tracing::warn!(
            user = peer.user,
            "the machine {machine} wants to lead a service elsewhere and is not one that may"
        );
        return incoming.refuse(Code::MayNotRetarget);
    }
    let mut channel = incoming.accept();
    let read = tokio::time::timeout(WISH_LIMIT, read(&mut channel)).await;
    let answer = match read {
        Ok(Some(lead)) => {
            let outcome = carry_out(catalogue, &lead, &machine).await;
            tell(&lead, &machine, &outcome);
            answer(outcome)
        }
        Ok(None) => not_led(Code::ProtocolViolation, ""),
        Err(_) => not_led(Code::TimedOut, "the wish did not arrive in time"),
    };
    if let Err(error) = send(channel, &answer).await {
        tracing::info!("the machine {machine} was gone before it was answered: {error}");
    }
}

async fn read(channel: &mut Channel) -> Option<Lead> {
    let mut bytes = Vec::new();
    // One more than may be there, so that what is too long is seen.
    let limit = MAX_STEER as u64 + 1;
    channel.take(limit).read_to_end(&mut bytes).await.ok()?;
    match Steer::decode_whole(Role::Initiator, Bytes::from(bytes)) {
        Ok(Steer::Lead(lead)) => Some(lead),
        Ok(_) => None,
        Err(error) => {
            tracing::warn!("a wish to lead a service elsewhere cannot be read: {error}");
            None
        }
    }
}

async fn carry_out(
    catalogue: &Catalogue,
    lead: &Lead,
    machine: &Fingerprint,
) -> Result<Retargeted, RetargetError> {
    let Lead {
        service,
        target,
        now,
    } = lead;
    // A service that is not here and one that this machine may not touch look the same to it.
    if !catalogue.may_retarget(service, machine) {
        return Err(RetargetError::NotNamed {
            service: service.clone(),
            machine: machine.to_string(),
        });
    }
    catalogue.retarget(service, target, *now).await
}

fn tell(lead: &Lead, machine: &Fingerprint, outcome: &Result<Retargeted, RetargetError>) {
    let Lead {
        service, target, ..
    } = lead;
    match outcome {
        Ok(done) => tracing::info!("the machine {machine} has led {} to {target}", done.name),
        Err(error) => {
            tracing::warn!("the machine {machine} wants {service} to lead to {target}: {error}")
        }
    }
}

fn answer(outcome: Result<Retargeted, RetargetError>) -> Steer {
    match outcome {
        Ok(Retargeted {
            name,
            before,
            living,
            moved,
        }) => Led {
            name,
            before,
            living: living as u64,
            moved,
        }
        .into(),
        Err(error) => not_led(error.code(), &error.to_string()),
    }
}

fn not_led(code: Code, text: &str) -> Steer {
    NotLed {
        code: code.number(),
        text: text.to_owned(),
    }
    .into()
}

async fn send(channel: Channel, answer: &Steer) -> Result<(), ChannelError> {
    let mut bytes = Vec::new();
    answer.encode(&mut bytes);
    let (_reader, mut writer) = channel.into_split();
    writer.write_chunk(bytes.into()).await?;
    writer.finish().await
}
