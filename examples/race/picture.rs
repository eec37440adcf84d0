//! The results as a picture: time against length, both logarithmic.

use std::error::Error;

use plotters::element::DashedPathElement;
use plotters::prelude::*;

use crate::operator::Operator;
use crate::table::Round;

const SIZE: (u32, u32) = (960, 640);
/// Pixels of the titles above the chart.
const HEAD: u32 = 84;
const INK: RGBColor = RGBColor(40, 40, 40);
const GRID: RGBColor = RGBColor(225, 225, 225);
const FONT: &str = "Helvetica, Arial, sans-serif";
/// Labels closer than this, as a part of the axis, would run into one another.
const LABEL_DISTANCE: f64 = 0.06;

/// The picture as SVG. Convolutions are solid, attention is dashed.
pub(crate) fn draw(subtitle: &str, rounds: &[Round]) -> Result<String, Box<dyn Error>> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let (head, body) = root.split_vertically(HEAD);
        let text = |size: u32| (FONT, size).into_font().color(&INK);
        head.draw_text("Convolution against attention", &text(26), (24, 20))?;
        head.draw_text(subtitle, &text(16), (24, 54))?;
        chart(&body, rounds)?;
        root.present()?;
    }
    Ok(svg)
}

fn chart(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    rounds: &[Round],
) -> Result<(), Box<dyn Error>> {
    let lengths: Vec<f64> = rounds.iter().map(|round| round.length as f64).collect();
    let times =
        rounds.iter().flat_map(|round| round.results.iter().filter_map(|(_, entry)| entry.as_ref().ok()));
    let x = padded(lengths.iter().copied(), 1.15);
    let y = whole_decade(padded(times.map(|result| 1e3 * result.seconds), 1.6));

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
        .y_desc("time of a call")
        .x_label_formatter(&|length| length.to_string())
        .y_label_formatter(&|time| format!("{time} ms"))
        .draw()?;

    for operator in Operator::ALL {
        let points: Vec<(f64, f64)> = rounds
            .iter()
            .filter_map(|round| Some((round.length as f64, 1e3 * round.seconds(operator)?)))
            .collect();
        let colour = colour(operator);
        let stroke = colour.stroke_width(3);
        let sample = |(x, y): (i32, i32)| [(x, y), (x + 34, y)];
        if operator.is_convolution() {
            chart
                .draw_series(LineSeries::new(points.iter().copied(), stroke))?
                .label(operator.to_string())
                .legend(move |at| PathElement::new(sample(at), stroke));
        } else {
            let dashed = DashedLineSeries::new(points.clone(), 9, 6, stroke);
            chart
                .draw_series(dashed)?
                .label(operator.to_string())
                .legend(move |at| DashedPathElement::new(sample(at), 9, 6, stroke));
        }
        chart.draw_series(points.into_iter().map(|point| Circle::new(point, 4, colour.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .margin(16)
        .legend_area_size(44)
        .label_font(label)
        .background_style(WHITE)
        .border_style(GRID)
        .draw()?;
    Ok(())
}

/// Colours that the colour-blind can tell apart too (Okabe and Ito 2008).
fn colour(operator: Operator) -> RGBColor {
    match operator {
        Operator::LightConv => RGBColor(0, 158, 115),
        Operator::DynamicConv => RGBColor(0, 114, 178),
        Operator::SpanConv => RGBColor(86, 180, 233),
        Operator::NaiveAttention => RGBColor(110, 110, 110),
        Operator::FusedAttention => RGBColor(213, 94, 0),
        Operator::LocalAttention => RGBColor(230, 159, 0),
    }
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

    #[test]
    fn time_axes_have_two_labels() {
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
