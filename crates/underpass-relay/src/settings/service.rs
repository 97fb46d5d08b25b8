//! `[[service]]` tables: services that the relay dials itself.

use serde::Deserialize;
use underpass_store::{Name, Who};

use super::SettingError;
use crate::target::RelayService;

/// One table as it stands in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    target: String,
    #[serde(default)]
    allow: Vec<String>,
    #[serde(default = "yes")]
    compression: bool,
}

fn yes() -> bool {
    true
}

/// Reads all of them.
pub(super) fn read(value: &toml::Value) -> Result<Vec<RelayService>, SettingError> {
    let written: Vec<Written> = value
        .clone()
        .try_into()
        .map_err(|error| SettingError::value("service", error))?;
    let mut services: Vec<RelayService> = Vec::with_capacity(written.len());
    for written in written {
        let service = understand(&written)
            .map_err(|reason| SettingError::value(format!("service {:?}", written.name), reason))?;
        if services.iter().any(|other| other.name == service.name) {
            let reason = "there are two services of this name";
            return Err(SettingError::value(
                format!("service {:?}", written.name),
                reason,
            ));
        }
        services.push(service);
    }
    Ok(services)
}

fn understand(written: &Written) -> Result<RelayService, String> {
    let allow = written.allow.iter().map(|who| {
        who.parse::<Who>()
            .map_err(|error| format!("allow {who:?}: {error}"))
    });
    Ok(RelayService {
        name: Name::new(&written.name).map_err(|error| error.to_string())?,
        target: written
            .target
            .parse()
            .map_err(|error: crate::target::HostPortError| error.to_string())?,
        allow: allow.collect::<Result<_, _>>()?,
        compression: written.compression,
    })
}
