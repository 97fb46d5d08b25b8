//! `underpass names`

use clap::Args;
use underpass_agent::redirector::pseudo_names;

use super::{Context, errors};
use crate::failure::Failure;
use crate::output::Rows;
use crate::settings::{Flags, OnNames};

/// List the names that programs under `underpass run` can use
///
/// Columns in a pipe: name, the full name of the service that it means, present or away. The short form is there where only
/// one of the services you may use has the name.
#[derive(Debug, Args)]
pub struct Names {
    #[command(flatten)]
    pub flags: Flags<OnNames>,
}

impl Names {
    /// Asks the relay and prints them.
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        let standing = context.enrolled().await?.standing;
        let services = standing.services().await;
        standing.attachment().detach().await;
        let services = services.map_err(|error| errors::of_request(&error, "cannot list names"))?;
        let names = pseudo_names(&services, &context.settings.suffix);
        let state = |present: bool| if present { "present" } else { "away" };
        let cells = names.iter().map(|(name, of)| {
            vec![
                name.clone(),
                of.full_name.clone(),
                state(of.present).to_owned(),
            ]
        });
        let json = names.iter().map(|(name, of)| {
            serde_json::json!({ "name": name, "service": of.full_name, "present": of.present })
        });
        context.output.rows(&Rows {
            columns: &["name", "service", "state"],
            cells: cells.collect(),
            json: json.collect(),
        })
    }
}
