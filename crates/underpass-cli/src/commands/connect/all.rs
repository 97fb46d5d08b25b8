//! `underpass connect --all`: the services of the settings file, which may change meanwhile.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use tokio::signal::unix::Signal;
use underpass_agent::Connector;
use underpass_agent::connect::{Change, Listeners, Wanted};

use super::super::Context;
use crate::failure::Failure;
use crate::settings::{Origin, Settings, connects};

/// Between two looks at the settings file. By looking it is seen on every file system, and however it is replaced.
const LOOK: Duration = Duration::from_secs(1);
/// Between attempts to have an address that could not be had.
const MEND: Duration = Duration::from_secs(5);

/// What the tables of the settings file want now.
pub fn wanted(origin: &Origin) -> Result<Vec<Wanted>, Failure> {
    let layers = origin.read()?;
    let variable = |name: &str| Some(std::env::var_os(name)?.to_string_lossy().into_owned());
    let settings = Settings::resolve(&layers, variable)?;
    connects(&layers, &settings.allow_from)
}

/// The same, where there must be something.
pub fn wanted_first(context: &Context) -> Result<Vec<Wanted>, Failure> {
    let wanted = wanted(&context.origin)?;
    if wanted.is_empty() {
        let file = context.origin.file().display();
        return Err(Failure::usage(format!(
            "{file} has no table [[connect]], which --all is for"
        )));
    }
    Ok(wanted)
}

/// Keeps listeners as the settings file says, whenever it changes and whenever a hang-up signal comes. A file that cannot
/// be used changes nothing.
pub async fn keep(
    mut listeners: Listeners,
    connector: Connector,
    origin: Origin,
    mut hang_ups: Signal,
) {
    let origin = origin.kept();
    let mut file = Stillness::new(Stamp::of(origin.file()));
    let mut look = tokio::time::interval(LOOK);
    let mut mend = tokio::time::interval(MEND);
    loop {
        let changes = tokio::select! {
            _ = look.tick() => match file.look(Stamp::of(origin.file())) {
                true => read_again(&mut listeners, &connector, &origin).await,
                false => continue,
            },
            Some(()) = hang_ups.recv() => read_again(&mut listeners, &connector, &origin).await,
            _ = mend.tick() => listeners.mend().await,
        };
        for change in &changes {
            tell(change);
        }
    }
}

async fn read_again(
    listeners: &mut Listeners,
    connector: &Connector,
    origin: &Origin,
) -> Vec<Change> {
    match wanted(origin) {
        Ok(wanted) => {
            let changes = listeners.change(&wanted).await;
            let file = origin.file().display();
            tracing::info!("read {file} again: {} services", wanted.len());
            look_for(connector, &changes);
            changes
        }
        Err(failure) => {
            tracing::error!(
                "the settings file has changed and cannot be used, so everything stays as it was: {}",
                failure.what
            );
            Vec::new()
        }
    }
}

fn tell(change: &Change) {
    match change {
        Change::Opened(wanted) => tracing::info!("{wanted}, for {}", wanted.sources),
        Change::Changed(wanted) => tracing::info!("from now on {wanted}, for {}", wanted.sources),
        Change::Closed(wanted) => {
            tracing::info!("{wanted}: nothing more is taken there; what there is goes on");
        }
        Change::Failed(wanted, error) => {
            tracing::error!("{}: {error}; trying again", wanted.service);
        }
    }
}

/// Says of which services the relay knows nothing: they may come later, and must not keep the others waiting.
pub fn look_for(connector: &Connector, changes: &[Change]) {
    for change in changes {
        let (Change::Opened(wanted) | Change::Changed(wanted)) = change else {
            continue;
        };
        let (connector, service) = (connector.clone(), wanted.service.clone());
        tokio::spawn(async move {
            match connector.resolve(&service).await {
                Ok(resolved) if !resolved.present => {
                    tracing::warn!("{service} is published by a machine that is away");
                }
                Ok(_) => {}
                Err(error) => {
                    let code = error.code().up();
                    tracing::warn!("{service} cannot be used yet: {error} [{code}]");
                }
            }
        });
    }
}

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    file: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    /// That of a file; none where there is none.
    fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            file: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

/// When something that changes is to be read: once it has stood still from one look to the next, since whoever writes a
/// file may not be done with it.
#[derive(Debug)]
struct Stillness<T> {
    read: T,
    seen: T,
}

impl<T: Copy + PartialEq> Stillness<T> {
    /// It was read as it is `now`.
    fn new(now: T) -> Self {
        Self {
            read: now,
            seen: now,
        }
    }

    /// Whether it is to be read, being `now` like this.
    fn look(&mut self, now: T) -> bool {
        let still = now == self.seen;
        self.seen = now;
        let due = still && now != self.read;
        if due {
            self.read = now;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_is_read_once_and_not_before_it_stands_still() {
        let mut file = Stillness::new(0);
        let looks = [0, 1, 1, 1, 2, 3, 3, 3, 1, 3, 3, 4, 4, 0, 0];
        let due: Vec<bool> = looks.iter().map(|now| file.look(*now)).collect();
        let read: Vec<i32> = looks
            .iter()
            .zip(&due)
            .filter_map(|(now, due)| due.then_some(*now))
            .collect();
        assert_eq!(read, [1, 3, 4, 0]);
        assert!(due[2] && due[6] && due[12] && due[14]);
    }

    #[test]
    fn a_file_that_is_written_or_replaced_has_another_stamp() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        assert_eq!(Stamp::of(&path), None);
        std::fs::write(&path, "a").unwrap();
        let first = Stamp::of(&path);
        assert!(first.is_some() && first == Stamp::of(&path));
        std::fs::write(&path, "ab").unwrap();
        let second = Stamp::of(&path);
        assert_ne!(first, second);
        let other = dir.path().join("other");
        std::fs::write(&other, "ab").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert_ne!(second, Stamp::of(&path));
    }
}
