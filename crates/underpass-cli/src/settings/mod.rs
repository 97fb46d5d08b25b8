//! The settings of every command but `relay`, from one table.
//!
//! A row of [`TABLE`](table::TABLE) is a flag, a variable, a key of the settings file and a line in
//! the manual at once. Each layer holds text, read by the same parser: flags win over variables, those over
//! the file, that over the default.

mod flags;
mod kinds;
mod pairs;
mod table;
mod tables;

use std::path::{Path, PathBuf};

use underpass_agent::connect::{Local, Sources};

use crate::failure::Failure;
pub use flags::{
    Everywhere, Flags, OnInside, OnListen, OnLogin, OnMeet, OnNames, OnPath, OnPublish, OnSession,
    ToRelay,
};
pub use kinds::{ProxyMode, Span, TlsCheckMode};
pub use pairs::PairSetting;
pub use table::{Group, Settings, TABLE};
use tables::TABLES;
pub use tables::{Written, connects, publishes};

/// A row of the table: everything about a setting but its type.
pub struct Row {
    /// The key in the file; with hyphens, the flag.
    pub name: &'static str,
    /// Which commands have the flag.
    pub group: Group,
    /// What stands for the value in help; empty for a switch.
    pub value: &'static str,
    /// The default, as one would write it.
    pub default: &'static str,
    /// One sentence for help and manual.
    pub help: &'static str,
    /// Says what is wrong with a text.
    pub check: fn(&str) -> Result<(), String>,
}

impl Row {
    /// The flag, without its hyphens.
    pub fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    /// The variable.
    pub fn variable(&self) -> String {
        format!("UNDERPASS_{}", self.name.to_uppercase())
    }

    /// Whether it is a switch: given or not.
    pub fn is_switch(&self) -> bool {
        self.value.is_empty()
    }
}

