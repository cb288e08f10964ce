//! Curves of functions and their polynomials, as SVG.

use anyhow::Result;
use nn_poly::approximate::{Function, Interval, Polynomial};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// What one row of the picture shows.
#[derive(Debug)]
pub(crate) struct Panel<'a> {
    /// Above the row.
    pub(crate) title: String,
    /// Drawn in black.
    pub(crate) function: &'a Function,
    /// Shaded; errors are drawn here only.
    pub(crate) interval: Interval,
    /// Drawn in colors.
    pub(crate) curves: Vec<Curve<'a>>,
}

/// A polynomial with the name of its method.
#[derive(Debug)]
pub(crate) struct Curve<'a> {
    /// In the legend.
    pub(crate) name: &'a str,
    /// To draw.
    pub(crate) polynomial: &'a Polynomial,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const WIDTH: u32 = 1180;
const ROW_HEIGHT: u32 = 430;
const TITLE_HEIGHT: u32 = 34;
const LEGEND_WIDTH: u32 = 210;
/// Points per curve.
const POINTS: u32 = 500;
/// How far beyond the interval the functions are drawn, in units of its half width.
const OVERHANG: f64 = 1.3;

const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(30, 30, 30);
const SHADE: RGBColor = RGBColor(242, 242, 242);
const GRID: RGBColor = RGBColor(220, 220, 220);

/// Colors that stay apart for color-blind readers.
///
/// Source: Okabe and Ito, "Color universal design", 2008 (its yellow is left out: too light for lines).
const COLORS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(120, 120, 120),
];

/// Draw the panels below one another: functions to the left, errors in the middle, names to the right.
///
/// # Errors
/// Whatever the drawing library says; it never does for finite curves.
pub(crate) fn draw(panels: &[Panel<'_>]) -> Result<String> {
    let mut svg = String::new();
    let n_rows = u32::try_from(panels.len()).unwrap_or(u32::MAX).max(1);
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, n_rows.saturating_mul(ROW_HEIGHT)))
            .into_drawing_area();
        root.fill(&WHITE).map_err(told)?;
        for (row, panel) in root.split_evenly((panels.len().max(1), 1)).iter().zip(panels) {
            draw_panel(row, panel)?;
        }
        root.present().map_err(told)?;
    }
    Ok(svg)
}

fn draw_panel(row: &Area<'_>, panel: &Panel<'_>) -> Result<()> {
    let (header, body) = row.split_vertically(TITLE_HEIGHT);
    let title = (FONT, 17).into_font().style(FontStyle::Bold).color(&INK);
    header.draw(&Text::new(panel.title.clone(), (16, 12), title)).map_err(told)?;
    let (charts, legend) = body.split_horizontally(WIDTH - LEGEND_WIDTH);
    let charts = charts.split_evenly((1, 2));
    if let [left, right] = charts.as_slice() {
        draw_functions(left, panel)?;
        draw_errors(right, panel)?;
    }
    draw_legend(&legend, panel)
}

/// Function and polynomials, somewhat beyond the interval.
fn draw_functions(area: &Area<'_>, panel: &Panel<'_>) -> Result<()> {
    let xs = points(panel.interval, OVERHANG);
    let values = |g: &dyn Fn(f64) -> f64| xs.iter().map(|&x| (x, g(x))).collect::<Vec<_>>();
    let function = values(&|x| panel.function.value(x));
    // Polynomials may leave the frame outside the interval, and those far off inside it too.
    let inside = points(panel.interval, 1.0);
    let spans =
        panel.curves.iter().map(|curve| span(inside.iter().map(|&x| curve.polynomial.evaluate(x))));
    let range = padded(typical(span(function.iter().map(|&(_, y)| y)), spans));
    let series = panel
        .curves
        .iter()
        .map(|curve| values(&|x| curve.polynomial.evaluate(x)))
        .collect::<Vec<_>>();
    let frame = Frame { xs: &xs, range, caption: "function and polynomials" };
    frame.draw(area, panel, &series, &function)
}

/// Polynomials minus function in the interval.
fn draw_errors(area: &Area<'_>, panel: &Panel<'_>) -> Result<()> {
    let xs = points(panel.interval, 1.0);
    let series = panel
        .curves
        .iter()
        .map(|curve| {
            let error = |x: f64| curve.polynomial.evaluate(x) - panel.function.value(x);
            xs.iter().map(|&x| (x, error(x))).collect::<Vec<_>>()
        })
        .collect::<Vec<_>>();
    let spans = series.iter().map(|points| span(points.iter().map(|&(_, y)| y)));
    let range = padded(typical((0.0, 0.0), spans));
    let frame = Frame { xs: &xs, range, caption: "error: polynomial − function" };
    let zero: Vec<(f64, f64)> = xs.iter().map(|&x| (x, 0.0)).collect();
    frame.draw(area, panel, &series, &zero)
}

