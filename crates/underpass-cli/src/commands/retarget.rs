//! `underpass services retarget`

use clap::Args;
use underpass_agent::Connector;
use underpass_agent::connect::{LeadError, PinnedTrust};
use underpass_agent::publish::{RetargetError, Retargeted};
use underpass_agent::status::{Board, Order, retarget};
use underpass_proto::frame::Class;
use underpass_proto::{Code, Grade};
use underpass_seal::Fingerprint;

use super::publish::check_target;
use super::{Context, EnrolledAtAll, errors};
use crate::failure::{Failure, NOT_HERE};

/// Where a service is to lead.
#[derive(Debug, Args)]
pub struct Retarget {
    /// The service
    name: String,
    /// The host and port where the publishing machine reaches it from now on
    #[arg(value_name = "HOST:PORT")]
    target: String,
    /// Move the connections that there are as well; the service must have been published with --redial
    #[arg(long)]
    now: bool,
    /// The fingerprint that the service's publisher must show, if it is another machine and it was learnt from its
    /// owner; it takes the place of the one that is pinned
    #[arg(long, value_name = "FINGERPRINT")]
    peer_key: Option<Fingerprint>,
}

impl Retarget {
    /// Tells the agent that publishes the service: one of this home, or one elsewhere.
    pub async fn run(&self, context: &Context) -> Result<(), Failure> {
        check_target(&self.target)?;
        let order = Order {
            service: self.name.clone(),
            target: self.target.clone(),
            now: self.now,
        };
        let done = match retarget(&context.home, &order).await? {
            Err(RetargetError::NotHere(_)) => self.far(context).await?,
            done => done.map_err(|error| of_retarget(&error))?,
        };
        self.tell(context, &done)
    }

    fn tell(&self, context: &Context, done: &Retargeted) -> Result<(), Failure> {
        let target = &self.target;
        let living = match (done.living, done.moved) {
            (0, _) => "nobody is connected".to_owned(),
            (living, true) => format!("connections dialled anew: {living}"),
            (living, false) => format!("connections that stay where they are: {living}"),
        };
        context.output.result(
            &format!(
                "{} leads to {target} instead of {}; {living}",
                done.name, done.before
            ),
            &serde_json::json!({
                "name": done.name,
                "target": target,
                "before": done.before,
                "connections": done.living,
                "moved": done.moved,
            }),
        )
    }

    /// Nobody here publishes it.
    async fn far(&self, context: &Context) -> Result<Retargeted, Failure> {
        let EnrolledAtAll { standings, first } = context.enrolled_at_all(false).await?;
        let trust = PinnedTrust::new(context.home.clone(), first.key, self.peer_key);
        let board = Board::new("services");
        let connector = Connector::new(
            standings.clone(),
            trust,
            Class::Interactive,
            Grade::Blind,
            board,
        );
        let outcome = self.through(&connector, context).await;
        connector.finish().await;
        standings.detach().await;
        outcome
    }

    async fn through(
        &self,
        connector: &Connector,
        context: &Context,
    ) -> Result<Retargeted, Failure> {
        let name = &self.name;
        let trying = format!("cannot lead {name} elsewhere");
        let resolved = connector.resolve(name).await;
        let resolved = resolved.map_err(|error| errors::of_request(&error, &trying))?;
        let ours = context.home.machine_key()?.public();
        if ours.0 == resolved.publisher_key {
            return Err(Failure::local(
                &NOT_HERE,
                RetargetError::NotHere(name.clone()).to_string(),
            ));
        }
        if !resolved.present {
            return Err(Failure::of_code(Code::ServiceAway, &trying));
        }
        let led = connector.retarget(name, &resolved, &self.target, self.now);
        led.await.map_err(|error| match &error {
            LeadError::Open(error) => errors::of_open(error, name),
            LeadError::Refused { text, .. } => {
                errors::in_its_words(Failure::of_code(error.code(), &trying), &trying, text)
            }
            _ => Failure::of_code(error.code(), &trying).with_what(format!("{trying}: {error}")),
        })
    }
}

fn of_retarget(error: &RetargetError) -> Failure {
    match error {
        RetargetError::NotHere(_) => Failure::local(&NOT_HERE, error.to_string()),
        _ => Failure::of_code(error.code(), "").with_what(error.to_string()),
    }
}
