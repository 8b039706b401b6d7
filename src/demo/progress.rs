//! Progress of a step: a bar on a terminal, plain lines elsewhere, and the time it took.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

const TICK: std::time::Duration = std::time::Duration::from_millis(100);

#[derive(Clone, Debug)]
pub(super) struct Phase {
    bar: ProgressBar,
    begun: Instant,
}

impl Phase {
    /// `total` is the count at which [`Phase::at`] is complete.
    pub(super) fn begin(title: &str, total: Option<u64>) -> Self {
        let bar = if std::io::stderr().is_terminal() {
            let (bar, template) = match total {
                Some(total) => (ProgressBar::new(total), "  {msg:34} {bar:40} {human_pos}/{human_len} {per_sec}"),
                None => (ProgressBar::new_spinner(), "  {msg} {spinner}"),
            };
            let style = ProgressStyle::with_template(template);
            let bar = bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(TICK);
            bar.with_message(title.to_owned())
        } else {
            eprintln!("  {title} …");
            ProgressBar::hidden()
        };
        Self { bar, begun: Instant::now() }
    }

    pub(super) fn at(&self, done: u64) {
        self.bar.set_position(done);
    }

    pub(super) fn add(&self, more: u64) {
        self.bar.inc(more);
    }

    pub(super) fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    /// Ends the step and prints its result.
    pub(super) fn done(self, what: &str) {
        let seconds = self.seconds();
        self.bar.finish_and_clear();
        println!("✓ {what} ({seconds:.1} s)");
    }
}
