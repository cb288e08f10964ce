//! A soft round pen on a small canvas.

use super::SIDE;
use super::templates::ControlPoint;

/// Straight pieces per span of a curve; at most two pixels long each.
const PIECES: u32 = 7;

/// Width of the soft edge in pixels, from full ink to none.
const EDGE: f64 = 1.25;

/// How a stroke is drawn.
pub(super) struct Pen {
    /// Half the width of the line, in pixels.
    pub(super) radius: f64,
    /// Factors of the radius at the beginning and at the end of the stroke.
    pub(super) pressure: [f64; 2],
}

/// A grey image; 0 is paper, 1 is ink.
pub(super) struct Canvas {
    // invariant: SIDE rows of SIDE pixels
    pixels: [f32; SIDE * SIDE],
}

/// A point of the pen's path and the pen's radius there.
#[derive(Clone, Copy)]
struct PathPoint {
    x: f64,
    y: f64,
    radius: f64,
}

impl Canvas {
    pub(super) fn new() -> Self {
        Self { pixels: [0.0; SIDE * SIDE] }
    }

    pub(super) fn pixels(&self) -> &[f32; SIDE * SIDE] {
        &self.pixels
    }

    /// Replaces every pixel `v` by `tone(v)`, cut to `[0, 1]`.
    #[expect(clippy::cast_possible_truncation, reason = "pixels are stored in f32")]
    pub(super) fn develop(&mut self, mut tone: impl FnMut(f64) -> f64) {
        for pixel in &mut self.pixels {
            *pixel = tone(f64::from(*pixel)).clamp(0.0, 1.0) as f32;
        }
    }

    /// Draws a curve through the points (pixel coordinates, `x` right, `y` down).
    pub(super) fn stroke(&mut self, points: &[ControlPoint], pen: &Pen) {
        let path = path(points, pen);
        for pair in path.windows(2) {
            if let &[from, to] = pair {
                self.line(from, to);
            }
        }
    }

    /// Darkens the pixels near a straight piece; where pieces overlap the darker one counts.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "coordinates are clamped to the 28 rows and columns of the canvas first"
    )]
    fn line(&mut self, from: PathPoint, to: PathPoint) {
        let reach = from.radius.max(to.radius) + EDGE;
        let last = (SIDE - 1) as f64;
        let first_of = |a: f64, b: f64| (a.min(b) - reach).ceil().clamp(0.0, last) as usize;
        let last_of = |a: f64, b: f64| (a.max(b) + reach).floor().clamp(0.0, last) as usize;
        let columns = first_of(from.x, to.x)..=last_of(from.x, to.x);
        let rows = first_of(from.y, to.y)..=last_of(from.y, to.y);
        let (dx, dy) = (to.x - from.x, to.y - from.y);
        let length_squared = dx * dx + dy * dy;
        for row in rows {
            for column in columns.clone() {
                let (px, py) = (column as f64 - from.x, row as f64 - from.y);
                let along = if length_squared > 0.0 {
                    ((px * dx + py * dy) / length_squared).clamp(0.0, 1.0)
                } else {
                    0.0
                };
                let (ex, ey) = (px - along * dx, py - along * dy);
                let distance = (ex * ex + ey * ey).sqrt();
                let radius = from.radius + along * (to.radius - from.radius);
                let ink = soft_step((radius - distance) / EDGE + 0.5) as f32;
                if let Some(pixel) = self.pixels.get_mut(row * SIDE + column) {
                    *pixel = pixel.max(ink);
                }
            }
        }
    }
}

/// Flattens a stroke: Catmull–Rom splines between corners.
#[expect(clippy::cast_precision_loss, reason = "a stroke has a dozen points")]
fn path(points: &[ControlPoint], pen: &Pen) -> Vec<PathPoint> {
    let n_spans = points.len().saturating_sub(1);
    let mut path = Vec::with_capacity(n_spans * PIECES as usize + 1);
    for span in 0..n_spans {
        let (Some(a), Some(b)) = (points.get(span), points.get(span + 1)) else {
            continue;
        };
        // At the ends of a stroke and at corners the curve does not look further back or ahead.
        let before =
            if a.is_corner { None } else { span.checked_sub(1).and_then(|i| points.get(i)) };
        let after = if b.is_corner { None } else { points.get(span + 2) };
        let (before, after) = (before.unwrap_or(a), after.unwrap_or(b));
        let first_piece = u32::from(span > 0);
        for piece in first_piece..=PIECES {
            let u = f64::from(piece) / f64::from(PIECES);
            let progress = (span as f64 + u) / n_spans as f64;
            let [start, end] = pen.pressure;
            path.push(PathPoint {
                x: catmull_rom(before.x, a.x, b.x, after.x, u),
                y: catmull_rom(before.y, a.y, b.y, after.y, u),
                radius: pen.radius * (start + progress * (end - start)),
            });
        }
    }
    path
}

/// The cubic through `a` (at `u = 0`) and `b` (at `u = 1`) with slopes `(b − before)/2` and
/// `(after − a)/2`.
fn catmull_rom(before: f64, a: f64, b: f64, after: f64, u: f64) -> f64 {
    let slope_a = 0.5 * (b - before);
    let slope_b = 0.5 * (after - a);
    let quadratic = 3.0 * (b - a) - 2.0 * slope_a - slope_b;
    let cubic = 2.0 * (a - b) + slope_a + slope_b;
    a + u * (slope_a + u * (quadratic + u * cubic))
}

/// 0 below 0, 1 above 1, smooth between.
fn soft_step(x: f64) -> f64 {
    let x = x.clamp(0.0, 1.0);
    x * x * (3.0 - 2.0 * x)
}
