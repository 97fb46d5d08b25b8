//! A relay's settings: one table, from which defaults, the settings file, flags and the manual come.
//!
//! A layer (file, environment, command line) sets values by name with [`Settings::set`] or
//! [`Settings::read_toml`]; the last one wins. Services that the relay dials stand in `[[service]]`
//! tables of the file.

mod service;
mod table;
mod value;

use std::fmt;

pub use table::Settings;
pub use value::{ByteSize, Count, Span};

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The key in the file; with hyphens, the flag.
    pub name: &'static str,
    /// What a value is, for people: `ADDRESS:PORT`, `DURATION`, ...
    pub kind: &'static str,
    /// Whether several values may be given.
    pub several: bool,
    /// The default as one would write it; empty for none.
    pub default: String,
    /// What it does.
    pub doc: String,
}

/// Why a setting was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// The file is not TOML.
    #[error("the settings are not valid TOML: {0}")]
    Toml(String),
    /// There is no such setting.
    #[error("there is no setting {name:?}; settings of a relay are: {known}")]
    Unknown {
        /// The name.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// A value cannot be used.
    #[error("setting {name}: {reason}")]
    Value {
        /// Whose.
        name: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
}

impl SettingError {
    fn value(name: impl fmt::Display, reason: impl fmt::Display) -> Self {
        Self::Value {
            name: name.to_string(),
            reason: reason.to_string(),
        }
    }
}

impl Settings {
    /// Sets one setting from text, as a flag or an environment variable gives it. Hyphens in the name
    /// are as good as underscores; several values are separated by commas.
    ///
    /// # Errors
    /// The name is unknown, or the value is not one for it.
    pub fn set(&mut self, name: &str, text: &str) -> Result<(), SettingError> {
        let name = name.replace('-', "_");
        self.set_toml(&name, &toml::Value::String(text.to_owned()))
    }

    /// Takes up the settings of a file.
    ///
    /// # Errors
    /// It is no TOML, names a setting that does not exist, or holds a value that cannot be used.
    pub fn read_toml(&mut self, text: &str) -> Result<(), SettingError> {
        let table: toml::Table = text
            .parse()
            .map_err(|error: toml::de::Error| SettingError::Toml(error.to_string()))?;
        for (name, value) in &table {
            match name.as_str() {
                "service" => self.services = service::read(value)?,
                name => self.set_toml(name, value)?,
            }
        }
        Ok(())
    }

    /// Looks at what no setting can tell by itself.
    ///
    /// # Errors
    /// Settings that contradict each other.
    pub fn check(&self) -> Result<(), SettingError> {
        if self.listen.is_empty() && self.tls_listen.is_empty() {
            return Err(SettingError::value(
                "listen",
                "the relay would listen nowhere",
            ));
        }
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            let reason = "tls_cert and tls_key are given together or not at all";
            return Err(SettingError::value("tls_cert", reason));
        }
        if self.certificate_revocations.is_some() && self.certificate_authorities.is_none() {
            let reason = "it says nothing without certificate_authorities";
            return Err(SettingError::value("certificate_revocations", reason));
        }
        let (low, high, hard) = (self.route_low.0, self.route_high.0, self.route_hard.0);
        if !(low < high && high < hard) {
            let reason = "route_low must be below route_high, and that below route_hard";
            return Err(SettingError::value("route_high", reason));
        }
        underpass_proto::names::check_suffix(&self.suffix)
            .map_err(|error| SettingError::value("suffix", error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_text_of_each_setting_is_its_default() {
        let mut settings = Settings::default();
        for setting in Settings::table() {
            assert!(
                !setting.doc.is_empty() && !setting.kind.is_empty(),
                "{}",
                setting.name
            );
            if !setting.default.is_empty() {
                settings.set(setting.name, &setting.default).unwrap();
            }
        }
        assert_eq!(settings, Settings::default());
        settings.check().unwrap();
    }

    /// The page's part that is made from the table.
    fn page() -> String {
        let mut text =
            String::from("| setting | value | default | what it does |\n|---|---|---|---|\n");
        for setting in Settings::table() {
            let default = match setting.name {
                // It depends on who runs the relay.
                "data" => "`relay` in the agent's home, or the XDG state folder".to_owned(),
                _ if setting.default.is_empty() => String::new(),
                _ => format!("`{}`", setting.default),
            };
            let several = if setting.several { ", several" } else { "" };
            // A bar would begin the next cell.
            let kind = setting.kind.replace('|', "\\|");
            let (name, doc) = (setting.name, setting.doc);
            text += &format!("| `{name}` | {kind}{several} | {default} | {doc} |\n");
        }
        text
    }

    /// `UNDERPASS_BLESS=1 cargo test -p underpass-relay` writes it anew.
    #[test]
    fn the_page_of_settings_is_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/relay.md");
        let text = std::fs::read_to_string(path).unwrap();
        let (before, rest) = text.split_once("table.rs -->\n").unwrap();
        let (found, after) = rest.split_once("<!-- end of settings -->").unwrap();
        if std::env::var_os("UNDERPASS_BLESS").is_some() {
            let whole = format!(
                "{before}table.rs -->\n{}<!-- end of settings -->{after}",
                page()
            );
            std::fs::write(path, whole).unwrap();
        } else {
            assert_eq!(found, page(), "docs/relay.md is not what the table says");
        }
    }

    #[test]
    fn a_file_sets_what_it_names_and_nothing_else() {
        let mut settings = Settings::default();
        let file = r#"
            listen = ["127.0.0.1:80", "[::1]:80"]
            tls_listen = "127.0.0.1:443"
            keep = "1h 30m"
            routes = 7
            route_memory = "1 GiB"
            setup_file = "/tmp/code"

            [[service]]
            name = "web"
            target = "127.0.0.1:8000"
            allow = ["alice", "*"]

            [[service]]
            name = "closed"
            target = "db.example:5432"
            compression = false
        "#;
        settings.read_toml(file).unwrap();
        assert_eq!(settings.listen.len(), 2);
        assert_eq!(settings.tls_listen[0].port(), 443);
        assert_eq!(settings.keep.0.as_secs(), 5400);
        assert_eq!((settings.routes, settings.route_memory.0), (7, 1 << 30));
        assert_eq!(settings.services.len(), 2);
        assert_eq!(settings.services[0].allow.len(), 2);
        assert!(settings.services[1].allow.is_empty() && !settings.services[1].compression);
        let untouched = Settings::default();
        assert_eq!(settings.waiting, untouched.waiting);
    }

    #[test]
    fn a_later_layer_wins() {
        let mut settings = Settings::default();
        settings.read_toml("routes = 7\nwaiting = 8").unwrap();
        settings.set("routes", "9").unwrap();
        settings
            .set("tls-listen", "127.0.0.1:1,127.0.0.1:2")
            .unwrap();
        assert_eq!((settings.routes, settings.waiting), (9, 8));
        assert_eq!(settings.tls_listen.len(), 2);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let mut settings = Settings::default();
        for (file, said) in [
            ("listen = [", "not valid TOML"),
            ("lisen = \"1\"", "no setting \"lisen\""),
            ("listen = \"here\"", "setting listen"),
            ("listen = [7]", "setting listen"),
            ("routes = -1", "setting routes"),
            ("keep = \"soon\"", "setting keep"),
            ("route_memory = \"much\"", "setting route_memory"),
            ("authority = \"here:1\"", "setting authority"),
            ("certificate_name = \"dns\"", "setting certificate_name"),
            ("certificate_users = \"all\"", "setting certificate_users"),
            ("service = 7", "setting service"),
            ("[[service]]\nname = \"web\"", "target"),
            (
                "[[service]]\nname = \"Web\"\ntarget = \"h:1\"",
                "setting service",
            ),
            ("[[service]]\nname = \"web\"\ntarget = \"h\"", "HOST:PORT"),
            (
                "[[service]]\nname = \"web\"\ntarget = \"h:1\"\nalow = []",
                "alow",
            ),
            (
                "[[service]]\nname = \"web\"\ntarget = \"h:1\"\nallow = [\"A\"]",
                "setting service",
            ),
        ] {
            let error = settings.read_toml(file).unwrap_err().to_string();
            assert!(error.contains(said), "{file}: {error}");
        }
        let twice = "[[service]]\nname = \"web\"\ntarget = \"h:1\"\n".repeat(2);
        assert!(settings.read_toml(&twice).is_err());
    }

    #[test]
    fn contradictions_are_found() {
        for (name, text) in [
            ("route_low", "2 MiB"),
            ("tls_cert", "/cert"),
            ("certificate_revocations", "/lists"),
            ("suffix", "Under_pass"),
        ] {
            let mut settings = Settings::default();
            settings.set(name, text).unwrap();
            assert!(settings.check().is_err(), "{name}");
        }
        let nowhere = Settings {
            listen: vec![],
            ..Settings::default()
        };
        assert!(nowhere.check().is_err());
    }
}
