//! Asking whoever sits at the terminal, whatever standard input and output are.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};

use rustix::termios::{self, LocalModes, OptionalActions};
use zeroize::Zeroizing;

/// The terminal of this process.
pub struct Terminal {
    file: File,
    lines: BufReader<File>,
}

impl Terminal {
    /// The terminal, where there is one that this process may read from: whoever asks from the background is stopped
    /// by it.
    pub fn open() -> io::Result<Option<Self>> {
        let file = OpenOptions::new().read(true).write(true).open("/dev/tty")?;
        if termios::tcgetpgrp(&file)? != rustix::process::getpgrp() {
            return Ok(None);
        }
        let lines = BufReader::new(file.try_clone()?);
        Ok(Some(Self { file, lines }))
    }

    /// Shows a question and reads a line.
    pub fn ask(&mut self, question: &str) -> io::Result<Zeroizing<String>> {
        write!(self.file, "{question}")?;
        let mut text = Zeroizing::new(String::new());
        self.lines.read_line(&mut text)?;
        let end = text.trim_end_matches(['\r', '\n']).len();
        text.truncate(end);
        Ok(text)
    }

    /// The same without showing what is typed.
    pub fn ask_silently(&mut self, question: &str) -> io::Result<Zeroizing<String>> {
        let before = termios::tcgetattr(&self.file)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        silent.local_modes.insert(LocalModes::ECHONL);
        termios::tcsetattr(&self.file, OptionalActions::Flush, &silent)?;
        let answer = self.ask(question);
        termios::tcsetattr(&self.file, OptionalActions::Flush, &before)?;
        answer
    }
}
