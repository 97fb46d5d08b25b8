//! The way to the machines that take files.

use underpass_proto::Code;
use underpass_proto::transfer::FILES_SERVICE;

use super::{Line, Trouble};
use crate::Connector;
use crate::connect::OpenError;

/// Makes lines to receivers.
pub trait Lines: Send + Sync + 'static {
    /// A line to the machine that takes files for `user`.
    ///
    /// # Errors
    /// Nobody there, or nobody that takes anything from us.
    fn open(&self, user: &str) -> impl Future<Output = Result<Line, Trouble>> + Send;
}

/// Lines to the machines that take files for their users.
#[derive(Debug)]
pub struct ServiceLines(pub Connector);

impl Lines for ServiceLines {
    async fn open(&self, user: &str) -> Result<Line, Trouble> {
        let Self(connector) = self;
        let service = format!("{FILES_SERVICE}.{user}");
        let resolved = connector.resolve(&service).await;
        let resolved = resolved.map_err(|error| unopened(&OpenError::Resolve(error), user))?;
        if !resolved.present {
            return Err(Trouble::of(Code::ReceiverAway));
        }
        let channel = connector.open(&service).await;
        let channel = channel.map_err(|error| unopened(&error, user))?;
        let (reader, writer) = channel.into_split();
        Ok(Line::new(reader, writer))
    }
}

/// What it means for files that a service cannot be opened.
fn unopened(error: &OpenError, user: &str) -> Trouble {
    match error.code() {
        Code::NoService | Code::NoUser => Trouble::of(Code::NoReceiver),
        Code::Denied => Trouble::of(Code::SenderRefused),
        Code::ServiceAway => Trouble::of(Code::ReceiverAway),
        code => Trouble::new(code, format!("{user}: {error}")),
    }
}
