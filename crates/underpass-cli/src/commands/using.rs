//! What commands share that use services until they are stopped.

use underpass_agent::Connector;
use underpass_agent::connect::PinnedTrust;
use underpass_agent::status::{Board, StatusServer};
use underpass_proto::far_host::split_port;
use underpass_seal::Fingerprint;

use super::signals::stop_asked;
use super::{Context, EnrolledAtAll, errors, log_notices};
use crate::failure::Failure;

/// A service as somebody named it, perhaps with the suffix of pseudo names, without that; a port after it stays.
pub fn bare(context: &Context, named: &str) -> String {
    let (name, port) = split_port(named);
    let name = context.settings.suffix.without(name);
    match port {
        Some(port) => format!("{name}:{port}"),
        None => name,
    }
}

/// An agent that is attached, shows itself to `underpass status`, and can open services.
pub struct Using {
    /// What is shown.
    pub board: Board,
    /// Opens services.
    pub connector: Connector,
    enrolled: EnrolledAtAll,
    _status: StatusServer,
}

impl Using {
    /// Attaches for `command`; `None` where it is told to stop before that. `key` is what a service's publisher must show,
    /// where that is known.
    pub async fn start(
        context: &Context,
        command: &'static str,
        key: Option<Fingerprint>,
    ) -> Result<Option<Self>, Failure> {
        let board = Board::new(command);
        let enrolled = tokio::select! {
            enrolled = context.enrolled_at_all(false) => enrolled?,
            () = stop_asked()? => return Ok(None),
        };
        let standings = &enrolled.standings;
        board.show_standings(standings.clone());
        let status = StatusServer::start(&context.home, board.clone())?;
        tokio::spawn(log_notices(standings.clone()));
        let trust = PinnedTrust::new(context.home.clone(), enrolled.first.key, key);
        let (class, grade) = (context.settings.class.0, context.settings.grade.0);
        let connector = Connector::new(standings.clone(), trust, class, grade, board.clone());
        Ok(Some(Self {
            board,
            connector,
            enrolled,
            _status: status,
        }))
    }

    /// Serves by `serving` until told to `stop`, or until the attachment ends for good.
    pub async fn until_stopped(
        self,
        stop: impl Future<Output = ()>,
        serving: impl Future<Output = ()>,
    ) -> Result<(), Failure> {
        let EnrolledAtAll { standings, first } = &self.enrolled;
        tokio::select! {
            ended = standings.fleet().ended() => return Err(errors::of_attach(&ended, &first.url)),
            () = stop => {}
            () = serving => {}
        }
        self.connector.close().await;
        standings.detach().await;
        Ok(())
    }
}
