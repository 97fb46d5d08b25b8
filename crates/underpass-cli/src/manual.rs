//! `docs/cli.md`, made from the definition of the command line. A test compares; with
//! `UNDERPASS_BLESS=1` it writes the page anew.

use clap::{Arg, Command, CommandFactory as _};

use crate::cli::Cli;
use crate::failure::LOCAL_CODES;
use crate::settings::{Group, TABLE};

const INTRODUCTION: &str = "\
# The command line

This page is made from the program itself (`UNDERPASS_BLESS=1 cargo test -p underpass-cli` writes it anew).

";

fn page() -> String {
    let mut root = Cli::command();
    root.build();
    let mut text = INTRODUCTION.to_owned();
    text += &format!("{}\n\n", long_about(&root));
    text += &format!(
        "```\n{}\n```\n",
        root.get_after_help()
            .map(ToString::to_string)
            .unwrap_or_default()
    );
    text += "\n## Everywhere\n\n";
    text += &arguments(&root);
    for command in root.get_subcommands().filter(|it| it.get_name() != "help") {
        describe(command, "underpass", &mut text);
    }
    text += &settings();
    text += &errors();
    text
}

fn long_about(command: &Command) -> String {
    let about = command.get_long_about().or(command.get_about());
    about
        .map(ToString::to_string)
        .unwrap_or_default()
        .replace('<', "\\<")
}

fn describe(command: &Command, parent: &str, text: &mut String) {
    let name = format!("{parent} {}", command.get_name());
    let mut copy = command.clone();
    let usage = copy.render_usage().to_string();
    let usage = usage.strip_prefix("Usage: ").unwrap_or(&usage);
    *text += &format!(
        "\n## {name}\n\n{}\n\n```\n{usage}\n```\n\n",
        long_about(command)
    );
    *text += &arguments(command);
    for below in command
        .get_subcommands()
        .filter(|it| it.get_name() != "help")
    {
        describe(below, &name, text);
    }
}

/// A list of what a command takes, without what every command takes.
fn arguments(command: &Command) -> String {
    let is_root = command.get_name() == "underpass";
    let own = command.get_arguments().filter(|argument| {
        let id = argument.get_id().as_str();
        let everywhere = id == "config"
            || TABLE
                .iter()
                .any(|row| row.name == id && row.group == Group::Everywhere);
        !argument.is_hide_set() && id != "help" && id != "version" && (is_root || !everywhere)
    });
    own.map(|argument| format!("- `{}`: {}\n", shape(argument), help(argument)))
        .collect()
}

fn shape(argument: &Arg) -> String {
    let values: Vec<String> = argument
        .get_value_names()
        .filter(|_| argument.get_action().takes_values())
        .map(|names| names.iter().map(ToString::to_string).collect())
        .unwrap_or_default();
    match argument.get_long() {
        Some(long) => [vec![format!("--{long}")], values].concat().join(" "),
        None => values.join(" "),
    }
}

fn help(argument: &Arg) -> String {
    let help = argument.get_long_help().or(argument.get_help());
    help.map(ToString::to_string)
        .unwrap_or_default()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

fn settings() -> String {
    let mut text = String::from(
        "\n## Settings\n\nAll commands but `relay` read these from flags, variables and the settings file, in this order.\n\
         The file may also hold pairs to be kept connected by `underpass meet --all`: [rendezvous.md](rendezvous.md).\n\n\
         | key in the file | flag | variable | default | what |\n|---|---|---|---|---|\n",
    );
    for row in TABLE {
        let default = if row.default.is_empty() {
            String::new()
        } else {
            format!("`{}`", row.default)
        };
        text += &format!(
            "| `{}` | `--{}` | `{}` | {default} | {} |\n",
            row.name,
            row.flag(),
            row.variable(),
            row.help
        );
    }
    text
}

fn errors() -> String {
    let mut text = String::from(
        "\n## Errors of the command itself\n\nThose that the other side can give too are in [errors.md](errors.md).\n\n\
         | code | exit code | what happened | likely cause | next step |\n|---|---|---|---|---|\n",
    );
    for code in LOCAL_CODES {
        text += &format!(
            "| `{}` | {} | {} | {} | {} |\n",
            code.up, code.exit, code.what, code.cause, code.next
        );
    }
    text
}

#[test]
fn the_manual_is_what_the_program_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cli.md");
    let page = page();
    if std::env::var_os("UNDERPASS_BLESS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    let differs = page
        .lines()
        .zip(committed.lines())
        .find(|(new, old)| new != old);
    assert!(
        page == committed,
        "docs/cli.md is out of date (UNDERPASS_BLESS=1 writes it anew); first difference: {differs:?}"
    );
}
