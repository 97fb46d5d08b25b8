//! Results on standard output, messages on standard error.

use std::io::{self, IsTerminal as _, Write as _};

use comfy_table::{ContentArrangement, Table, presets};

use crate::failure::Failure;

/// How results are wanted.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// As JSON.
    pub json: bool,
    /// Without messages.
    pub quiet: bool,
    /// Whether a person looks at standard output.
    terminal: bool,
}

/// A list of things of one sort.
#[derive(Debug)]
pub struct Rows {
    /// What stands above the columns, on a terminal only.
    pub columns: &'static [&'static str],
    /// The cells.
    pub cells: Vec<Vec<String>>,
    /// The same for programs.
    pub json: serde_json::Value,
}

impl Output {
    /// With the settings given.
    pub fn new(json: bool, quiet: bool) -> Self {
        Self {
            json,
            quiet,
            terminal: io::stdout().is_terminal(),
        }
    }

    /// Prints one result: a line for people, an object for programs.
    pub fn result(self, text: &str, json: &serde_json::Value) -> Result<(), Failure> {
        if self.json {
            print(&json.to_string())
        } else {
            print(text)
        }
    }

    /// Prints a list: a table on a terminal, in a pipe one line for each row with tabs between the
    /// cells and no headings, so that the columns never shift.
    pub fn rows(self, rows: &Rows) -> Result<(), Failure> {
        if self.json {
            return print(&rows.json.to_string());
        }
        if self.terminal {
            return print(&table(rows).to_string());
        }
        rows.cells
            .iter()
            .try_for_each(|cells| print(&in_one_line(cells)))
    }

    /// Prints one of many things that happen: words for people, in a pipe a line with tabs between the cells.
    pub fn event(
        self,
        cells: &[&str],
        words: &str,
        json: &serde_json::Value,
    ) -> Result<(), Failure> {
        if self.json {
            return print(&json.to_string());
        }
        if self.terminal {
            return print(&printable(words));
        }
        let cells: Vec<String> = cells.iter().map(|cell| (*cell).to_owned()).collect();
        print(&in_one_line(&cells))
    }

    /// The same on a terminal, in the place of what stands there.
    pub fn rows_anew(self, rows: &Rows) -> Result<(), Failure> {
        // To the upper left corner, and everything behind it away (ECMA-48, CUP and ED).
        print(&format!("\u{1b}[H\u{1b}[2J{}", table(rows)))
    }

    /// Whether a person reads standard output.
    pub fn for_people(self) -> bool {
        self.terminal && !self.json
    }

    /// Tells the user something that is no result.
    pub fn message(self, text: &str) {
        if !self.quiet {
            say(text);
        }
    }

    /// Says why the command failed.
    pub fn failure(self, failure: &Failure) {
        if self.json {
            say(&failure.to_json().to_string());
        } else {
            say(&failure.to_string());
        }
    }
}

fn table(rows: &Rows) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(rows.columns.iter().map(|column| column.to_uppercase()));
    table.add_rows(
        rows.cells
            .iter()
            .map(|cells| cells.iter().map(|cell| printable(cell))),
    );
    table
}

fn in_one_line(cells: &[String]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| printable(cell)).collect();
    cells.join("\t")
}

/// What others wrote must not steer a terminal, nor add columns.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(|error| Failure::file(format!("cannot write to standard output: {error}")))
}

/// Where standard error is closed there is nobody left to tell.
fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_cannot_break_out_of_their_column() {
        let cells = ["a\tb\n".to_owned(), "\u{1b}[31m".to_owned(), "é".to_owned()];
        assert_eq!(in_one_line(&cells), "a\u{fffd}b\u{fffd}\t\u{fffd}[31m\té");
    }

    #[test]
    fn tables_have_headings() {
        let rows = Rows {
            columns: &["name", "owner"],
            cells: vec![vec!["db".into(), "bob".into()]],
            json: serde_json::Value::Null,
        };
        let text = table(&rows).to_string();
        assert!(text.contains("NAME") && text.lines().count() == 2, "{text}");
    }
}