/// Where settings come from, to be read again.
#[derive(Debug, Clone)]
pub struct Origin {
    flags: Vec<(&'static str, String)>,
    /// The settings file, and whether it was named, so that it must be there.
    file: PathBuf,
    named: bool,
}

impl Origin {
    /// The flags that were given, and the settings file: `explicit`, or `usual` where that exists.
    pub fn new(flags: Vec<(&'static str, String)>, explicit: Option<&Path>, usual: &Path) -> Self {
        Self {
            flags,
            file: explicit.unwrap_or(usual).to_owned(),
            named: explicit.is_some(),
        }
    }

    /// The settings file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The same, and from now on the file must be there: who reads it again has read it before.
    pub fn kept(mut self) -> Self {
        self.named = true;
        self
    }

    /// Reads the file.
    ///
    /// # Errors
    /// It cannot be read, or has a key that nobody knows.
    pub fn read(&self) -> Result<Layers, Failure> {
        let explicit = self.named.then_some(self.file.as_path());
        Layers::new(self.flags.clone(), explicit, &self.file)
    }
}

/// What other machines can reach is offered only to those that are named, which `how` says how to do.
pub fn reachable(local: Local, sources: &Sources, how: &str) -> Result<(), String> {
    if local.is_loopback() || !sources.is_loopback_only() {
        return Ok(());
    }
    Err(format!(
        "{local} can be reached from other machines: name those that may use it with {how}, such as 192.168.1.0/24 \
         (0.0.0.0/0,::/0 lets all of them)"
    ))
}

/// The texts given for settings, from all layers.
#[derive(Debug, Default)]
pub struct Layers {
    flags: Vec<(&'static str, String)>,
    file: toml::Table,
    path: PathBuf,
}

impl Layers {
    /// Takes flags up, and reads the settings file: `explicit`, or `usual` where that exists.
    pub fn new(
        flags: Vec<(&'static str, String)>,
        explicit: Option<&Path>,
        usual: &Path,
    ) -> Result<Self, Failure> {
        let path = explicit.unwrap_or(usual).to_owned();
        let file = match std::fs::read_to_string(&path) {
            Ok(text) => read(&text, &path)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && explicit.is_none() => {
                toml::Table::new()
            }
            Err(error) => {
                return Err(Failure::file(format!(
                    "cannot read {}: {error}",
                    path.display()
                )));
            }
        };
        Ok(Self { flags, file, path })
    }

    /// The settings file, whether or not it is there.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The pairs of the settings file.
    pub fn pairs(&self) -> Result<Vec<PairSetting>, Failure> {
        let Some(pairs) = self.file.get(pairs::KEY) else {
            return Ok(Vec::new());
        };
        let pairs = pairs.clone().try_into::<Vec<PairSetting>>();
        pairs.map_err(|error| {
            let file = self.path.display();
            Failure::usage(format!("{file}, [[pair]]: {}", error.message()))
        })
    }

    /// The text of a setting, and where it was found.
    fn text(
        &self,
        row: &Row,
        variable: &impl Fn(&str) -> Option<String>,
    ) -> Result<(String, String), Failure> {
        if let Some((_, text)) = self.flags.iter().find(|(name, _)| *name == row.name) {
            return Ok((text.clone(), format!("--{}", row.flag())));
        }
        let name = row.variable();
        if let Some(text) = variable(&name) {
            return Ok((text, name));
        }
        let place = || format!("{}, key {}", self.path.display(), row.name);
        match self.file.get(row.name) {
            Some(value) => {
                let text = value_text(value).ok_or_else(|| {
                    Failure::usage(format!("{}: not a text, number or list of texts", place()))
                })?;
                Ok((text, place()))
            }
            None => Ok((row.default.to_owned(), "the default".to_owned())),
        }
    }

    /// The value of a setting.
    fn value<T>(&self, row: &Row, variable: &impl Fn(&str) -> Option<String>) -> Result<T, Failure>
    where
        T: std::str::FromStr<Err: std::fmt::Display>,
    {
        let (text, place) = self.text(row, variable)?;
        text.parse()
            .map_err(|error| Failure::usage(format!("{place}: {text:?}: {error}")))
    }
}

/// The file as a table whose keys are all known: a misspelt key would be ignored for ever.
fn read(text: &str, path: &Path) -> Result<toml::Table, Failure> {
    let wrong = |what: String| Failure::usage(format!("{}: {what}", path.display()));
    let file: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let start = error.span().map_or(0, |span| span.start);
        let line = text[..start].matches('\n').count() + 1;
        wrong(format!("line {line}: {}", error.message()))
    })?;
    match file
        .keys()
        .find(|key| TABLE.iter().all(|row| row.name != *key) && !TABLES.contains(&key.as_str()))
    {
        None => Ok(file),
        Some(key) => Err(wrong(format!("there is no setting {key:?}"))),
    }
}

/// A value of the file as one would write it after a flag.
fn value_text(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(on) => Some(on.to_string()),
        toml::Value::Array(values) => {
            let plain = |value: &toml::Value| value.is_str() || value.is_integer();
            let texts = values.iter().map(|it| value_text(it).filter(|_| plain(it)));
            Some(texts.collect::<Option<Vec<_>>>()?.join(","))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn layers(flags: &[(&'static str, &str)], file: &str) -> Result<Layers, Failure> {
        Ok(Layers {
            flags: flags
                .iter()
                .map(|(name, text)| (*name, (*text).to_owned()))
                .collect(),
            file: read(file, Path::new("c.toml"))?,
            path: "c.toml".into(),
        })
    }

    fn resolve(
        flags: &[(&'static str, &str)],
        variables: &[(&str, &str)],
        file: &str,
    ) -> Result<Settings, Failure> {
        Settings::resolve(&layers(flags, file)?, |name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn every_default_can_be_read() {
        let settings = resolve(&[], &[], "").unwrap();
        assert_eq!(settings.dial_timeout.0.as_secs(), 10);
        assert!(!settings.json.0);
        for row in TABLE {
            (row.check)(row.default).unwrap();
        }
    }

    #[test]
    fn each_layer_wins_over_those_below() {
        let file = "dial_timeout = '3s'\npatience = '4s'\nkeep = '5s'";
        let variables = [("UNDERPASS_PATIENCE", "6s"), ("UNDERPASS_KEEP", "7s")];
        let settings = resolve(&[("keep", "8s")], &variables, file).unwrap();
        let seconds =
            [&settings.dial_timeout, &settings.patience, &settings.keep].map(|s| s.0.as_secs());
        assert_eq!(seconds, [3, 6, 8]);
    }

    #[test]
    fn lists_and_switches_in_every_layer() {
        let settings = resolve(&[], &[], "carrier = ['poll', 'ws']\njson = true").unwrap();
        assert_eq!(settings.carrier.names(), ["poll", "ws"]);
        assert!(settings.json.0);
        let settings = resolve(&[], &[("UNDERPASS_CARRIER", "ws,poll")], "").unwrap();
        assert_eq!(settings.carrier.names(), ["ws", "poll"]);
        assert!(
            resolve(&[("json", "true")], &[], "json = false")
                .unwrap()
                .json
                .0
        );
    }

    #[test]
    fn mistakes_say_where() {
        for (flags, variables, file, part) in [
            (&[("keep", "x")][..], &[][..], "", "--keep: \"x\""),
            (&[], &[("UNDERPASS_KEEP", "x")], "", "UNDERPASS_KEEP: \"x\""),
            (&[], &[], "keep = 'x'", "c.toml, key keep: \"x\""),
            (&[], &[], "keep = 1.5", "c.toml, key keep: not a text"),
            (
                &[],
                &[],
                "json = true\nkeeep = '1s'",
                "there is no setting \"keeep\"",
            ),
            (&[], &[], "json = true\nx", "c.toml: line 2:"),
            (&[], &[], "carrier = 'pigeon'", "pigeon"),
        ] {
            let failure = resolve(flags, variables, file).err().unwrap();
            assert_eq!(failure.exit, 2);
            assert!(failure.what.contains(part), "{}", failure.what);
        }
    }

    #[test]
    fn pairs_stand_beside_settings() {
        let file = "keep = '5s'\n[[pair]]\nuser = 'bob'\napplication = 'chat'\nlisten = '5000'\n\
                    [[pair]]\nuser = '*'\napplication = 'ssh'\ntarget = 'localhost:22'\n";
        let read = layers(&[], file).unwrap();
        let pairs = read.pairs().unwrap();
        let local = pairs[0].listen.unwrap().to_string();
        assert_eq!(
            (pairs[0].user.as_str(), local.as_str()),
            ("bob", "127.0.0.1:5000")
        );
        assert_eq!(pairs[1].target.as_deref(), Some("localhost:22"));
        assert!(layers(&[], "").unwrap().pairs().unwrap().is_empty());
        for (file, part) in [
            ("pair = 1", "[[pair]]"),
            ("[[pair]]\nuser = 'bob'", "application"),
            (
                "[[pair]]\nuser = 'bob'\napplication = 'x'\nport = 1",
                "port",
            ),
            (
                "[[pair]]\nuser = 'bob'\napplication = 'x'\nlisten = 'here'",
                "here",
            ),
        ] {
            let failure = layers(&[], file).unwrap().pairs().unwrap_err();
            assert_eq!(failure.exit, 2);
            assert!(failure.what.contains(part), "{}", failure.what);
        }
    }

    #[test]
    fn the_file_must_exist_only_when_it_was_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        assert!(Layers::new(vec![], None, &path).is_ok());
        assert!(Layers::new(vec![], Some(&path), Path::new("/none")).is_err());
        std::fs::write(&path, "quiet = true").unwrap();
        assert_eq!(Layers::new(vec![], None, &path).unwrap().file.len(), 1);
    }
}
