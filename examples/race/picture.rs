//! The results as a picture: time or speed against length, both logarithmic.

use std::error::Error;

use plotters::element::DashedPathElement;
use plotters::prelude::*;

use crate::round::{Measurement, Racer, Round};

const SIZE: (u32, u32) = (960, 640);
/// Pixels of the titles above the chart.
const HEAD: u32 = 84;
const INK: RGBColor = RGBColor(40, 40, 40);
const GRID: RGBColor = RGBColor(225, 225, 225);
const FONT: &str = "Helvetica, Arial, sans-serif";
/// Labels closer than this, as a part of the axis, would run into one another.
const LABEL_DISTANCE: f64 = 0.06;

/// What is drawn.
pub(crate) struct Picture {
    pub(crate) title: &'static str,
    pub(crate) subtitle: String,
    /// What the y axis has.
    pub(crate) what: &'static str,
    /// Behind the numbers of the y axis.
    pub(crate) unit: &'static str,
    pub(crate) value: fn(&Round, &Measurement) -> f64,
    /// Where the names have room.
    pub(crate) names: SeriesLabelPosition,
}

/// The picture as SVG. Convolutions are solid, attention is dashed.
pub(crate) fn draw(picture: &Picture, rounds: &[Round]) -> Result<String, Box<dyn Error>> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let (head, body) = root.split_vertically(HEAD);
        let text = |size: u32| (FONT, size).into_font().color(&INK);
        head.draw_text(picture.title, &text(26), (24, 20))?;
        head.draw_text(&picture.subtitle, &text(16), (24, 54))?;
        chart(&body, picture, rounds)?;
        root.present()?;
    }
    Ok(svg)
}

fn chart(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    picture: &Picture,
    rounds: &[Round],
) -> Result<(), Box<dyn Error>> {
    let lengths: Vec<f64> = rounds.iter().map(|round| round.length as f64).collect();
    let racers: Vec<Racer> =
        rounds.first().map_or(vec![], |round| round.results.iter().map(|(racer, _)| *racer).collect());
    let lines: Vec<Vec<(f64, f64)>> = racers.iter().map(|racer| line(picture, rounds, *racer)).collect();
    let x = padded(lengths.iter().copied(), 1.15);
    let y = whole_decade(padded(lines.iter().flatten().map(|(_, y)| *y), 1.6));

    let mut chart = ChartBuilder::on(area)
        .margin_left(20)
        .margin_right(28)
        .margin_bottom(16)
        .x_label_area_size(52)
        .y_label_area_size(88)
        .build_cartesian_2d(
            (x.0..x.1).log_scale().with_key_points(spaced(&lengths, x)),
            (y.0..y.1).log_scale().with_key_points(powers_of_ten(y)),
        )?;
    let label = (FONT, 15).into_font().color(&INK);
    chart
        .configure_mesh()
        .axis_style(INK)
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .label_style(label.clone())
        .axis_desc_style(label.clone())
        .x_desc("sequence length, tokens")
        .y_desc(picture.what)
        .x_label_formatter(&|length| length.to_string())
        .y_label_formatter(&|value| format!("{value}{}", picture.unit))
        .draw()?;

    for (racer, points) in racers.into_iter().zip(lines) {
        let (red, green, blue) = racer.colour;
        let colour = RGBColor(red, green, blue);
        let stroke = colour.stroke_width(3);
        let sample = |(x, y): (i32, i32)| [(x, y), (x + 34, y)];
        if racer.dashed {
            let dashed = DashedLineSeries::new(points.clone(), 9, 6, stroke);
            chart
                .draw_series(dashed)?
                .label(racer.name)
                .legend(move |at| DashedPathElement::new(sample(at), 9, 6, stroke));
        } else {
            chart
                .draw_series(LineSeries::new(points.iter().copied(), stroke))?
                .label(racer.name)
                .legend(move |at| PathElement::new(sample(at), stroke));
        }
        chart.draw_series(points.into_iter().map(|point| Circle::new(point, 4, colour.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(picture.names.clone())
        .margin(16)
        .legend_area_size(44)
        .label_font(label)
        .background_style(WHITE)
        .border_style(GRID)
        .draw()?;
    Ok(())
}

/// What a racer reached at each length.
fn line(picture: &Picture, rounds: &[Round], racer: Racer) -> Vec<(f64, f64)> {
    let point = |round: &Round| {
        let result = round.measurement(racer)?;
        Some((round.length as f64, (picture.value)(round, result)))
    };
    rounds.iter().filter_map(point).collect()
}

/// From the smallest to the largest, and a factor more on both sides.
fn padded(values: impl Iterator<Item = f64>, factor: f64) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, 0.0f64), |(low, high), v| (low.min(v), high.max(v)));
    (low / factor, high * factor)
}

/// Widened to whole powers of ten where fewer than two lie within, as a scale needs two labels to be one.
fn whole_decade((low, high): (f64, f64)) -> (f64, f64) {
    if powers_of_ten((low, high)).len() >= 2 {
        return (low, high);
    }
    (10f64.powf(low.log10().floor()), 10f64.powf(high.log10().ceil()))
}

fn powers_of_ten((low, high): (f64, f64)) -> Vec<f64> {
    // Parsed rather than computed: 10^-1 must print as 0.1.
    let power = |exponent: i32| format!("1e{exponent}").parse().unwrap_or(f64::NAN);
    (low.log10().ceil() as i32..=high.log10().floor() as i32).map(power).collect()
}

/// The lengths that have room for a label.
fn spaced(lengths: &[f64], (low, high): (f64, f64)) -> Vec<f64> {
    let mut labels: Vec<f64> = Vec::new();
    for &length in lengths {
        let distance = |last: &f64| (length / last).ln() / (high / low).ln();
        if labels.last().is_none_or(|last| distance(last) >= LABEL_DISTANCE) {
            labels.push(length);
        }
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::round::tests::{NONE, OTHER, round};

    #[test]
    fn all_that_ran_is_drawn() {
        let picture = Picture {
            title: "Title",
            subtitle: "a device".to_owned(),
            what: "speed",
            unit: " ms",
            value: |_, result| 1e3 * result.seconds,
            names: SeriesLabelPosition::UpperLeft,
        };
        let rounds = [round(0.5), Round { length: 128, ..round(0.5) }];
        assert_eq!(line(&picture, &rounds, OTHER), [(64.0, 4.0), (128.0, 4.0)]);
        assert_eq!(line(&picture, &rounds, NONE), []);
        let svg = draw(&picture, &rounds).unwrap();
        for text in ["Title", "a device", "speed", "1 ms", "10 ms", "one", "other", "128"] {
            assert!(svg.contains(text), "no {text:?} in {svg}");
        }
    }

    #[test]
    fn axes_have_two_labels() {
        assert_eq!(powers_of_ten((0.05, 300.0)), [0.1, 1.0, 10.0, 100.0]);
        assert_eq!(powers_of_ten((0.05, 300.0))[0].to_string(), "0.1");
        assert_eq!(whole_decade((0.05, 300.0)), (0.05, 300.0));
        assert_eq!(powers_of_ten(whole_decade((2.0, 3.0))), [1.0, 10.0]);
    }

    #[test]
    fn crowded_lengths_lose_their_labels() {
        assert_eq!(spaced(&[64.0, 65.0, 128.0, 4096.0], (60.0, 4200.0)), [64.0, 128.0, 4096.0]);
    }
}
