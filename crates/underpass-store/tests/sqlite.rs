//! The conformance suite on SQLite: on one store kept open, and on one opened anew at every step,
//! the one before dropped without being closed, as after a kill.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod conformance;

use std::path::PathBuf;
use std::sync::Arc;

use conformance::{Place, conformance_suite};
use underpass_store::{SqliteStore, Store};

/// A file in a folder of its own, which goes with the test.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("underpass.db")
    }

    async fn open(&self) -> Arc<dyn Store> {
        Arc::new(SqliteStore::open(&self.file()).await.unwrap())
    }
}

/// One store, kept open.
pub(crate) struct KeptOpen {
    store: Arc<dyn Store>,
    folder: Folder,
}

impl KeptOpen {
    async fn new() -> Self {
        let folder = Folder::new();
        let store = folder.open().await;
        Self { store, folder }
    }
}

impl Place for KeptOpen {
    async fn store(&mut self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }

    async fn another(&self) -> Arc<dyn Store> {
        self.folder.open().await
    }
}

/// A store opened anew at every step.
pub(crate) struct OpenedAnew(Folder);

impl OpenedAnew {
    async fn new() -> Self {
        Self(Folder::new())
    }
}

impl Place for OpenedAnew {
    async fn store(&mut self) -> Arc<dyn Store> {
        self.0.open().await
    }

    async fn another(&self) -> Arc<dyn Store> {
        self.0.open().await
    }
}

conformance_suite!(kept_open, crate::KeptOpen);
conformance_suite!(opened_anew, crate::OpenedAnew);
