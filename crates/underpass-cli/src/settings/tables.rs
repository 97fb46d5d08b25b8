//! Tables of the settings file that may stand there several times: `[[connect]]`, `[[publish]]`, and `[[pair]]`, which is
//! read elsewhere.

use std::path::Path;

use underpass_agent::connect::{Sources, Wanted};
use underpass_seal::{Fingerprint, ParseFingerprintError};

use super::kinds::Switch;
use super::{Layers, pairs, value_text};
use crate::failure::Failure;

/// The names of such tables. A key of another name is a setting.
pub const TABLES: [&str; 3] = [CONNECT, PUBLISH, pairs::KEY];

/// A service that is offered at a local address.
const CONNECT: &str = "connect";
/// A service that is published.
const PUBLISH: &str = "publish";

/// A service to publish, as somebody wrote it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// Its name.
    pub name: String,
    /// `HOST:PORT`, or a network.
    pub target: String,
    /// The ports of a network.
    pub ports: Option<String>,
    /// The hosts of a network that may be named.
    pub hosts: Option<String>,
    /// What it is, for people.
    pub description: String,
    /// Whether channels to it are not compressed.
    pub no_compression: bool,
    /// Whether bare HTTP clients may use it.
    pub plain_http: bool,
    /// Whether its connections may be dialled anew.
    pub redial: bool,
    /// Machines that may lead it elsewhere.
    pub retarget_by: Vec<Fingerprint>,
    /// The only machines that may use it.
    pub only: Vec<Fingerprint>,
}

/// Fingerprints with commas between.
struct Fingerprints(Vec<Fingerprint>);

impl std::str::FromStr for Fingerprints {
    type Err = ParseFingerprintError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = text.split(',').map(str::trim).filter(|it| !it.is_empty());
        named.map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

/// One table, of which each key is taken once.
struct Table<'a> {
    place: String,
    left: toml::Table,
    path: &'a Path,
}

impl<'a> Table<'a> {
    fn wrong(&self, what: &str) -> Failure {
        Failure::usage(format!("{}, {}: {what}", self.path.display(), self.place))
    }

    /// What stands at `key`, by the parser of its type.
    fn take<T>(&mut self, key: &str) -> Result<Option<T>, Failure>
    where
        T: std::str::FromStr<Err: std::fmt::Display>,
    {
        let Some(value) = self.left.remove(key) else {
            return Ok(None);
        };
        let Some(text) = value_text(&value) else {
            return Err(self.wrong(&format!("{key} is not a text, number or list of texts")));
        };
        let read = text.parse();
        read.map(Some)
            .map_err(|error| self.wrong(&format!("{key}: {text:?}: {error}")))
    }

    fn needed<T>(&mut self, key: &str) -> Result<T, Failure>
    where
        T: std::str::FromStr<Err: std::fmt::Display>,
    {
        self.take(key)?
            .ok_or_else(|| self.wrong(&format!("{key} is missing")))
    }

    /// A misspelt key would be ignored for ever.
    fn end(self) -> Result<(), Failure> {
        match self.left.keys().next() {
            None => Ok(()),
            Some(key) => Err(self.wrong(&format!("there is no key {key:?}"))),
        }
    }
}

/// The tables of one name, in their order.
fn all<'a>(layers: &'a Layers, name: &str) -> Result<Vec<Table<'a>>, Failure> {
    let path = layers.path();
    let wrong = || {
        let what = format!("{}: {name} is written [[{name}]]", path.display());
        Failure::usage(what)
    };
    let values = match layers.file.get(name) {
        None => return Ok(Vec::new()),
        Some(toml::Value::Array(values)) => values,
        Some(_) => return Err(wrong()),
    };
    let tables = values.iter().enumerate().map(|(at, value)| {
        let left = value.as_table().cloned().ok_or_else(wrong)?;
        let place = format!("[[{name}]] number {}", at + 1);
        Ok(Table { place, left, path })
    });
    tables.collect()
}

/// What the tables `[[connect]]` want, each for `sources` where it names nobody.
///
/// # Errors
/// A table has a key too many or too few, or two have one address.
pub fn connects(layers: &Layers, sources: &Sources) -> Result<Vec<Wanted>, Failure> {
    let mut wanted: Vec<Wanted> = Vec::new();
    for mut table in all(layers, CONNECT)? {
        let one = Wanted {
            service: table.needed("service")?,
            local: table.needed("bind")?,
            sources: table.take("allow_from")?.unwrap_or_else(|| sources.clone()),
        };
        if one.service.is_empty() {
            return Err(table.wrong("service is empty"));
        }
        if one.local.display.is_some() {
            return Err(table.wrong("a display is opened by underpass connect NAME x11:NUMBER"));
        }
        if one.local.address.port() == 0 {
            return Err(table.wrong("bind needs a port, which nobody could know otherwise"));
        }
        if let Err(what) = super::reachable(one.local, &one.sources, "allow_from") {
            return Err(table.wrong(&what));
        }
        if wanted.iter().any(|it| it.local == one.local) {
            return Err(table.wrong(&format!("{} is in another table already", one.local)));
        }
        table.end()?;
        wanted.push(one);
    }
    Ok(wanted)
}

