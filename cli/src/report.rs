//! What people and programs get to see.
//!
//! Results go to standard output, progress and logs to standard error. Nothing here computes
//! anything but figures for people.

pub(crate) mod accuracy;
pub(crate) mod bit_search;
pub(crate) mod distribution;
pub(crate) mod drawing;
pub(crate) mod figures;
pub(crate) mod html;
pub(crate) mod layers;
pub(crate) mod machine;
pub(crate) mod memory;
pub(crate) mod paper;
pub(crate) mod picture;
pub(crate) mod planning;
pub(crate) mod plot;
pub(crate) mod polynomials;
pub(crate) mod predictions;
pub(crate) mod process;
pub(crate) mod progress;
pub(crate) mod published;
pub(crate) mod run;
pub(crate) mod segments;
pub(crate) mod sheet;
pub(crate) mod table;
pub(crate) mod tables;
pub(crate) mod terminal;
pub(crate) mod units;
pub(crate) mod verdict;
pub(crate) mod view;

use progress::Progress;
use terminal::Screen;

use crate::args::OutputPath;

/// Both streams of a command.
#[derive(Debug)]
pub(crate) struct Console {
    /// Results.
    pub(crate) screen: Screen,
    /// Progress.
    pub(crate) progress: Progress,
}

impl Console {
    /// Results on standard output, or on standard error if a report goes to standard output.
    pub(crate) fn new(json: Option<&OutputPath>) -> Self {
        let screen =
            if json == Some(&OutputPath::Stdout) { Screen::stderr() } else { Screen::stdout() };
        Self { screen, progress: Progress::stderr() }
    }
}
