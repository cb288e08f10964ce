//! Line charts as SVG.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

/// Width and height of one panel.
const PANEL: (u32, u32) = (420, 320);

/// Colors that differ in brightness too.
const COLORS: [RGBColor; 6] = [
    RGBColor(128, 128, 128),
    RGBColor(217, 95, 2),
    RGBColor(117, 112, 179),
    RGBColor(27, 120, 80),
    RGBColor(166, 30, 80),
    RGBColor(30, 30, 30),
];

/// One line.
#[derive(Debug, Clone)]
pub(crate) struct Curve {
    /// Its name in the legend.
    pub(crate) name: String,
    /// Points by rising `x`.
    pub(crate) points: Vec<(f64, f64)>,
}

/// How `x` is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Axis {
    /// Equal steps for equal differences.
    Linear,
    /// Equal steps for equal factors; `x` is positive.
    Logarithmic,
}

impl Axis {
    fn place(self, x: f64) -> f64 {
        match self {
            Self::Linear => x,
            Self::Logarithmic => x.log10(),
        }
    }

    fn label(self, place: f64) -> String {
        match self {
            Self::Linear => {
                format!("{place:.3}").trim_end_matches('0').trim_end_matches('.').to_owned()
            }
            Self::Logarithmic => {
                let (x, digits) = (10_f64.powf(place), if place < 1.0 { 1 } else { 0 });
                format!("{x:.digits$}")
            }
        }
    }
}

/// What `y` counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Values {
    /// Percentages: all of 0 to 100 is shown.
    Percent,
    /// Something that is not negative: from 0 to the largest value.
    Positive,
}

impl Values {
    /// Upper end of the axis.
    fn high(self, curves: &[Curve]) -> f64 {
        let largest = curves.iter().flat_map(|curve| &curve.points).map(|point| point.1);
        match (self, largest.fold(0.0, f64::max)) {
            (Self::Percent, _) => 102.0,
            (Self::Positive, largest) if largest > 0.0 => 1.05 * largest,
            (Self::Positive, _) => 1.0,
        }
    }

    fn label(self, y: f64) -> String {
        match self {
            Self::Percent => format!("{y:.0}"),
            Self::Positive => Axis::Linear.label(y),
        }
    }

    /// Where curves leave room: those of percentages end high, others rise or fall.
    fn legend(self, curves: &[Curve]) -> SeriesLabelPosition {
        let falls = |curve: &Curve| {
            curve.points.first().zip(curve.points.last()).is_some_and(|(a, b)| b.1 < a.1)
        };
        match self {
            Self::Percent => SeriesLabelPosition::MiddleRight,
            Self::Positive if curves.iter().any(falls) => SeriesLabelPosition::UpperRight,
            Self::Positive => SeriesLabelPosition::UpperLeft,
        }
    }
}

/// One chart.
#[derive(Debug, Clone)]
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) axis: Axis,
    pub(crate) values: Values,
    pub(crate) x_label: String,
    pub(crate) y_label: String,
    pub(crate) curves: Vec<Curve>,
}

/// Draw panels, three in a row.
///
/// # Errors
/// Never for finite values.
pub(crate) fn svg(panels: &[Panel]) -> Result<String> {
    let columns = panels.len().clamp(1, 3);
    let rows = panels.len().div_ceil(columns).max(1);
    let size = |n: usize, side: u32| u32::try_from(n).unwrap_or(1) * side;
    let mut text = String::new();
    {
        let area = (size(columns, PANEL.0), size(rows, PANEL.1));
        let root = SVGBackend::with_string(&mut text, area).into_drawing_area();
        root.fill(&WHITE).map_err(|error| anyhow!("{error}"))?;
        for (panel, area) in panels.iter().zip(root.split_evenly((rows, columns))) {
            draw(panel, &area).map_err(|error| anyhow!("{error}"))?;
        }
        root.present().map_err(|error| anyhow!("{error}"))?;
    }
    Ok(text)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw<'a>(
    panel: &Panel,
    area: &Area<'a>,
) -> std::result::Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>> {
    let places = |curve: &Curve| -> Vec<(f64, f64)> {
        curve.points.iter().map(|&(x, y)| (panel.axis.place(x), y)).collect()
    };
    let xs = || panel.curves.iter().flat_map(places).map(|point| point.0);
    let (low, high) = (xs().fold(f64::INFINITY, f64::min), xs().fold(f64::NEG_INFINITY, f64::max));
    let (low, high) = if low < high { (low, high) } else { (0.0, 1.0) };
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.title, ("sans-serif", 15))
        .margin(8)
        .margin_right(18)
        .x_label_area_size(34)
        .y_label_area_size(44)
        .build_cartesian_2d(low..high, 0.0..panel.values.high(&panel.curves))?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_label_formatter(&|&x| panel.axis.label(x))
        .y_label_formatter(&|&y| panel.values.label(y))
        .x_desc(&panel.x_label)
        .y_desc(&panel.y_label)
        .draw()?;
    for (curve, color) in panel.curves.iter().zip(COLORS.into_iter().cycle()) {
        let points = places(curve);
        let line = LineSeries::new(points.iter().copied(), color.stroke_width(2));
        chart
            .draw_series(line)?
            .label(&curve.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
        let dots = points.iter().map(|&point| Circle::new(point, 2, color.filled()));
        chart.draw_series(dots)?;
    }
    chart
        .configure_series_labels()
        .position(panel.values.legend(&panel.curves))
        .background_style(WHITE.mix(0.8))
        .border_style(RGBColor(200, 200, 200))
        .draw()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_names_its_curves_and_axes() {
        let curve =
            |name: &str| Curve { name: name.into(), points: vec![(1.0, 10.0), (2.0, 90.0)] };
        let panel = Panel {
            title: "(a) trojan".into(),
            axis: Axis::Linear,
            values: Values::Percent,
            x_label: "samples".into(),
            y_label: "detected, %".into(),
            curves: vec![curve("random"), curve("tie")],
        };
        let empty = Panel { curves: vec![], ..panel.clone() };
        let text = svg(&[panel, empty]).unwrap();
        for expected in ["(a) trojan", "samples", "detected, %", "random", "tie", "<svg"] {
            assert!(text.contains(expected), "{expected}");
        }
        assert!(svg(&[]).unwrap().contains("<svg"));
    }

    #[test]
    fn factors_are_equal_steps_on_a_logarithmic_axis() {
        let axis = Axis::Logarithmic;
        assert!((axis.place(80.0) - axis.place(8.0) - 1.0).abs() < 1e-12);
        assert_eq!(axis.label(axis.place(0.1)), "0.1");
        assert_eq!(axis.label(1.5), "32");
        assert_eq!(Axis::Linear.label(0.25), "0.25");
    }

    #[test]
    fn percentages_have_one_axis_and_other_values_their_own() {
        let curves = [Curve { name: "a".into(), points: vec![(1.0, 3.0), (2.0, 4.0)] }];
        assert!((Values::Percent.high(&curves) - 102.0).abs() < 1e-12);
        assert!((Values::Positive.high(&curves) - 4.2).abs() < 1e-12);
        assert!(Values::Positive.high(&[]) > 0.0);
        assert_eq!(
            (Values::Percent.label(20.4), Values::Positive.label(0.5)),
            ("20".into(), "0.5".into())
        );
    }
}
