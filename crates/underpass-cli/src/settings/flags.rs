//! The flags of settings, made from the table.

use std::marker::PhantomData;

use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};

use super::{Group, Row, TABLE};

/// Names the group whose flags a command has.
pub trait Groups {
    /// The groups.
    const GROUPS: &'static [Group];
    /// Whether the flags may stand after a subcommand's name as well as before it.
    const GLOBAL: bool = false;
}

macro_rules! groups {
    ($($(#[$meta:meta])* $name:ident: $($group:ident),*; $global:literal)*) => {
        $(
            $(#[$meta])*
            #[derive(Debug)]
            pub struct $name;
            impl Groups for $name {
                const GROUPS: &'static [Group] = &[$(Group::$group),*];
                const GLOBAL: bool = $global;
            }
        )*
    };
}

groups! {
    /// Flags of all commands.
    Everywhere: Everywhere; true
    /// Flags of commands that only ask a relay something.
    ToRelay: ToRelay, Path; true
    /// Flags of `doctor`.
    OnPath: Path; false
    /// Flags of `login`.
    OnLogin: Path, OnLogin; false
    /// Flags of `names`.
    OnNames: ToRelay, Path, Named; true
    /// Flags of `nc` and of commands that serve programs by name.
    OnSession: ToRelay, Path, OnSession, Choosing, AtEnds, Named; false
    /// Flags of `connect` and `proxy`.
    OnListen: ToRelay, Path, OnSession, Choosing, AtEnds, Named, Datagrams, Listening; false
    /// Flags of commands that serve others by themselves.
    OnInside: ToRelay, Path, AtEnds; false
    /// Flags of `meet`.
    OnMeet: ToRelay, Path, OnPublish, OnSession, AtEnds, Listening; false
    /// Flags of `publish`.
    OnPublish: ToRelay, Path, OnPublish, Allowing, AtEnds, Datagrams; false
}

/// The flags that were given.
#[derive(Debug)]
pub struct Flags<G> {
    /// Name of the setting, and its text.
    pub given: Vec<(&'static str, String)>,
    groups: PhantomData<G>,
}

fn rows<G: Groups>() -> impl Iterator<Item = &'static Row> {
    TABLE.iter().filter(|row| G::GROUPS.contains(&row.group))
}

fn argument(row: &'static Row, global: bool) -> Arg {
    let default = match row.default {
        "" | "false" => String::new(),
        default => format!(" [default: {default}]"),
    };
    let argument = Arg::new(row.name)
        .long(row.flag())
        .global(global)
        .help(format!("{} [env: {}]{default}", row.help, row.variable()));
    if row.is_switch() {
        return argument.action(ArgAction::SetTrue);
    }
    argument
        .value_name(row.value)
        .value_parser(|text: &str| (row.check)(text).map(|()| text.to_owned()))
}

impl<G: Groups> FromArgMatches for Flags<G> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = rows::<G>().filter_map(|row| {
            let text = if row.is_switch() {
                matches.get_flag(row.name).then(|| "true".to_owned())
            } else {
                matches.get_one::<String>(row.name).cloned()
            };
            Some((row.name, text?))
        });
        Ok(Self {
            given: given.collect(),
            groups: PhantomData,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl<G: Groups> clap::Args for Flags<G> {
    fn augment_args(command: Command) -> Command {
        command.args(rows::<G>().map(|row| argument(row, G::GLOBAL)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}
