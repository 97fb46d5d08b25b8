//! What running agents tell about themselves in `underpass status --json`.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::tunnel::Agent;

/// The sums over all running agents of one home, as `underpass status --json` tells them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Story {
    /// How often the way to the relay was lost and made anew.
    pub drops: u64,
    /// How often a session from end to end went on over another leg.
    pub resumes: u64,
    /// Sessions from end to end.
    pub sessions: u64,
    /// Connections in those sessions.
    pub channels: u64,
    /// Bytes received that the program at this end has not taken.
    pub unread: u64,
}

impl Story {
    /// Asks the agents that run from `agent`'s home.
    ///
    /// # Errors
    /// `underpass status` failed or told something else.
    pub fn of(agent: &Agent) -> Result<Self> {
        let text = agent.run(&["status", "--json"])?;
        let told: Value =
            serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))?;
        let sum = |key: &str| {
            let mut values = Vec::new();
            collect(&told, key, &mut values);
            values.iter().filter_map(|value| value.as_u64()).sum()
        };
        let mut lists = Vec::new();
        collect(&told, "sessions", &mut lists);
        Ok(Self {
            drops: sum("drops"),
            resumes: sum("resumes"),
            sessions: lists
                .iter()
                .filter_map(|list| list.as_array())
                .map(|list| list.len() as u64)
                .sum(),
            channels: sum("channels"),
            unread: sum("unread"),
        })
    }
}

/// All values of `key`, wherever in `within` they stand.
fn collect<'a>(within: &'a Value, key: &str, found: &mut Vec<&'a Value>) {
    match within {
        Value::Object(fields) => {
            for (name, value) in fields {
                if name == key {
                    found.push(value);
                }
                collect(value, key, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, key, found)),
        _ => {}
    }
}
