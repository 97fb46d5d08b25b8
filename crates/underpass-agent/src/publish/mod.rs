//! Publishing services: registered with the relay, served to whoever it lets through.

mod access;
mod approval;
mod flows;
mod ftp;
mod inside;
mod known;
mod network;
mod serve;
mod steered;
mod target;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use underpass_endpoint::{AttachError, Session};
use underpass_proto::{Code, Grade};
use underpass_seal::Fingerprint;

use crate::connect::FlowLimits;
use crate::standing::{RequestError, Standing};
use crate::standings::{Seen, Standings};
use crate::status::Board;
use approval::Approval;
pub use inside::{Guest, Inside};
pub use network::{Network, NetworkError};
use serve::Catalogue;

pub use known::KnownUsers;
pub use target::{Speech, Target};

/// Between attempts to register again, while the relay is there and does not answer as wished.
const RETRY: Duration = Duration::from_secs(5);

/// What serving others may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long to try to connect to a host.
    pub dial: Duration,
    /// Flows of datagrams, of all services together.
    pub flows: FlowLimits,
}

/// A service to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Its name.
    pub name: String,
    /// `HOST:PORT` as reached from here, with what [`Target::read`] knows before it. Of a network, what it is shown as.
    pub target: String,
    /// What may be reached of it, where it is a whole network, and its clients say which host and port they mean.
    pub network: Option<Network>,
    /// What it is, for people.
    pub description: String,
    /// Whether channels to it may be compressed.
    pub compression: bool,
    /// Whether bare HTTP clients may use it, for whom the relay is the endpoint and reads what passes.
    pub plain_http: bool,
    /// Whether connections to it may be dialled anew, at another host, while they last.
    pub redial: bool,
    /// Machines that may lead it elsewhere from wherever they are, by the fingerprints of their keys.
    pub retarget_by: Vec<Fingerprint>,
    /// The only machines that may use it, by the fingerprints of their keys, whatever a relay says; where there are none
    /// it is for whom the relay lets in.
    pub only: Vec<Fingerprint>,
    /// The least secrecy that a session with it may have.
    pub lowest_grade: Grade,
    /// What serves it in this program; where there is nothing, the target does.
    pub inside: Option<Inside>,
}

/// A service as the relay knows it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// Its name.
    pub name: String,
    /// Its name with owner and suffix.
    pub full_name: String,
    /// `HOST:PORT` as reached from here, with what [`Target::read`] knows before it.
    pub target: String,
}

impl Listing {
    /// Its target, taken apart.
    #[must_use]
    pub fn target(&self) -> Target<'_> {
        Target::read(&self.target)
    }
}

/// A service could not be registered.
#[derive(Debug, Clone, Error)]
#[error("cannot publish {name}: {error}")]
pub struct PublishError {
    /// The service.
    pub name: String,
    /// Why.
    pub error: RequestError,
}

/// A service leads to another host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retargeted {
    /// Its full name.
    pub name: String,
    /// Where it led before.
    pub before: String,
    /// Connections to it that there were.
    pub living: usize,
    /// Whether these are dialled anew.
    pub moved: bool,
}

/// Why a service does not lead to another host.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum RetargetError {
    /// It is not published from here.
    #[error("{0} is not published by an agent of this home that runs")]
    NotHere(String),
    /// Its connections may not be dialled anew.
    #[error(
        "connections to {0} may not be moved while they last: it was published without --redial"
    )]
    NoRedial(String),
    /// It is a network, and leads to no one host.
    #[error("{0} is a whole network, which leads to no one host")]
    Network(String),
    /// The machine that wants it was not named when the service was published.
    #[error("the publisher of {service} takes no such wish from the machine {machine}")]
    NotNamed {
        /// The service, as the machine named it.
        service: String,
        /// Fingerprint of the machine's key.
        machine: String,
    },
    /// The new host does not answer.
    #[error("{text}; nothing was changed")]
    Dial {
        /// The new host.
        target: String,
        /// Why, as a number from the table of codes.
        #[serde(with = "code_number")]
        code: Code,
        /// In words.
        text: String,
    },
}

impl RetargetError {
    /// The reason from the table of codes.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::NotHere(_) => Code::NoService,
            Self::NoRedial(_) => Code::NoRedial,
            Self::Network(_) => Code::HostNeeded,
            Self::NotNamed { .. } => Code::MayNotRetarget,
            Self::Dial { code, .. } => *code,
        }
    }
}

/// Codes as their numbers.
mod code_number {
    use serde::{Deserialize as _, Deserializer, Serializer};
    use underpass_proto::Code;

    pub(super) fn serialize<S: Serializer>(code: &Code, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(code.number())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Code, D::Error> {
        let number = u64::deserialize(from)?;
        Ok(Code::from_number(number).unwrap_or(Code::Internal))
    }
}

/// Why services are not published any more.
#[derive(Debug, Clone, Error)]
pub enum PublishEnd {
    /// The attachment ended for good.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The relay, having forgotten a service, does not take it again.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// Publishes services for as long as it is kept, at all relays that are attached to.
#[derive(Debug)]
pub struct Publisher {
    standings: Standings,
    /// The standing through which they were registered first, and the hop session.
    first: (Standing, Session),
    offers: Vec<Offer>,
    catalogue: Arc<Catalogue>,
    approval: Approval,
}

impl Publisher {
    /// Registers all `offers` with the best relay and serves who comes for them within `limits`, and from a machine of
    /// theirs, as far as that is known. [`Publisher::keep`] registers them with the others.
    ///
    /// # Errors
    /// The relay refuses one of them. Those before it stay registered until the attachment ends.
    pub async fn start(
        standings: impl Into<Standings>,
        offers: Vec<Offer>,
        limits: Limits,
        users: KnownUsers,
        board: Board,
    ) -> Result<Self, PublishError> {
        let standings = standings.into();
        let catalogue = Catalogue::new(standings.clone(), &offers, limits, users, board);
        let (_, standing) = standings.best();
        let publisher = Self {
            first: (standing.clone(), standing.attachment().session()),
            standings,
            offers,
            catalogue: Arc::new(catalogue),
            approval: Approval::default(),
        };
        publisher.serve(&standing);
        publisher.register(&standing).await?;
        Ok(publisher)
    }