/// Axes and what they are for.
struct Frame<'a> {
    xs: &'a [f64],
    range: (f64, f64),
    caption: &'static str,
}

impl Frame<'_> {
    fn draw(
        &self,
        area: &Area<'_>,
        panel: &Panel<'_>,
        series: &[Vec<(f64, f64)>],
        black: &[(f64, f64)],
    ) -> Result<()> {
        let interval = panel.interval;
        let (first, last) = (self.xs.first(), self.xs.last());
        let (low, high) = (first.copied().unwrap_or(-1.0), last.copied().unwrap_or(1.0));
        let (bottom, top) = self.range;
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(30)
            .y_label_area_size(58)
            .caption(self.caption, (FONT, 14).into_font().color(&INK))
            .build_cartesian_2d(low..high, bottom..top)
            .map_err(told)?;
        let shade =
            Rectangle::new([(interval.low(), bottom), (interval.high(), top)], SHADE.filled());
        chart.draw_series([shade]).map_err(told)?;
        chart
            .configure_mesh()
            .x_labels(7)
            .y_labels(7)
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(INK)
            .label_style((FONT, 12).into_font().color(&INK))
            .x_label_formatter(&|x| tick(*x))
            .y_label_formatter(&|y| tick(*y))
            .draw()
            .map_err(told)?;
        for line in visible(black, self.range) {
            chart.draw_series(LineSeries::new(line, INK.stroke_width(3))).map_err(told)?;
        }
        for (points, curve) in series.iter().zip(&panel.curves) {
            let look = Look::of(curve.name);
            for line in visible(points, self.range) {
                match look.stroke {
                    Stroke::Solid => chart.draw_series(LineSeries::new(line, look.style())),
                    Stroke::Dashed => {
                        let dashes = DashedLineSeries::new(line, 7, 4, look.style());
                        chart.draw_series(dashes)
                    }
                }
                .map_err(told)?;
            }
        }
        Ok(())
    }
}

fn draw_legend(area: &Area<'_>, panel: &Panel<'_>) -> Result<()> {
    const LINE_HEIGHT: i32 = 22;
    let text = (FONT, 13).into_font().color(&INK).pos(Pos::new(HPos::Left, VPos::Center));
    let mut y = 40;
    let black = vec![(8, y), (40, y)];
    area.draw(&PathElement::new(black, INK.stroke_width(3))).map_err(told)?;
    let name = panel.function.to_string();
    area.draw(&Text::new(name, (50, y), text.clone())).map_err(told)?;
    for curve in &panel.curves {
        y += LINE_HEIGHT;
        let look = Look::of(curve.name);
        let style = look.style();
        let pieces: &[(i32, i32)] = match look.stroke {
            Stroke::Solid => &[(8, 40)],
            Stroke::Dashed => &[(8, 16), (20, 28), (32, 40)],
        };
        for &(from, to) in pieces {
            area.draw(&PathElement::new(vec![(from, y), (to, y)], style)).map_err(told)?;
        }
        area.draw(&Text::new(curve.name.to_owned(), (50, y), text.clone())).map_err(told)?;
    }
    Ok(())
}

/// How the curve of a method is drawn.
#[derive(Debug, Clone, Copy)]
struct Look {
    color: RGBColor,
    stroke: Stroke,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stroke {
    Solid,
    Dashed,
}

impl Look {
    /// The same in every picture: a color per measure, dashes where its derivative was fitted.
    fn of(method: &str) -> Self {
        let (name, stroke) = match method.strip_prefix("derivative-") {
            Some(measure) => (measure, Stroke::Dashed),
            None if matches!(method, "taylor" | "observed") => (method, Stroke::Dashed),
            None => (method, Stroke::Solid),
        };
        let names: [&[&str]; 7] = [
            &["legendre"],
            &["chebyshev"],
            &["cryptodl"],
            &["cryptodl8"],
            &["interpolation", "taylor"],
            &["minimax", "observed"],
            &["bernstein"],
        ];
        let color = names.iter().zip(COLORS).find(|(names, _)| names.contains(&name));
        Self { color: color.map_or(INK, |(_, color)| color), stroke }
    }

