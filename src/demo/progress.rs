//! A step of the journey as people see it: a bar on a terminal, plain lines elsewhere; how long it took.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

const STEADY: std::time::Duration = std::time::Duration::from_millis(100);

/// A step that is under way.
#[derive(Clone, Debug)]
pub(super) struct Phase {
    bar: ProgressBar,
    begun: Instant,
}

impl Phase {
    /// Begins; `total` is what [`Phase::at`] counts towards.
    pub(super) fn begin(title: &str, total: Option<u64>) -> Self {
        let bar = if std::io::stderr().is_terminal() {
            let (bar, template) = match total {
                Some(total) => (ProgressBar::new(total), "  {msg:34} {bar:40} {human_pos}/{human_len} {per_sec}"),
                None => (ProgressBar::new_spinner(), "  {msg} {spinner}"),
            };
            let style = ProgressStyle::with_template(template);
            let bar = bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(STEADY);
            bar.with_message(title.to_owned())
        } else {
            eprintln!("  {title} …");
            ProgressBar::hidden()
        };
        Self { bar, begun: Instant::now() }
    }

    /// So many are done.
    pub(super) fn at(&self, done: u64) {
        self.bar.set_position(done);
    }

    /// So many more are done.
    pub(super) fn add(&self, more: u64) {
        self.bar.inc(more);
    }

    /// Seconds since it began.
    pub(super) fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    /// It is done and this is so.
    pub(super) fn done(self, what: &str) {
        let seconds = self.seconds();
        self.bar.finish_and_clear();
        println!("✓ {what} ({seconds:.1} s)");
    }
}
