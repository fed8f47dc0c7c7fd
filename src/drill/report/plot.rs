//! The plots of a scenario: answers, attempts and latency over time, the same axes for each client.

use std::fmt::{Display, Write};
use std::time::Duration;

use plotters::backend::SVGBackend;
use plotters::chart::ChartBuilder;
use plotters::drawing::IntoDrawingArea;
use plotters::element::Rectangle;
use plotters::series::LineSeries;
use plotters::style::{Color, RGBColor, ShapeStyle};

use super::super::client::Ended;
use super::super::meter::{AttemptEnd, AttemptRecord};
use super::super::score::{CallRecord, percentile};
use super::super::{ClientReport, DrillError, ScenarioReport};

// Okabe and Ito's palette, told apart by people with any colour vision.
const GREEN: RGBColor = RGBColor(0, 158, 115);
const BLUE: RGBColor = RGBColor(0, 114, 178);
const ORANGE: RGBColor = RGBColor(230, 159, 0);
const VERMILION: RGBColor = RGBColor(213, 94, 0);
const PURPLE: RGBColor = RGBColor(204, 121, 167);
const FAULT: RGBColor = RGBColor(235, 235, 235);
const SIZE: (u32, u32) = (460, 240);
const BUCKETS: f64 = 90.0;

/// One row of panels.
#[derive(Debug)]
pub(super) struct Plot {
    pub(super) title: &'static str,
    pub(super) legend: String,
    /// Client and its drawing.
    pub(super) panels: Vec<(&'static str, String)>,
}

/// One line of a panel: its value in each bucket of time.
struct Line {
    name: &'static str,
    colour: RGBColor,
    points: Vec<(f64, f64)>,
}

/// Time cut into buckets, with the fault as (from, until) in seconds.
#[derive(Debug, Clone, Copy)]
struct Axis {
    seconds: f64,
    bucket: f64,
    fault: Option<(f64, f64)>,
}

/// Draws every plot of a scenario.
pub(super) fn all(seen: &ScenarioReport) -> Result<Vec<Plot>, DrillError> {
    let seconds = seen.lasted.as_secs_f64().max(1.0);
    let fault = seen
        .scenario
        .fault
        .map(|f| (f.from.as_secs_f64(), f.until.as_secs_f64()));
    let bucket = (seconds / BUCKETS).ceil().max(1.0);
    let axis = Axis {
        seconds,
        bucket,
        fault,
    };
    let wide = Axis {
        bucket: bucket * 3.0,
        ..axis
    };
    Ok(vec![
        row("Calls ended, a second", seen, axis, |client| {
            outcomes(client, axis)
        })?,
        row("Attempts sent, a second", seen, axis, |client| {
            attempts(client, axis)
        })?,
        row("Seconds to an answer", seen, wide, |client| {
            latency(client, wide)
        })?,
    ])
}

fn row(
    title: &'static str,
    seen: &ScenarioReport,
    axis: Axis,
    lines: impl Fn(&ClientReport) -> Vec<Line>,
) -> Result<Plot, DrillError> {
    let drawn: Vec<_> = seen
        .clients
        .iter()
        .map(|c| (c.kind.as_str(), lines(c)))
        .collect();
    let values = drawn
        .iter()
        .flat_map(|(_, lines)| lines)
        .flat_map(|line| &line.points);
    let top = values.map(|point| point.1).fold(0.0, f64::max).max(0.1) * 1.08;
    let mut legend = String::new();
    for line in drawn.first().map_or(&[][..], |(_, lines)| lines) {
        let RGBColor(r, g, b) = line.colour;
        let key = "<span><span class=\"key\" style=\"background:";
        let _ok = write!(
            legend,
            "{key}rgb({r},{g},{b})\"></span>{}</span>",
            line.name
        );
    }
    if axis.fault.is_some() {
        let _ok = write!(
            legend,
            "<span><span class=\"key\" style=\"background:#ccc\"></span>fault</span>"
        );
    }
    let panels = drawn
        .into_iter()
        .map(|(client, lines)| Ok((client, draw(axis, top, &lines)?)))
        .collect::<Result<_, DrillError>>()?;
    Ok(Plot {
        title,
        legend,
        panels,
    })
}

fn draw(axis: Axis, top: f64, lines: &[Line]) -> Result<String, DrillError> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .margin(6)
            .x_label_area_size(26)
            .y_label_area_size(40)
            .build_cartesian_2d(0.0..axis.seconds, 0.0..top)
            .map_err(failed)?;
        if let Some((from, until)) = axis.fault {
            let shade = ShapeStyle::from(&FAULT).filled();
            chart
                .draw_series([Rectangle::new([(from, 0.0), (until, top)], shade)])
                .map_err(failed)?;
        }
        chart
            .configure_mesh()
            .light_line_style(RGBColor(245, 245, 245))
            .x_labels(7)
            .y_labels(5)
            .x_label_formatter(&|seconds| format!("{seconds:.0} s"))
            .y_label_formatter(&|value| format!("{value:.*}", usize::from(top < 10.0)))
            .draw()
            .map_err(failed)?;
        for line in lines {
            let style = line.colour.stroke_width(2);
            for run in runs(&line.points, axis.bucket) {
                // A line of one point would not be seen.
                let dot = if run.len() == 1 { 2 } else { 0 };
                chart
                    .draw_series(LineSeries::new(run.iter().copied(), style).point_size(dot))
                    .map_err(failed)?;
            }
        }
        root.present().map_err(failed)?;
    }
    // The page carries the label and scales the drawing.
    let fixed = format!("<svg width=\"{}\" height=\"{}\" ", SIZE.0, SIZE.1);
    Ok(svg.replacen(&fixed, "<svg aria-hidden=\"true\" ", 1))
}

