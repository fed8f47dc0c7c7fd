//! From samples to ratios, and the table of them.

use std::fmt::Write as _;
use std::io::Write;
use std::time::Duration;

use crate::Outcome;
use crate::load::Seen;

/// What one run on one process came to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sample {
    pub(crate) per_second: f64,
    pub(crate) cpu_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) first_p50_us: f64,
    pub(crate) first_p99_us: f64,
}

impl Sample {
    pub(crate) fn new(seen: &mut Seen, cpu: Duration) -> Self {
        let answers = f64::from(u32::try_from(seen.totals.len()).unwrap_or(u32::MAX)).max(1.0);
        Self {
            per_second: answers / seen.took.as_secs_f64(),
            cpu_us: micros(cpu) / answers,
            p50_us: percentile(&mut seen.totals, 50),
            p99_us: percentile(&mut seen.totals, 99),
            first_p50_us: percentile(&mut seen.firsts, 50),
            first_p99_us: percentile(&mut seen.firsts, 99),
        }
    }
}

pub(crate) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn percentile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    let at = times.len().saturating_mul(percent) / 100;
    let last = times.len().saturating_sub(1);
    times.get(at.min(last)).map_or(0.0, |&time| micros(time))
}

/// What a figure has to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Bar {
    AtLeast(f64),
    AtMost(f64),
    None,
}

/// Samples of one round, one a column: the upstream itself, the pass-through, seawall.
pub(crate) type Round = [Sample; 3];

struct Row {
    name: &'static str,
    values: [f64; 3],
    figure: f64,
    /// The lowest and the highest of all rounds.
    spread: [f64; 2],
    is_ratio: bool,
    bar: Bar,
}

impl Row {
    fn holds(&self) -> bool {
        match self.bar {
            Bar::AtLeast(least) => self.figure >= least,
            Bar::AtMost(most) => self.figure <= most,
            Bar::None => true,
        }
    }
}

/// Every figure so far.
pub(crate) struct Table {
    name: &'static str,
    columns: [&'static str; 3],
    rows: Vec<Row>,
}

impl Table {
    pub(crate) const fn new(name: &'static str, columns: [&'static str; 3]) -> Self {
        Self {
            name,
            columns,
            rows: Vec::new(),
        }
    }

    /// The second column over the first.
    pub(crate) fn second(
        &mut self,
        name: &'static str,
        bar: Bar,
        rounds: &[Round],
        of: impl Fn(&Sample) -> f64,
    ) {
        let figure = |[first, second, _]: &[f64; 3]| second / first;
        self.add((name, true, bar), rounds, of, figure);
    }

    /// The third column over the first.
    pub(crate) fn third(
        &mut self,
        name: &'static str,
        bar: Bar,
        rounds: &[Round],
        of: impl Fn(&Sample) -> f64,
    ) {
        let figure = |[first, _, third]: &[f64; 3]| third / first;
        self.add((name, true, bar), rounds, of, figure);
    }

    /// Seawall's value over the pass-through's.
    pub(crate) fn row(
        &mut self,
        name: &'static str,
        bar: Bar,
        rounds: &[Round],
        of: impl Fn(&Sample) -> f64,
    ) {
        let figure = |[_, plain, seawall]: &[f64; 3]| seawall / plain;
        self.add((name, true, bar), rounds, of, figure);
    }

    /// What seawall adds to the upstream's value, over what the pass-through adds to it.
    pub(crate) fn added(
        &mut self,
        name: &'static str,
        bar: Bar,
        rounds: &[Round],
        of: impl Fn(&Sample) -> f64,
    ) {
        let figure = |[direct, plain, seawall]: &[f64; 3]| (seawall - direct) / (plain - direct);
        self.add((name, true, bar), rounds, of, figure);
    }

    /// What seawall's value is above the pass-through's.
    pub(crate) fn difference(
        &mut self,
        name: &'static str,
        bar: Bar,
        rounds: &[Round],
        of: impl Fn(&Sample) -> f64,
    ) {
        let figure = |[_, plain, seawall]: &[f64; 3]| seawall - plain;
        self.add((name, false, bar), rounds, of, figure);
    }

    fn add(
        &mut self,
        (name, is_ratio, bar): (&'static str, bool, Bar),
        rounds: &[Round],
        of: impl Fn(&Sample) -> f64,
        figure: impl Fn(&[f64; 3]) -> f64,
    ) {
        let values: Vec<[f64; 3]> = rounds
            .iter()
            .map(|[direct, plain, seawall]| [of(direct), of(plain), of(seawall)])
            .collect();
        let [a, b, c] = [0, 1, 2]
            .map(|column: usize| median(values.iter().filter_map(|row| row.get(column).copied())));
        let figures: Vec<f64> = values.iter().map(figure).collect();
        let lowest = figures.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = figures.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        self.rows.push(Row {
            name,
            values: [a, b, c],
            figure: median(figures.into_iter()),
            spread: [lowest, highest],
            is_ratio,
            bar,
        });
    }

    /// Whether every bar holds.
    pub(crate) fn holds(&self) -> bool {
        self.rows.iter().all(Row::holds)
    }

    /// Writes the table, then the same as one line of JSON.
    pub(crate) fn print(&self, out: &mut impl Write) -> Outcome<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let [a, b, c] = self.columns;
        let mut text = format!(
            "{:<50} {a:>12} {b:>14} {c:>14} {:>9}  {:<15}  bar\n",
            "", "", "rounds"
        );
        for row in &self.rows {
            let [a, b, c] = row.values;
            let [lowest, highest] = row.spread;
            let (figure, spread) = if row.is_ratio {
                let figure = format!("{:.2} ×", row.figure);
                (figure, format!("{lowest:.2} to {highest:.2}"))
            } else {
                let figure = format!("{:+.1}", row.figure);
                (figure, format!("{lowest:+.1} to {highest:+.1}"))
            };
            let bar = match row.bar {
                Bar::AtLeast(least) => format!("≥ {least}"),
                Bar::AtMost(most) => format!("≤ {most}"),
                Bar::None => String::new(),
            };
            let missed = if row.holds() { "" } else { "  MISSED" };
            let name = row.name;
            writeln!(
                text,
                "{name:<50} {a:>12.1} {b:>14.1} {c:>14.1} {figure:>9}  {spread:<15}  {bar}{missed}"
            )?;
        }
        let rows = self.rows.iter().map(|row| json(row, self.columns));
        let rows: Vec<serde_json::Value> = rows.collect();
        let name = self.name;
        writeln!(text, "{}", serde_json::json!({ name: rows }))?;
        Ok(out.write_all(text.as_bytes())?)
    }
}

fn json(row: &Row, [a, b, c]: [&str; 3]) -> serde_json::Value {
    let [first, second, third] = row.values;
    let (least, most) = match row.bar {
        Bar::AtLeast(least) => (Some(least), None),
        Bar::AtMost(most) => (None, Some(most)),
        Bar::None => (None, None),
    };
    serde_json::json!({
        "figure": row.name,
        a.replace(['-', ' '], "_"): first,
        b.replace(['-', ' '], "_"): second,
        c.replace(['-', ' '], "_"): third,
        "value": row.figure,
        "rounds": row.spread,
        "is_ratio": row.is_ratio,
        "at_least": least,
        "at_most": most,
        "holds": row.holds(),
    })
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = values.get(middle).copied().unwrap_or_default();
    if values.len() % 2 == 1 {
        return upper;
    }
    let lower = values.get(middle.saturating_sub(1)).copied();
    lower.map_or(upper, |lower| f64::midpoint(lower, upper))
}