    /// What is published.
    #[must_use]
    pub fn listings(&self) -> Vec<Listing> {
        self.catalogue.listings()
    }

    /// What changes where services lead while this goes on.
    #[must_use]
    pub fn steering(&self) -> Steering {
        Steering(Arc::clone(&self.catalogue))
    }

    /// Registers with every relay that is attached to, and again whenever one has forgotten this machine,
    /// until that is no use any more.
    pub async fn keep(&self) -> PublishEnd {
        let mut seen = Seen::default();
        let mut keeping = FuturesUnordered::new();
        let mut refused = None;
        let mut none_left = pin!(self.none_left());
        loop {
            tokio::select! {
                standing = self.standings.joined(&mut seen) => {
                    let (first, session) = &self.first;
                    let is_first = first.is(&standing);
                    let registered_in = is_first.then(|| session.clone());
                    keeping.push(self.keep_at(standing, registered_in));
                }
                Some(end) = keeping.next() => {
                    if let PublishEnd::Publish(error) = &end {
                        tracing::error!("one relay less: {error}");
                        refused = Some(end);
                    }
                    // Where the others have ended as well, the fleet says so.
                    if keeping.is_empty() && let Some(end) = refused.take() {
                        return end;
                    }
                }
                ended = self.standings.fleet().ended() => return ended.into(),
                error = &mut none_left => return error.into(),
            }
        }
    }

    /// Keeps them registered with one relay; they are already in the hop session `registered_in`.
    async fn keep_at(&self, standing: Standing, registered_in: Option<Session>) -> PublishEnd {
        let attachment = standing.attachment();
        let mut session = match registered_in {
            Some(session) => session,
            None => {
                self.serve(&standing);
                let session = attachment.session();
                if let Some(end) = self.register_until_done(&standing).await {
                    return end;
                }
                session
            }
        };
        while attachment.session_changed(&session).await {
            // Taken before: what changes while we register is seen by the next round.
            session = attachment.session();
            if let Some(end) = self.register_until_done(&standing).await {
                return end;
            }
        }
        attachment.ended().await.into()
    }

    /// Why there is no use in registering any more, if there is none.
    async fn register_until_done(&self, standing: &Standing) -> Option<PublishEnd> {
        let _registering = self.approval.registering();
        while let Err(failed) = self.register(standing).await {
            if !failed.code().retry_helps() {
                return Some(failed.into());
            }
            tracing::warn!("{failed}; trying again");
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                ended = standing.attachment().ended() => return Some(ended.into()),
            }
        }
        None
    }

    /// Serves who comes by this relay.
    fn serve(&self, standing: &Standing) {
        self.catalogue.access.heed(standing);
        let (serving, policy) = (Arc::clone(&self.catalogue), Arc::clone(&self.catalogue));
        standing.attachment().serve_graded(
            move |service| policy.lowest_grade(service),
            move |session, peer| {
                tokio::spawn(serve::session(Arc::clone(&serving), session, peer));
            },
        );
    }

    async fn register(&self, standing: &Standing) -> Result<(), PublishError> {
        for offer in &self.offers {
            // What somebody has withdrawn, or a manager refused, is not published again by itself.
            if self.approval.is_gone(&offer.name) {
                continue;
            }
            let Offer {
                name,
                target: _,
                network: _,
                description,
                compression,
                plain_http,
                redial: _,
                retarget_by: _,
                only: _,
                lowest_grade: _,
                inside: _,
            } = offer;
            let publishing = standing.publish(name, description, *compression, *plain_http);
            let answer = publishing.await;
            let published = answer.map_err(|error| PublishError {
                name: name.clone(),
                error,
            })?;
            let target = self.catalogue.named(name, &published.full_name);
            let full_name = &published.full_name;
            match published.waiting {
                true => tracing::info!("{full_name} ({target}) waits for a manager's approval"),
                false => tracing::info!("published {target} as {full_name}"),
            }
            self.approval.registered(name, published.waiting);
        }
        Ok(())
    }
}

/// Changes where published services lead. Clones change the same ones.
#[derive(Debug, Clone)]
pub struct Steering(Arc<Catalogue>);

impl Steering {
    /// Leads new connections to `service` to `target` from now on; with `now` those that there are as
    /// well: they are cut on the host side and dialled anew, and their near side is not touched. It lasts
    /// as long as the publisher; the next one begins with the targets that it is given.
    ///
    /// # Errors
    /// See [`RetargetError`]; nothing was changed then.
    pub async fn retarget(
        &self,
        service: &str,
        target: &str,
        now: bool,
    ) -> Result<Retargeted, RetargetError> {
        self.0.retarget(service, target, now).await
    }
}

impl PublishError {
    /// The reason from the table of codes.
    #[must_use]
    pub fn code(&self) -> Code {
        self.error.code()
    }
}
