//! Progress of one run: a bar on a terminal, log lines elsewhere, JSON lines for a parent process.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lm_train::memory::peak_rss_mb;
use lm_train::record::Summary;
use lm_train::trainer::TrainEvent;
use serde::{Deserialize, Serialize};

use crate::output::note;

/// Log lines appear at most this often.
const LOG_EVERY: Duration = Duration::from_secs(10);
/// Events for a parent process appear at most this often.
const EVENT_EVERY: Duration = Duration::from_millis(200);

/// Style of a bar that counts steps.
pub fn step_style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix:<22} {bar:28.cyan/blue} {pos:>6}/{len:<6} {msg} left {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸─")
}

/// What a child process tells its parent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Events {
    /// Something of the run.
    Train(TrainEvent),
    /// The run has ended.
    Ended(Box<Summary>),
}

impl Events {
    /// Tells the parent the result.
    ///
    /// # Errors
    /// When the parent is gone.
    pub fn ended(summary: &Summary) -> Result<()> {
        crate::output::print(&serde_json::to_string(&Self::Ended(Box::new(summary.clone())))?)
    }
}

/// Shows one run.
pub enum Progress {
    /// On a terminal.
    Bar(ProgressBar),
    /// Without one.
    Log {
        /// Steps of the run.
        total: u64,
        /// Step and time at which this sitting began.
        begun: (u64, Instant),
        /// When the last line was printed.
        last: Option<Instant>,
    },
    /// For a parent process.
    JsonLines {
        /// When the last event was sent.
        last: Option<Instant>,
    },
}

impl Progress {
    /// A bar if somebody is watching, otherwise log lines.
    pub fn for_one_run() -> Self {
        if std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(step_style());
            bar.enable_steady_tick(Duration::from_millis(500));
            Self::Bar(bar)
        } else {
            Self::Log { total: 0, begun: (0, Instant::now()), last: None }
        }
    }

    /// Events on standard output.
    pub fn json_lines() -> Self {
        Self::JsonLines { last: None }
    }

    /// Shows one event.
    pub fn show(&mut self, event: &TrainEvent) {
        match self {
            Self::Bar(bar) => show_on_bar(bar, event, Some(peak_rss_mb())),
            Self::Log { total, begun, last } => {
                if let TrainEvent::Started { step, total: steps, .. } = event {
                    *total = *steps;
                    *begun = (*step, Instant::now());
                }
                if !throttled(event, last, LOG_EVERY, *total) {
                    note(&line(event, *total, *begun));
                }
            }
            Self::JsonLines { last } => {
                if !throttled(event, last, EVENT_EVERY, u64::MAX)
                    && let Ok(text) = serde_json::to_string(&Events::Train(event.clone()))
                {
                    // A parent that is gone has told us by a signal; the run itself goes on to its checkpoint.
                    let _ = writeln!(std::io::stdout().lock(), "{text}");
                }
            }
        }
    }

    /// Clears the bar.
    pub fn finish(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// Shows one event of a run on its bar.
pub fn show_on_bar(bar: &ProgressBar, event: &TrainEvent, memory_mb: Option<f64>) {
    match event {
        TrainEvent::Preparing(message) => bar.set_message(message.clone()),
        TrainEvent::Started { step, total, .. } => {
            bar.set_length(*total);
            bar.set_position(*step);
            bar.reset_eta();
        }
        TrainEvent::Step { step, loss, tokens_per_s } => {
            bar.set_position(*step);
            let memory = memory_mb.map_or(String::new(), |mb| format!(" {mb:.0} MiB"));
            bar.set_message(format!("loss {loss:.4} {tokens_per_s:>6.0} tok/s{memory}"));
        }
        TrainEvent::Validated { val_loss, .. } => bar.set_message(format!("validation {val_loss:.4}")),
        TrainEvent::Evaluating { done, total } => {
            bar.set_message(format!("validating {done}/{total} tokens"))
        }
    }
}

fn throttled(event: &TrainEvent, last: &mut Option<Instant>, every: Duration, total: u64) -> bool {
    let frequent = match event {
        TrainEvent::Step { step, loss, .. } => *step != total && loss.is_finite(),
        TrainEvent::Evaluating { .. } => true,
        TrainEvent::Preparing(_) | TrainEvent::Started { .. } | TrainEvent::Validated { .. } => false,
    };
    if frequent && last.is_some_and(|at| at.elapsed() < every) {
        return true;
    }
    if frequent {
        *last = Some(Instant::now());
    }
    false
}

/// One event as a log line.
fn line(event: &TrainEvent, total: u64, begun: (u64, Instant)) -> String {
    match event {
        TrainEvent::Preparing(message) => message.clone(),
        TrainEvent::Started { step, total, params } => {
            format!("training {params} parameters, step {step}/{total}")
        }
        TrainEvent::Step { step, loss, tokens_per_s } => {
            let per_step = begun.1.elapsed().as_secs_f64() / step.saturating_sub(begun.0).max(1) as f64;
            let left = per_step * total.saturating_sub(*step) as f64;
            let memory = peak_rss_mb();
            format!(
                "step {step}/{total} loss {loss:.4} {tokens_per_s:.0} tokens/s {memory:.0} MiB, {left:.0} s left"
            )
        }
        TrainEvent::Validated { step, val_loss } => {
            format!("step {step}/{total} validation loss {val_loss:.4}")
        }
        TrainEvent::Evaluating { done, total } => format!("validating {done}/{total} tokens"),
    }
}
