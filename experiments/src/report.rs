//! What a program leaves: a table and a picture.

use std::process::ExitCode;

use anyhow::Result;

use crate::training::{Record, Stopped};

/// The results of an experiment.
#[derive(Clone, Debug)]
pub struct Report {
    /// In Markdown.
    pub table: String,
    /// As SVG.
    pub picture: String,
}

impl Report {
    /// Leaves both in the experiment's folder, and says where.
    ///
    /// # Errors
    ///
    /// For files that cannot be written.
    pub fn write(&self, record: &Record) -> Result<()> {
        let table = record.write("table.md", &format!("{}\n", self.table))?;
        let picture = record.write("curves.svg", &self.picture)?;
        record.say(&format!("{}\n\n{} and {}", self.table, table.display(), picture.display()));
        Ok(())
    }
}

/// What programs do: to have stopped where they were told to is no failure, and an error is one line.
pub fn program<T>(run: impl FnOnce() -> Result<T>) -> ExitCode {
    // candle's matrix products take all cores by this variable alone, wherever they are called: runs beside one another would wait
    // for each other most of the time, twice as long as one after another.
    // SAFETY: no other thread is there yet to read the environment.
    unsafe { std::env::set_var("RAYON_NUM_THREADS", "1") };
    match run() {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) if error.is::<Stopped>() => {
            eprintln!("{error}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