/// Where a bucket has no value there is nothing to draw, least of all a line across it.
fn runs(points: &[(f64, f64)], bucket: f64) -> impl Iterator<Item = &[(f64, f64)]> {
    points.chunk_by(move |one, next| next.0 - one.0 < 1.5 * bucket)
}

fn failed(error: impl Display) -> DrillError {
    DrillError::Plot {
        why: error.to_string(),
    }
}

fn outcomes(client: &ClientReport, axis: Axis) -> Vec<Line> {
    let rate = |name, colour, chosen: fn(&Ended) -> bool| {
        let times = client
            .calls
            .iter()
            .filter(|c| chosen(&c.end))
            .map(|c| c.ended);
        Line {
            name,
            colour,
            points: rates(axis, times),
        }
    };
    vec![
        rate("failed", VERMILION, |e| {
            matches!(e, Ended::Failed { .. } | Ended::HalfAnswered)
        }),
        rate("refused", ORANGE, |e| matches!(e, Ended::Refused { .. })),
        rate(
            "answered by less",
            BLUE,
            |e| matches!(e, Ended::Answered { by } if by.degraded().is_some()),
        ),
        rate(
            "answered",
            GREEN,
            |e| matches!(e, Ended::Answered { by } if by.degraded().is_none()),
        ),
    ]
}

fn attempts(client: &ClientReport, axis: Axis) -> Vec<Line> {
    let rate = |name, colour, chosen: fn(&AttemptRecord) -> bool| {
        let times = client
            .attempts
            .iter()
            .filter(|a| chosen(a))
            .map(|a| a.started);
        Line {
            name,
            colour,
            points: rates(axis, times),
        }
    };
    vec![
        rate("5xx", VERMILION, |a| {
            a.status.is_some_and(|status| status >= 500)
        }),
        rate("429", ORANGE, |a| a.status == Some(429)),
        rate("broken or left", PURPLE, |a| {
            a.status.is_none_or(|status| status < 300) && a.end != AttemptEnd::Whole
        }),
        rate("whole", GREEN, AttemptRecord::succeeded),
    ]
}

fn latency(client: &ClientReport, axis: Axis) -> Vec<Line> {
    let mut buckets = vec![Vec::new(); buckets(axis)];
    for call in client.calls.iter().filter(|call| call.by_target()) {
        if let Some(bucket) = buckets.get_mut(index(axis, call.ended)) {
            bucket.push(CallRecord::took(call));
        }
    }
    for bucket in &mut buckets {
        bucket.sort_unstable();
    }
    let line = |name, colour, percent| {
        let values = buckets.iter().map(|sorted| percentile(sorted, percent));
        let points = values
            .zip(middles(axis))
            .filter_map(|(ms, at)| Some((at, Duration::from_millis(ms?).as_secs_f64())))
            .collect();
        Line {
            name,
            colour,
            points,
        }
    };
    vec![
        line("p99", VERMILION, 99),
        line("p95", ORANGE, 95),
        line("p50", BLUE, 50),
    ]
}

fn rates(axis: Axis, times: impl Iterator<Item = Duration>) -> Vec<(f64, f64)> {
    let mut counts = vec![0_u32; buckets(axis)];
    for time in times {
        if let Some(count) = counts.get_mut(index(axis, time)) {
            *count += 1;
        }
    }
    middles(axis)
        .zip(counts)
        .map(|(at, count)| (at, f64::from(count) / axis.bucket))
        .collect()
}

fn middles(axis: Axis) -> impl Iterator<Item = f64> {
    (0_u32..).map(move |n| ((f64::from(n) + 0.5) * axis.bucket).min(axis.seconds))
}

fn buckets(axis: Axis) -> usize {
    index(axis, Duration::from_secs_f64(axis.seconds)) + 1
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "float-to-int casts saturate, and both sides are positive"
)]
fn index(axis: Axis, at: Duration) -> usize {
    (at.as_secs_f64() / axis.bucket) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_crosses_what_was_not_measured() {
        let points = [
            (5.0, 1.0),
            (15.0, 1.0),
            (65.0, 60.0),
            (85.0, 1.0),
            (94.0, 1.0),
        ];
        let found: Vec<_> = runs(&points, 10.0).map(<[_]>::len).collect();
        assert_eq!(found, [2, 1, 2]);
    }

    #[test]
    fn a_panel_is_an_svg_that_scales() {
        let axis = Axis {
            seconds: 180.0,
            bucket: 2.0,
            fault: Some((60.0, 120.0)),
        };
        let times = (0..1_800).map(|n| Duration::from_millis(n * 100));
        let line = Line {
            name: "answered",
            colour: GREEN,
            points: rates(axis, times),
        };
        assert!(
            line.points[..90]
                .iter()
                .all(|point| (point.1 - 10.0).abs() < 1e-9)
        );
        let svg = draw(axis, 12.0, &[line]).unwrap();
        assert!(
            svg.starts_with("<svg aria-hidden=\"true\" viewBox="),
            "{}",
            &svg[..120]
        );
        assert!(svg.contains("polyline") && svg.contains("100 s"));
    }
}
