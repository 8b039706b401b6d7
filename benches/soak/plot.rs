//! The plot of a soak: one small panel per thing that has to stay flat, as SVG by hand.

use std::fmt::Write;

use super::watch::Sample;

const WIDTH: f64 = 900.0;
const PANEL: f64 = 110.0;
const LEFT: f64 = 10.0;
/// Points of a panel at most; more are not distinguishable at this size.
const POINTS_MAX: usize = 900;

/// A panel: its title and the sample it draws.
type Panel = (&'static str, fn(&Sample) -> u64);

const PANELS: [Panel; 6] = [
    ("resident memory, MiB", |s| s.resident_mib),
    ("file handles", |s| s.handles),
    ("processor, % of a core", |s| s.cpu_percent),
    ("disk with directory bucket, MiB", |s| s.disk_mib),
    ("records not in the bucket yet", |s| s.archive_lag_records),
    ("records not in the table yet", |s| s.table_lag_records),
];

pub fn svg(samples: &[Sample]) -> String {
    let height = PANEL * PANELS.len() as f64 + 30.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"12\"><rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let end = samples.last().map_or(1.0, |sample| sample.second.max(1.0));
    for (n, (title, of)) in PANELS.iter().enumerate() {
        panel(&mut out, PANEL * n as f64 + 20.0, title, samples, end, *of);
    }
    let last = samples.last().cloned().unwrap_or_default();
    let below = height - 8.0;
    let text = format!("{:.0} minutes, {} records produced, {} read", end / 60.0, last.produced, last.consumed);
    writeln!(out, "<text x=\"{LEFT}\" y=\"{below}\">{text}</text>\n</svg>").expect("text");
    out
}

fn panel(out: &mut String, top: f64, title: &str, samples: &[Sample], end: f64, of: fn(&Sample) -> u64) {
    let greatest = samples.iter().map(of).max().unwrap_or(0).max(1);
    let (inner, width) = (PANEL - 30.0, WIDTH - 2.0 * LEFT);
    let step = samples.len().div_ceil(POINTS_MAX).max(1);
    let points: Vec<String> = samples
        .chunks(step)
        .filter_map(|chunk| {
            let (first, value) = (chunk.first()?, chunk.iter().map(of).max()?);
            let (x, y) = (LEFT + width * first.second / end, top + inner - inner * value as f64 / greatest as f64);
            Some(format!("{x:.1},{y:.1}"))
        })
        .collect();
    let frame = format!("x=\"{LEFT}\" y=\"{top}\" width=\"{width}\" height=\"{inner}\" fill=\"none\" stroke=\"#ccc\"");
    writeln!(out, "<rect {frame}/><text x=\"{LEFT}\" y=\"{:.0}\">{title}, at most {greatest}</text>", top - 5.0)
        .expect("text");
    writeln!(out, "<polyline points=\"{}\" fill=\"none\" stroke=\"#06c\"/>", points.join(" ")).expect("text");
}
