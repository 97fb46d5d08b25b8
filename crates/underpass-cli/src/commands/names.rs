//! `underpass names`

use clap::Args;
use underpass_proto::control::ServiceRow;
use underpass_proto::names::{DEFAULT_SUFFIX, ServiceName};

use super::{Context, errors};
use crate::failure::Failure;
use crate::output::Rows;
use crate::settings::{Flags, ToRelay};

/// List the names that programs under `underpass run` can use
///
/// Columns in a pipe: name, the full name of the service that it means, present or away. The short form is there where only
/// one of the services you may use has the name.
#[derive(Debug, Args)]
pub struct Names {
    #[command(flatten)]
    pub flags: Flags<ToRelay>,
}

impl Names {
    /// Asks the relay and prints them.
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        let standing = context.enrolled().await?.standing;
        let services = standing.services().await;
        standing.attachment().detach().await;
        let services = services.map_err(|error| errors::of_request(&error, "cannot list names"))?;
        let names = names(&services);
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

/// Every name that means one of the services, and which.
fn names(services: &[ServiceRow]) -> Vec<(String, &ServiceRow)> {
    let mut names = Vec::new();
    for service in services {
        let alone = services
            .iter()
            .filter(|other| other.name == service.name)
            .count()
            == 1;
        let short = ServiceName::new(&service.name, None).ok().filter(|_| alone);
        let long = ServiceName::new(&service.name, Some(&service.owner)).ok();
        let both = short.into_iter().chain(long);
        names.extend(both.map(|name| (name.to_dns(DEFAULT_SUFFIX), service)));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, owner: &str) -> ServiceRow {
        ServiceRow {
            name: name.into(),
            owner: owner.into(),
            full_name: format!("{name}.{owner}.{DEFAULT_SUFFIX}"),
            description: String::new(),
            present: true,
            mine: false,
            publisher: [0; 32],
            allowed: Vec::new(),
            plain_http: false,
            state: underpass_proto::control::ServiceState::Active,
        }
    }

    #[test]
    fn a_short_name_means_one_service() {
        let services = [
            service("db", "al"),
            service("web", "al"),
            service("db", "bo"),
        ];
        let names: Vec<String> = names(&services).into_iter().map(|(name, _)| name).collect();
        let expected = ["db.al", "web", "web.al", "db.bo"];
        assert_eq!(
            names,
            expected.map(|name| format!("{name}.{DEFAULT_SUFFIX}"))
        );
    }
}
