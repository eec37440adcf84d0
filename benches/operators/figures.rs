//! What a group measured, beside the copy and what it stands in for: a table on stdout, and lines of JSON in the file
//! `LIGHTSPAN_BENCH_JSON`.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::time::Duration;

use crate::support::Line;

/// What the copies of a group are called.
pub(crate) const COPY: &str = "copy";

/// What a line is set against, where its group has them for the same parameter: how much longer each takes.
const BASELINES: [&str; 6] =
    ["naive attention", "fused attention", "local attention", "Transformer", "unfused", "product"];

/// One line of a group.
struct Figure {
    line: Line,
    /// What a call must move at least.
    bytes: u64,
    /// The median of a call.
    seconds: f64,
}

#[derive(Default)]
pub(crate) struct Figures(Vec<Figure>);

impl Figures {
    /// Adds a line by its samples, calls and their time; none where it was filtered out.
    pub(crate) fn add(&mut self, line: Line, bytes: u64, samples: &[(u64, Duration)]) {
        if !samples.is_empty() {
            self.0.push(Figure { line, bytes, seconds: median(samples) });
        }
    }

    /// Prints what there is; nothing where nothing was measured, or calls only ran to see that they do.
    pub(crate) fn report(&self, group: &str, device: &str) -> io::Result<()> {
        if self.0.is_empty() || !measuring() {
            return Ok(());
        }
        let mut table = format!("{group}, {device}\n");
        let baselines: Vec<&str> = BASELINES
            .into_iter()
            .filter(|baseline| self.0.iter().any(|figure| self.ratio(figure, baseline).is_some()))
            .collect();
        table.push_str(&format!("{:40} {:>12} {:>12} {:>14}", "", "a call", "speed", "of the copy's"));
        table.extend(baselines.iter().map(|baseline| format!(" {baseline:>16}")));
        table.push('\n');
        let mut json = String::new();
        for figure in &self.0 {
            let Line { what, parameter } = &figure.line;
            let share = self.share(figure);
            let ratios = baselines.iter().map(|baseline| (*baseline, self.ratio(figure, baseline)));
            let percent = share.map_or("-".to_owned(), |share| format!("{:.0} %", 100.0 * share));
            let (time, speed) =
                (format!("{:.1} us", 1e6 * figure.seconds), format!("{:.2} GB/s", 1e-9 * figure.speed()));
            let name = figure.line.to_string();
            table.push_str(&format!("  {name:38} {time:>12} {speed:>12} {percent:>14}"));
            table.extend(ratios.clone().map(|(_, ratio)| {
                format!(" {:>16}", ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2} times")))
            }));
            table.push('\n');
            let ratios: String = ratios
                .filter_map(|(baseline, ratio)| Some(format!(", \"{baseline}\": {:.4}", ratio?)))
                .collect();
            // None of the names has a character that Rust and JSON write differently.
            json.push_str(&format!(
                "{{\"group\": {group:?}, \"device\": {device:?}, \"benchmark\": {what:?}, \"parameter\": {parameter:?}, \
                 \"seconds\": {:e}, \"bytes\": {}, \"bytes_per_second\": {:e}, \"share_of_copy\": {}{ratios}}}\n",
                figure.seconds,
                figure.bytes,
                figure.speed(),
                share.map_or("null".to_owned(), |share| format!("{share:.4}")),
            ));
        }
        println!("{table}");
        match std::env::var_os("LIGHTSPAN_BENCH_JSON") {
            Some(path) => OpenOptions::new().create(true).append(true).open(path)?.write_all(json.as_bytes()),
            None => Ok(()),
        }
    }

    /// The speed of a line over that of the copy which moves most nearly as many bytes.
    fn share(&self, figure: &Figure) -> Option<f64> {
        let copies = self.0.iter().filter(|figure| figure.line.what == COPY);
        let copy = copies.min_by_key(|copy| copy.bytes.abs_diff(figure.bytes))?;
        Some(figure.speed() / copy.speed())
    }

    /// How many times as long a baseline takes for the same parameter: attention, or what the line is without fusing.
    fn ratio(&self, figure: &Figure, baseline: &str) -> Option<f64> {
        let Line { what, parameter } = &figure.line;
        // A copy is set against nothing, and attention not against itself.
        if what == COPY || what == baseline {
            return None;
        }
        let unfused = format!("{what} {baseline}");
        let named = |line: &Line| line.what == baseline || line.what == unfused;
        let found = self.0.iter().find(|other| named(&other.line) && other.line.parameter == *parameter)?;
        Some(found.seconds / figure.seconds)
    }
}

impl Figure {
    fn speed(&self) -> f64 {
        self.bytes as f64 / self.seconds
    }
}

/// Whether calls are measured, and not just run once to see that they do: as criterion decides it.
pub(crate) fn measuring() -> bool {
    let given = |flag: &str| std::env::args().any(|arg| arg == flag);
    given("--bench") && !given("--test")
}

/// Seconds of the call in the middle, by the mean of its sample: short samples, as those of the warm-up, count little.
fn median(samples: &[(u64, Duration)]) -> f64 {
    let mut samples: Vec<(u64, f64)> =
        samples.iter().map(|&(calls, time)| (calls, time.as_secs_f64() / calls as f64)).collect();
    samples.sort_by(|(_, one), (_, other)| one.total_cmp(other));
    let all: u64 = samples.iter().map(|(calls, _)| calls).sum();
    let mut until = 0;
    let middle = samples.iter().find(|(calls, _)| {
        until += calls;
        2 * until >= all
    });
    middle.map_or(f64::NAN, |(_, seconds)| *seconds)
}

/// Panics unless figures are what they are said to be.
pub(crate) fn check() {
    let seconds = Duration::from_secs;
    // Of eleven calls, the sixth: one of the eight that took 2 seconds each.
    assert_eq!(median(&[(1, seconds(9)), (8, seconds(16)), (2, seconds(2))]), 2.0);
    let mut figures = Figures::default();
    for (what, bytes, time) in [("slow", 90, 3), (COPY, 100, 1), (COPY, 10, 1)] {
        figures.add(Line::new(what, 1), bytes, &[(1, seconds(time)); 2]);
    }
    figures.add(Line::new("filtered out", 1), 1, &[]);
    let shares: Vec<f64> = figures.0.iter().filter_map(|figure| figures.share(figure)).collect();
    assert_eq!(shares, [0.3, 1.0, 1.0]);

    let mut figures = Figures::default();
    for (what, length, time) in [
        ("conv", 1, 2),
        ("conv unfused", 1, 6),
        ("fused attention", 1, 8),
        ("fused attention", 2, 99),
        (COPY, 1, 1),
    ] {
        figures.add(Line::new(what, length), 1, &[(1, seconds(time))]);
    }
    let ratios =
        |baseline| figures.0.iter().map(|figure| figures.ratio(figure, baseline)).collect::<Vec<_>>();
    assert_eq!(ratios("unfused"), [Some(3.0), None, None, None, None]);
    assert_eq!(ratios("fused attention"), [Some(4.0), Some(8.0 / 6.0), None, None, None]);
    assert_eq!(ratios("local attention"), [None; 5]);
}
