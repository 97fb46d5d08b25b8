//! Many local listeners, which become others while programs use them.
//!
//! Each is a task that is told by a channel what it is for at this moment. What it has taken belongs to tasks of their own,
//! which nothing here touches.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use underpass_proto::frame::ChannelKind;

use super::plan::{Step, plan};
use super::{Connector, FlowLimits, ListenError, Listener, Local, Wanted};
use crate::status::{Board, EntryReport};

/// The listeners of one agent. They end when it is dropped.
#[derive(Debug)]
pub struct Listeners {
    connector: Connector,
    limits: FlowLimits,
    board: Board,
    /// For what goes with an address.
    folder: PathBuf,
    running: Vec<Running>,
    /// Those that take nothing new, and have flows of datagrams that live.
    leaving: Vec<Running>,
    /// What should be there and cannot, and why.
    failed: Vec<(Wanted, ListenError)>,
}

/// One that listens.
#[derive(Debug)]
struct Running {
    wanted: Wanted,
    terms: watch::Sender<Option<Arc<Wanted>>>,
    task: JoinHandle<()>,
}

impl Running {
    /// What is taken from now on goes by this.
    fn change(&mut self, wanted: Wanted) {
        self.terms.send_replace(Some(Arc::new(wanted.clone())));
        self.wanted = wanted;
    }
}

/// Something that was done, for people.
#[derive(Debug)]
pub enum Change {
    /// A service is offered at an address where it was not.
    Opened(Wanted),
    /// An address leads to another service, or is for others, from now on.
    Changed(Wanted),
    /// Nothing more is taken there.
    Closed(Wanted),
    /// An address cannot be had. [`Listeners::mend`] tries again.
    Failed(Wanted, ListenError),
}

impl Listeners {
    /// None yet. `limits` are for datagrams; `board` shows what there is, and nothing
    /// else; files that go with an address lie in `folder`.
    #[must_use]
    pub fn new(connector: Connector, limits: FlowLimits, board: Board, folder: PathBuf) -> Self {
        Self {
            connector,
            limits,
            board,
            folder,
            running: Vec::new(),
            leaving: Vec::new(),
            failed: Vec::new(),
        }
    }

    /// Makes them those that are `wanted`, of which no two have one address. Connections and flows that there are go on,
    /// and whoever is to be there before and after takes what comes all the time.
    pub async fn change(&mut self, wanted: &[Wanted]) -> Vec<Change> {
        let running: Vec<Wanted> = self.running.iter().map(|it| it.wanted.clone()).collect();
        self.failed.clear();
        let mut changes = Vec::new();
        for step in plan(&running, wanted) {
            changes.extend(match step {
                Step::Close(local) => self.close(local).await,
                Step::Change(wanted) => self.alter(wanted),
                Step::Open(wanted) => Some(self.open(wanted).await),
            });
        }
        self.show();
        changes
    }

    /// Tries again what could not be had; what could be by now.
    pub async fn mend(&mut self) -> Vec<Change> {
        self.leaving.retain(|it| !it.task.is_finished());
        // One that was wanted again in the moment in which it went.
        let (ended, running) = std::mem::take(&mut self.running)
            .into_iter()
            .partition(|it| it.task.is_finished());
        self.running = running;
        let ended: Vec<Running> = ended;
        let ended = ended.into_iter().map(|it| it.wanted);
        let failed = std::mem::take(&mut self.failed).into_iter();
        let again: Vec<Wanted> = ended.chain(failed.map(|(wanted, _)| wanted)).collect();
        if again.is_empty() {
            return Vec::new();
        }
        let mut opened = Vec::new();
        for wanted in again {
            let change = self.open(wanted).await;
            if !matches!(change, Change::Failed(..)) {
                opened.push(change);
            }
        }
        self.show();
        opened
    }

    async fn close(&mut self, local: Local) -> Option<Change> {
        let at = self
            .running
            .iter()
            .position(|it| it.wanted.local == local)?;
        let mut running = self.running.remove(at);
        let wanted = running.wanted.clone();
        running.terms.send_replace(None);
        match local.kind {
            // Its address is free when this is over, which may be wanted at once.
            ChannelKind::Stream => drop((&mut running.task).await),
            ChannelKind::Datagram => self.leaving.push(running),
        }
        Some(Change::Closed(wanted))
    }

    fn alter(&mut self, wanted: Wanted) -> Option<Change> {
        let running = self
            .running
            .iter_mut()
            .find(|it| it.wanted.local == wanted.local)?;
        running.change(wanted.clone());
        Some(Change::Changed(wanted))
    }

    async fn open(&mut self, wanted: Wanted) -> Change {
        if let Some(back) = self.leaving_at(wanted.local) {
            let mut running = self.leaving.remove(back);
            running.change(wanted.clone());
            self.running.push(running);
            return Change::Opened(wanted);
        }
        let listener = match Listener::bind(wanted.clone(), self.limits, &self.folder).await {
            Ok(listener) => listener,
            Err(error) => {
                let change = Change::Failed(wanted.clone(), error.again());
                self.failed.push((wanted, error));
                return change;
            }
        };
        let wanted = listener.wanted().clone();
        let (terms, told) = watch::channel(Some(Arc::new(wanted.clone())));
        let task = tokio::spawn(listener.serve_by(told, self.connector.clone()));
        self.running.push(Running {
            wanted: wanted.clone(),
            terms,
            task,
        });
        Change::Opened(wanted)
    }

    fn leaving_at(&self, local: Local) -> Option<usize> {
        let is_it = |it: &Running| it.wanted.local == local && !it.task.is_finished();
        self.leaving.iter().position(is_it)
    }

    fn show(&self) {
        let running = self.running.iter().map(|it| EntryReport {
            service: it.wanted.service.clone(),
            address: it.wanted.local.to_string(),
            trouble: None,
        });
        let failed = self.failed.iter().map(|(wanted, error)| EntryReport {
            service: wanted.service.clone(),
            address: wanted.local.to_string(),
            trouble: Some(error.to_string()),
        });
        self.board.show_entries(running.chain(failed).collect());
    }
}
