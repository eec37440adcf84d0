//! Learning curves and other lines, as SVG.

use std::cmp::Ordering;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::training::Curve;

const WIDTH: u32 = 960;
const HEIGHT: u32 = 420;
/// Pixels of the title above the panels, and of the names beside them.
const HEAD: u32 = 56;
const NAMES: u32 = 220;
const INK: RGBColor = RGBColor(40, 40, 40);
const GRID: RGBColor = RGBColor(225, 225, 225);
const FONT: &str = "Helvetica, Arial, sans-serif";
/// Colours that people with any kind of sight tell apart (Okabe and Ito 2008).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(40, 40, 40),
];

/// Panels one above another, with lines that have the same colour by the same name.
pub struct Picture {
    /// What the picture is of.
    pub title: String,
    /// From above.
    pub panels: Vec<Panel>,
}

/// One chart.
pub struct Panel {
    /// What the x axis has.
    pub x: &'static str,
    /// What the y axis has.
    pub y: &'static str,
    /// Each with its name.
    pub lines: Vec<Line>,
    /// Where something is marked on the x axis.
    pub mark: Option<f64>,
}

/// One line of a chart; lines of one name have one colour, and the name stands beside the chart once.
pub struct Line {
    /// What it is of.
    pub name: String,
    /// From left to right.
    pub points: Vec<(f64, f64)>,
}

impl Line {
    /// The scores of a run, up to where it diverged.
    pub fn of(name: &str, curve: &Curve) -> Self {
        let points = curve.0.iter().filter(|point| point.score.is_finite());
        let points = points.map(|point| (point.step as f64, point.score)).collect();
        Line { name: name.to_owned(), points }
    }
}

impl Picture {
    /// The picture as SVG.
    ///
    /// # Errors
    ///
    /// As plotters has them.
    pub fn svg(&self) -> Result<String> {
        let mut svg = String::new();
        self.draw(&mut svg).map_err(|error| anyhow!("could not draw the picture: {error}"))?;
        Ok(svg)
    }

    fn draw(&self, svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
        let size = (WIDTH, HEAD + HEIGHT * self.panels.len() as u32);
        let root = SVGBackend::with_string(svg, size).into_drawing_area();
        root.fill(&WHITE)?;
        let (head, body) = root.split_vertically(HEAD);
        head.draw_text(&self.title, &(FONT, 24).into_font().color(&INK), (24, 18))?;
        let mut names: Vec<&str> = Vec::new();
        for line in self.panels.iter().flat_map(|panel| &panel.lines) {
            if !names.contains(&line.name.as_str()) {
                names.push(&line.name);
            }
        }
        for (area, panel) in body.split_evenly((self.panels.len().max(1), 1)).iter().zip(&self.panels) {
            panel.draw(area, &names)?;
        }
        root.present()?;
        Ok(())
    }
}

impl Panel {
    fn draw(
        &self,
        area: &DrawingArea<SVGBackend<'_>, Shift>,
        names: &[&str],
    ) -> Result<(), Box<dyn std::error::Error>> {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let xs = points().map(|point| point.0).chain(self.mark);
        let (x, y) = (range(xs, 0.0), range(points().map(|point| point.1), 0.05));
        let (area, beside) = area.split_horizontally(WIDTH - NAMES);
        let mut chart = ChartBuilder::on(&area)
            .margin_left(20)
            .margin_right(16)
            .margin_bottom(12)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(x.0..x.1, y.0..y.1)?;
        let label = (FONT, 15).into_font().color(&INK);
        chart
            .configure_mesh()
            .axis_style(INK)
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .label_style(label.clone())
            .axis_desc_style(label.clone())
            .x_desc(self.x)
            .y_desc(self.y)
            .x_label_formatter(&|x| x.to_string())
            .draw()?;
        if let Some(mark) = self.mark {
            chart.draw_series(DashedLineSeries::new(
                [(mark, y.0), (mark, y.1)],
                6,
                5,
                INK.stroke_width(1),
            ))?;
        }
        for (i, name) in names.iter().enumerate() {
            let colour = COLOURS[i % COLOURS.len()];
            for line in self.lines.iter().filter(|line| line.name == *name) {
                let points = line.points.iter().copied();
                chart.draw_series(LineSeries::new(points, colour.stroke_width(2)).point_size(2))?;
            }
            if self.lines.iter().any(|line| line.name == *name) {
                let y = 24 + 26 * i as i32;
                beside.draw(&PathElement::new([(0, y), (30, y)], colour.stroke_width(3)))?;
                beside.draw_text(name, &label.color(&INK), (38, y - 7))?;
            }
        }
        Ok(())
    }
}

/// From the smallest to the largest, and a part of that more on both sides; never empty.
fn range(values: impl Iterator<Item = f64>, part: f64) -> (f64, f64) {
    let finite = values.filter(|value| value.is_finite());
    let (low, high) =
        finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    match low.partial_cmp(&high) {
        Some(Ordering::Less) => (low - part * (high - low), high + part * (high - low)),
        Some(Ordering::Equal) => (low - 0.5, high + 0.5),
        Some(Ordering::Greater) | None => (0.0, 1.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_told_once() {
        let line = |name: &str| Line { name: name.to_owned(), points: vec![(0.0, 1.0), (1.0, 2.0)] };
        let panel = |mark| Panel {
            x: "step",
            y: "loss",
            lines: vec![line("light"), line("light"), line("dynamic")],
            mark,
        };
        let svg =
            Picture { title: "Two".to_owned(), panels: vec![panel(None), panel(Some(0.5))] }.svg().unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for (text, count) in [("\nlight\n", 2), ("\ndynamic\n", 2), ("\nTwo\n", 1)] {
            assert_eq!(svg.matches(text).count(), count, "{text:?}");
        }
    }

    #[test]
    fn ranges_hold_something() {
        assert_eq!(range([1.0, 3.0].into_iter(), 0.5), (0.0, 4.0));
        assert_eq!(range([2.0].into_iter(), 0.5), (1.5, 2.5));
        assert_eq!(range([f64::NAN].into_iter(), 0.5), (0.0, 1.0));
    }
}
