//! One HTML page that shows a drill: figures, bars and plots, with nothing to load from elsewhere.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::score::Score;
use super::table::{by_kind, percent, span, two_digits};
use super::{DrillError, Report, ScenarioReport};

mod plot;

const STYLE: &str = include_str!("report/style.css");

/// Writes `DIR/index.html` and returns its path. The directory is made if it is missing.
///
/// # Errors
///
/// [`DrillError::Plot`] when a plot cannot be drawn, [`DrillError::Write`] when the file cannot be
/// written.
pub fn write(report: &Report, dir: &Path) -> Result<PathBuf, DrillError> {
    let page = render(report)?;
    let path = dir.join("index.html");
    std::fs::create_dir_all(dir)
        .and_then(|()| std::fs::write(&path, page))
        .map_err(|source| DrillError::Write {
            path: path.clone(),
            source,
        })?;
    Ok(path)
}

/// The page as text.
///
/// # Errors
///
/// [`DrillError::Plot`] when a plot cannot be drawn.
pub fn render(report: &Report) -> Result<String, DrillError> {
    let mut body = String::new();
    for scenario in &report.scenarios {
        body.push_str(&section(report, scenario)?);
    }
    let time = if report.real {
        "real time, over loopback HTTP"
    } else {
        "virtual time"
    };
    let links: String = report
        .scenarios
        .iter()
        .map(|s| {
            format!(
                "<li><a href=\"#{0}\">{0}</a></li>",
                escape(&s.scenario.name)
            )
        })
        .collect();
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>seawall drill, seed {seed}</title><style>{STYLE}</style></head><body>\n\
         <header><h1>seawall drill</h1>\
         <p>The same calls and the same faults, met by three clients: <b>seawall</b>, <b>sdk</b> (the \
         official SDKs' policy: two retries) and <b>naive</b> (one attempt). Seed {seed}, {time}.</p>\
         {stopped}{bars}<nav aria-label=\"Scenarios\"><ul>{links}</ul></nav></header>\n<main>{body}</main>\n\
         <footer>{notes}</footer></body></html>\n",
        seed = report.seed,
        stopped = stopped(report),
        bars = bars(report),
        notes = NOTES,
    ))
}

const NOTES: &str = "<h2>How to read the figures</h2><dl>\
<dt>Success</dt><dd>whole answers within the deadline, over calls made.</dd>\
<dt>Degraded</dt><dd>answers that were less than the wanted model's, and marked so: another model's, stale \
ones of a cache, fixed ones.</dd>\
<dt>In fault</dt><dd>attempts on the first model of the ladder sent during the fault.</dd>\
<dt>Detect</dt><dd>from the fault's start to the last attempt before the first pause of 0.75 s or more \
while somebody wanted an answer. A dash: no such pause.</dd>\
<dt>Recover</dt><dd>from the fault's end to the first whole answer of that model to an attempt sent \
after it.</dd>\
<dt>p50, p95, p99</dt><dd>times to answers that a model wrote for the call; what a cache or a fixed text \
gives takes none.</dd>\
<dt>Waited</dt><dd>from the fault's end to the last answer for a call that was pending then.</dd>\
<dt>Quota</dt><dd>admitted units over what the quota refills while any call was pending.</dd>\
<dt>Lost</dt><dd>calls neither answered nor, before their deadline, refused with a time to come back.</dd>\
<dt>In 10 s, per 1,000 later</dt><dd>429s to attempts of the first ten seconds, and to each thousand \
later ones.</dd>\
<dt>Of ideal</dt><dd>whole answers over those that the provider could have given at best while any call \
was pending.</dd>\
<dt>Finish</dt><dd>the last call's end over the time in which the provider could have served all calls at \
best.</dd>\
<dt>I ok</dt><dd>whole answers to interactive calls, over interactive calls made.</dd>\
<dt>I/b wait</dt><dd>99th percentile of the waits of interactive calls over that of batch calls; a wait is \
from the call to its first attempt, or without one to its end.</dd>\
<dt>Fair</dt><dd>Jain's index of the answers of equal tenants: 1 when each got as many as the others.\
</dd></dl>";

fn stopped(report: &Report) -> &'static str {
    if report.interrupted {
        "<p class=\"missed\">Stopped before its end: the last scenario is partial.</p>"
    } else {
        ""
    }
}

fn bars(report: &Report) -> String {
    let missed: Vec<_> = report.missed().collect();
    let checked: usize = report
        .scenarios
        .iter()
        .map(ScenarioReport::bars_checked)
        .sum();
    if checked == 0 {
        return String::new();
    }
    if missed.is_empty() {
        return format!("<p class=\"met\">All {checked} bars are met.</p>");
    }
    let items: String = missed
        .iter()
        .map(|miss| format!("<li>{}</li>", escape(&miss.to_string())))
        .collect();
    format!(
        "<div class=\"missed\"><p>{} of {checked} bars missed:</p><ul>{items}</ul></div>",
        missed.len()
    )
}

