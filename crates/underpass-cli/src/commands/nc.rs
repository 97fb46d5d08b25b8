//! `underpass nc`

use clap::Args;
use underpass_agent::Connector;
use underpass_agent::connect::{PinnedTrust, nc};
use underpass_agent::status::{Board, StatusServer};
use underpass_proto::Code;
use underpass_seal::Fingerprint;

use super::signals::stop_or_hang_up;
use super::using::bare;
use super::{Context, EnrolledAtAll, errors};
use crate::failure::Failure;
use crate::ready;
use crate::settings::{Flags, OnSession};
use crate::standard;

/// Connect a service to standard input and output
///
/// For example: ssh -o ProxyCommand='underpass nc %h' host. Of a host of a published network a port is named too:
/// underpass nc HOST.SERVICE:22. The end of either direction is passed on;
/// the exit code tells why a service could not be reached, or broke off.
#[derive(Debug, Args)]
pub struct Nc {
    /// The service
    #[arg(value_name = "NAME")]
    service: String,
    /// The fingerprint that the service's publisher must show, if it was learnt from its owner; it
    /// takes the place of the one that is pinned
    #[arg(long, value_name = "FINGERPRINT")]
    peer_key: Option<Fingerprint>,
    /// Write a newline to this file descriptor when the service has answered
    #[arg(long, value_name = "N")]
    ready_fd: Option<u32>,
    #[command(flatten)]
    pub flags: Flags<OnSession>,
}

impl Nc {
    /// Carries one connection.
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        let stop = stop_or_hang_up()?;
        let board = Board::new("nc");
        let EnrolledAtAll { standings, first } = tokio::select! {
            enrolled = context.enrolled_at_all(false) => enrolled?,
            () = stop_or_hang_up()? => return Err(self.cut_short()),
        };
        board.show_standings(standings.clone());
        let _status = StatusServer::start(&context.home, board.clone())?;
        let trust = PinnedTrust::new(context.home.clone(), first.key, self.peer_key);
        let (class, grade) = (context.settings.class.0, context.settings.grade.0);
        let connector = Connector::new(standings.clone(), trust, class, grade, board);
        let service = &bare(&context, &self.service);
        let outcome = async {
            let channel = connector.open(service).await;
            let channel = channel.map_err(|error| errors::of_open(&error, service))?;
            ready::signal(self.ready_fd)?;
            let done = nc(channel, tokio::io::stdin(), standard::Output::new()).await;
            done.map_err(|error| errors::of_nc(&error, service))
        };
        let outcome = tokio::select! {
            outcome = outcome => outcome,
            // The far side is told, and need not keep its connection for somebody who might come back.
            () = stop => {
                connector.close().await;
                standings.detach().await;
                return Err(self.cut_short());
            }
        };
        connector.finish().await;
        standings.detach().await;
        outcome
    }

    /// What was stopped half way must not look complete to a shell.
    fn cut_short(&self) -> Failure {
        let trying = format!("the connection to {} was cut short", self.service);
        Failure::of_code(Code::Cancelled, &trying)
    }
}
