//! What was measured, and how it is printed.

use std::time::Duration;

use anyhow::Result;
use underpass_lab::traffic::Latencies;

/// What one way achieved in one round.
pub(crate) struct Figures {
    /// MiB in a second: one stream and eight, down and up.
    pub(crate) down: [f64; 2],
    /// The same upwards.
    pub(crate) up: [f64; 2],
    pub(crate) latencies: Latencies,
    pub(crate) connections_per_second: f64,
    /// Resident memory of all processes together for each idle connection, in bytes.
    pub(crate) idle_memory: Option<u64>,
}

/// One way and all its rounds.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) rounds: Vec<Figures>,
}

impl Row {
    pub(crate) fn of(name: String) -> Self {
        Self {
            name,
            rounds: Vec::new(),
        }
    }
}

/// A column: its head, and its value in one round.
struct Column(&'static str, fn(&Figures) -> Option<f64>);

const COLUMNS: [Column; 8] = [
    Column("down, 1 stream, MiB/s", |f| Some(f.down[0])),
    Column("down, 8 streams, MiB/s", |f| Some(f.down[1])),
    Column("up, 1 stream, MiB/s", |f| Some(f.up[0])),
    Column("up, 8 streams, MiB/s", |f| Some(f.up[1])),
    Column("round trip, median, µs", |f| {
        Some(micros(f.latencies.median()))
    }),
    Column("round trip, p99, µs", |f| {
        Some(micros(f.latencies.percentile(99.0)))
    }),
    Column("connections/s", |f| Some(f.connections_per_second)),
    Column("idle connection, KiB", |f| {
        f.idle_memory.map(|bytes| bytes as f64 / 1024.0)
    }),
];

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Prints a table in Markdown.
pub(crate) fn print(rows: &[Row], rounds: u64, mebibytes: u64) -> Result<()> {
    let cores = std::thread::available_parallelism()?;
    let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    println!(
        "{cores} cores of {}; {rounds} rounds of {mebibytes} MiB in each direction; the median, and the least and the \
         most of all rounds.\n",
        model.unwrap_or("an unknown processor")
    );
    let heads: Vec<&str> = COLUMNS.iter().map(|column| column.0).collect();
    println!("| way | {} |", heads.join(" | "));
    println!("|---|{}", "---|".repeat(heads.len()));
    for row in rows {
        let cells: Vec<String> = COLUMNS.iter().map(|column| cell(row, column)).collect();
        println!("| {} | {} |", row.name, cells.join(" | "));
    }
    Ok(())
}

fn cell(row: &Row, Column(_, value): &Column) -> String {
    let mut values: Vec<f64> = row.rounds.iter().filter_map(value).collect();
    values.sort_by(f64::total_cmp);
    let (Some(least), Some(most)) = (values.first(), values.last()) else {
        return "–".into();
    };
    let median = values[values.len() / 2];
    let digits = usize::from(*most < 100.0);
    format!("{median:.digits$} ({least:.digits$}–{most:.digits$})")
}