fn section(report: &Report, seen: &ScenarioReport) -> Result<String, DrillError> {
    let scenario = &seen.scenario;
    let name = escape(&scenario.name);
    let mut out = format!(
        "<section aria-labelledby=\"{name}\"><h2 id=\"{name}\">{name}</h2><p>{}</p>\
         <p>To run it again: <code>seawall drill {name} --seed {}{}</code></p>",
        escape(&scenario.about),
        report.seed,
        if report.real { " --real" } else { "" },
    );
    out.push_str(&table(seen));
    for plot in plot::all(seen)? {
        let _ok = write!(
            out,
            "<h3>{}</h3><p class=\"legend\">{}</p>",
            plot.title, plot.legend
        );
        out.push_str("<div class=\"plots\">");
        for (client, svg) in plot.panels {
            let _ok = write!(
                out,
                "<figure><div role=\"img\" aria-label=\"{title}, client {client}, scenario {name}\">\
                 {svg}</div><figcaption>{client}</figcaption></figure>",
                title = plot.title,
            );
        }
        out.push_str("</div>");
    }
    out.push_str("</section>\n");
    Ok(out)
}

type Cell = fn(&Score) -> String;

const COLUMNS: [(&str, Cell); 26] = [
    ("calls", |s| s.calls.to_string()),
    ("success", |s| percent(s.success_rate)),
    ("runs", |s| {
        s.runs_succeeded
            .zip(s.runs)
            .map_or_else(dash, |(won, all)| format!("{won}/{all}"))
    }),
    ("degraded", |s| s.degraded.to_string()),
    ("model/cache/static", |s| {
        by_kind(&s.degraded_by).unwrap_or_else(dash)
    }),
    ("refused", |s| s.refused.to_string()),
    ("lost", |s| s.lost.to_string()),
    ("attempts", |s| s.attempts.to_string()),
    ("a call", |s| format!("{:.2}", s.attempts_per_call)),
    ("in fault", |s| {
        s.attempts_during_fault.map_or_else(dash, |n| n.to_string())
    }),
    ("429", |s| s.provider_429.to_string()),
    ("in 10 s", |s| s.provider_429_first_10s.to_string()),
    ("per 1,000 later", |s| {
        s.provider_429_per_1000_after_10s
            .map_or_else(dash, two_digits)
    }),
    ("quota", |s| s.quota_used.map_or_else(dash, percent)),
    ("of ideal", |s| {
        s.throughput_over_ideal.map_or_else(dash, percent)
    }),
    ("finish", |s| {
        s.finish_over_ideal.map_or_else(dash, two_digits)
    }),
    ("i ok", |s| {
        s.interactive_success_rate.map_or_else(dash, percent)
    }),
    ("i/b wait", |s| {
        s.interactive_p99_wait_over_batch
            .map_or_else(dash, |share| format!("{share:.3}"))
    }),
    ("fair", |s| {
        s.fairness.map_or_else(dash, |index| format!("{index:.3}"))
    }),
    ("detect", |s| time(s.detect_ms)),
    ("recover", |s| time(s.recover_ms)),
    ("waited", |s| time(s.waiting_served_ms)),
    ("p50", |s| time(s.p50_ms)),
    ("p95", |s| time(s.p95_ms)),
    ("p99", |s| time(s.p99_ms)),
    ("left over", |s| s.in_flight_at_end.to_string()),
];

fn table(seen: &ScenarioReport) -> String {
    let name = escape(&seen.scenario.name);
    let mut out = format!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Figures of {name}\"><table>\
         <caption>Figures of {name}</caption><thead><tr><th scope=\"col\">client</th>"
    );
    // A figure that nobody has here is no column.
    let told = |cell: Cell| seen.clients.iter().any(|c| cell(&c.score) != dash());
    let columns: Vec<_> = COLUMNS
        .into_iter()
        .filter(|(_, cell)| told(*cell))
        .collect();
    for (head, _) in &columns {
        let _ok = write!(out, "<th scope=\"col\">{head}</th>");
    }
    out.push_str("</tr></thead><tbody>");
    for client in &seen.clients {
        let _ok = write!(out, "<tr><th scope=\"row\">{}</th>", client.kind.as_str());
        for (_, cell) in &columns {
            let _ok = write!(out, "<td>{}</td>", cell(&client.score));
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div>");
    out.push_str(&classes(seen));
    out
}

/// What became of each class of calls.
fn classes(seen: &ScenarioReport) -> String {
    if seen.scenario.load.mix().is_none() {
        return String::new();
    }
    let name = escape(&seen.scenario.name);
    let mut out = format!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Classes of {name}\"><table>\
         <caption>Classes of {name}</caption><thead><tr><th scope=\"col\">client</th>"
    );
    for head in [
        "class",
        "calls",
        "answered",
        "told to come back",
        "lost",
        "p50 wait",
        "p99 wait",
    ] {
        let _ok = write!(out, "<th scope=\"col\">{head}</th>");
    }
    out.push_str("</tr></thead><tbody>");
    for client in &seen.clients {
        for (class, score) in client.score.classes.iter().flatten() {
            let _ok = write!(
                out,
                "<tr><th scope=\"row\">{}</th><td>{class}</td><td>{}</td><td>{}</td><td>{}</td>\
                 <td>{}</td><td>{}</td><td>{}</td></tr>",
                client.kind.as_str(),
                score.calls,
                score.succeeded,
                score.told_to_come_back,
                score.lost,
                time(score.p50_wait_ms),
                time(score.p99_wait_ms),
            );
        }
    }
    out.push_str("</tbody></table></div>");
    out
}

fn time(ms: Option<u64>) -> String {
    ms.map_or_else(dash, |_| span(ms))
}

fn dash() -> String {
    "–".to_owned()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_cannot_write_into_the_page() {
        assert_eq!(
            escape("<a href=\"x\">&"),
            "&lt;a href=&quot;x&quot;&gt;&amp;"
        );
    }
}