    fn style(self) -> ShapeStyle {
        self.color.stroke_width(2)
    }
}

/// Points from end to end of the interval widened by `factor`.
fn points(interval: Interval, factor: f64) -> Vec<f64> {
    (0..=POINTS)
        .map(|k| interval.from_unit(factor * (2.0 * f64::from(k) / f64::from(POINTS) - 1.0)))
        .collect()
}

/// The pieces of a curve inside the frame.
fn visible(points: &[(f64, f64)], (bottom, top): (f64, f64)) -> Vec<Vec<(f64, f64)>> {
    points
        .split(|&(_, y)| !(bottom..=top).contains(&y))
        .filter(|piece| piece.len() > 1)
        .map(<[_]>::to_vec)
        .collect()
}

/// Smallest and largest of the values.
fn span(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), y| (low.min(y), high.max(y)))
}

/// A span that holds `always`, and all of `spans` but those of curves far off.
fn typical(always: (f64, f64), spans: impl Iterator<Item = (f64, f64)>) -> (f64, f64) {
    /// A curve is far off that reaches this many times as far as the one in the middle.
    const FAR: f64 = 4.0;
    let mut spans: Vec<(f64, f64)> = spans.collect();
    let reach = |&(low, high): &(f64, f64)| low.abs().max(high.abs());
    spans.sort_by(|a, b| reach(a).total_cmp(&reach(b)));
    let limit = FAR * spans.get(spans.len() / 2).map_or(0.0, reach).max(reach(&always));
    spans
        .iter()
        .filter(|span| reach(span) <= limit)
        .fold(always, |(low, high), span| (low.min(span.0), high.max(span.1)))
}

/// A span with some room.
fn padded((low, high): (f64, f64)) -> (f64, f64) {
    let room = ((high - low) * 0.06).max(high.abs().max(low.abs()) * 1e-9).max(1e-12);
    (low - room, high + room)
}

/// A short label without rounding errors.
fn tick(value: f64) -> String {
    let rounded: f64 = format!("{value:.3e}").parse().unwrap_or(value);
    let size = rounded.abs();
    if size < 1e-12 {
        "0".to_owned()
    } else if (1e-3..1e5).contains(&size) {
        format!("{rounded}")
    } else {
        format!("{rounded:e}")
    }
}

fn told<E: std::error::Error + Send + Sync>(error: DrawingAreaErrorKind<E>) -> anyhow::Error {
    anyhow::anyhow!("the picture cannot be drawn: {error}")
}

#[cfg(test)]
mod tests {
    use nn_poly::approximate::{FitProblem, Method};

    use super::*;

    #[test]
    fn a_curve_far_off_does_not_set_the_scale() {
        let spans = [(0.0, 1.0), (-2.0, 1.0), (0.0, 100.0)];
        assert_eq!(typical((0.0, 0.5), spans.into_iter()), (-2.0, 1.0));
        assert_eq!(typical((0.0, 0.0), [(0.0, 100.0)].into_iter()), (0.0, 100.0));
        let points = [(0.0, 0.0), (1.0, 1.0), (2.0, 9.0), (3.0, 1.0), (4.0, 0.5)];
        assert_eq!(visible(&points, (0.0, 1.0)).len(), 2, "two pieces, not joined");
    }

    #[test]
    fn every_curve_is_in_the_picture_and_in_the_legend() {
        let interval = Interval::symmetric(4.0).unwrap();
        let function = Function::Gelu;
        let problem = FitProblem::new(function.clone(), interval, 4).unwrap();
        let fits: Vec<_> = Method::ALL
            .iter()
            .map(|&method| (method.to_string(), problem.solve(method).unwrap()))
            .collect();
        let curves = fits
            .iter()
            .map(|(name, fit)| Curve { name, polynomial: &fit.polynomial })
            .collect::<Vec<_>>();
        let panel = |title: &str, curves| Panel {
            title: title.into(),
            function: &function,
            interval,
            curves,
        };
        let svg = draw(&[panel("first", curves), panel("second", Vec::new())]).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for (name, _) in &fits {
            assert!(svg.contains(name.as_str()), "{name}");
        }
        assert!(svg.contains("first") && svg.contains("second"));
        // One line per function and panel, and at least two per polynomial.
        assert!(svg.matches("<polyline").count() >= 4 + 2 * fits.len());
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }
}