/// What the tables `[[publish]]` want.
///
/// # Errors
/// A table has a key too many or too few.
pub fn publishes(layers: &Layers) -> Result<Vec<Written>, Failure> {
    let written = all(layers, PUBLISH)?.into_iter().map(|mut table| {
        let machines = |list: Option<Fingerprints>| list.map_or(Vec::new(), |list| list.0);
        let is_on = |switch: Option<Switch>| switch.is_some_and(|switch| switch.0);
        let written = Written {
            name: table.needed("name")?,
            target: table.needed("target")?,
            ports: table.take("ports")?,
            hosts: table.take("hosts")?,
            description: table.take("description")?.unwrap_or_default(),
            no_compression: is_on(table.take("no_compression")?),
            plain_http: is_on(table.take("plain_http")?),
            redial: is_on(table.take("redial")?),
            retarget_by: machines(table.take("retarget_by")?),
            only: machines(table.take("only")?),
        };
        table.end()?;
        Ok(written)
    });
    written.collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::layers;
    use super::*;

    fn read(file: &str) -> Result<Vec<String>, Failure> {
        let layers = layers(&[], file)?;
        let sources = "10.9.0.0/16".parse().unwrap();
        let wanted = connects(&layers, &sources)?;
        let tell = |it: &Wanted| format!("{it} for {}", it.sources);
        Ok(wanted.iter().map(tell).collect())
    }

    #[test]
    fn services_and_for_whom() {
        assert_eq!(read("quiet = true").unwrap(), Vec::<String>::new());
        let file = "
            patience = '5s'
            [[connect]]
            service = 'db.al'
            bind = '0.0.0.0:5432'
            allow_from = ['10.0.0.0/8', '192.168.1.7']
            [[connect]]
            service = 'web'
            bind = 8080
            allow_from = ''
            [[connect]]
            service = 'dns'
            bind = 'udp:0.0.0.0:53'";
        assert_eq!(
            read(file).unwrap(),
            [
                "db.al at 0.0.0.0:5432 for this machine, 10.0.0.0/8, 192.168.1.7/32",
                "web at 127.0.0.1:8080 for this machine",
                "dns at udp:0.0.0.0:53 for this machine, 10.9.0.0/16",
            ]
        );
    }

    #[test]
    fn services_to_publish() {
        let key = "[[publish]]\nname='db'\ntarget='10.0.0.5:5432'\nredial=true\n\
                   [[publish]]\nname='net'\ntarget='10.0.0.0/8'\nports=[22, '8000-8099']\nhosts=['*.corp', 'db.lab']";
        let layers = layers(&[], key).unwrap();
        let written = publishes(&layers).unwrap();
        assert_eq!((&written[0].name[..], written[0].redial), ("db", true));
        assert_eq!(written[1].ports.as_deref(), Some("22,8000-8099"));
        assert_eq!(written[1].hosts.as_deref(), Some("*.corp,db.lab"));
        assert!(!written[1].redial && written[1].only.is_empty());
        for (lines, part) in [
            ("target='a:1'", "number 1: name is missing"),
            ("name='a'", "number 1: target is missing"),
            ("name='a'\ntarget='a:1'\nredail=true", "no key \"redail\""),
            ("name='a'\ntarget='a:1'\nonly='x'", "only: \"x\""),
            ("name='a'\ntarget='a:1'\nredial='x'", "redial: \"x\""),
        ] {
            let layers = super::super::tests::layers(&[], &format!("[[publish]]\n{lines}"));
            let failure = publishes(&layers.unwrap()).unwrap_err();
            assert!(failure.what.contains(part), "{lines}: {}", failure.what);
        }
    }

    #[test]
    fn mistakes_say_where() {
        let table = |lines: &str| format!("[[connect]]\nservice='a'\nbind=1\n[[connect]]\n{lines}");
        for (file, part) in [
            ("connect = 'db'".to_owned(), "[[connect]]"),
            ("connect = ['db']".to_owned(), "[[connect]]"),
            ("[connect]\nservice='a'".to_owned(), "[[connect]]"),
            ("[[conect]]".to_owned(), "\"conect\""),
            (table("bind=2"), "number 2: service is missing"),
            (table("service='b'"), "number 2: bind is missing"),
            (table("service=''\nbind=2"), "service is empty"),
            (table("service='b'\nbind=1"), "127.0.0.1:1 is in another"),
            (table("service='b'\nbind=0"), "needs a port"),
            (table("service='b'\nbind='lan'"), "\"lan\""),
            (table("service='b'\nbind=2\nallow_from='lan'"), "\"lan\""),
            (
                table("service='b'\nbind=2\nallow='10.0.0.1'"),
                "no key \"allow\"",
            ),
            (
                table("service='b'\nbind='0.0.0.0:2'\nallow_from=''"),
                "can be reached from other machines",
            ),
            (table("service=1.5\nbind=2"), "service is not a text"),
        ] {
            let failure = read(&file).unwrap_err();
            assert_eq!(failure.exit, 2, "{file}");
            assert!(failure.what.contains(part), "{file}: {}", failure.what);
        }
    }
}
