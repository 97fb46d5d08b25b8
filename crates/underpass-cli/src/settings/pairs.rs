//! Pairs that are to be kept connected: tables of the settings file.

use serde::{Deserialize, Deserializer};
use underpass_agent::connect::Local;

/// The key of the file that holds them.
pub const KEY: &str = "pair";

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairSetting {
    /// The user to meet, or `*`.
    pub user: String,
    /// What for.
    pub application: String,
    /// Where programs connect that are led to the other side.
    #[serde(default, deserialize_with = "local")]
    pub listen: Option<Local>,
    /// Where connections of the other side lead to.
    #[serde(default)]
    pub target: Option<String>,
}

impl PairSetting {
    /// Whether nothing is at this side but standard input and output.
    pub fn has_no_doors(&self) -> bool {
        self.listen.is_none() && self.target.is_none()
    }
}

fn local<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Local>, D::Error> {
    let text = String::deserialize(from)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}
