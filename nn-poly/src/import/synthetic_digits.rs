//! Handwritten-like digits drawn by our own renderer: data without a download.
//!
//! ```text
//! label ─► template (one of 2–3 ways to write it, `templates`)
//!            │ move every control point a little, bend the plane, rotate, shear, scale, shift
//!            ▼
//!          strokes: splines through the points, sharp at corners ─► pen (`pen`): soft, round,
//!            pressure changing along the stroke ─► grey level, paper noise ─► 28 × 28 in [0, 1]
//! ```
//!
//! The digits are meant for demonstrations and tests: easy for a small network, hard enough that
//! comparing with class means does not do. They are no substitute for measurements on real data.
//!
//! Only additions, multiplications, divisions and square roots of `f64` are used, which IEEE 754
//! rounds alike everywhere: the same seed gives the same bits on every platform.

use ndarray::Array2;
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use self::pen::{Canvas, Pen};
use self::templates::{ControlPoint, TEMPLATES};

mod pen;
#[rustfmt::skip] // one line per few points keeps a glyph readable
mod templates;

/// Height and width of an image in pixels.
pub const SIDE: usize = 28;

/// Number of classes: the digits 0 to 9.
pub const N_CLASSES: usize = 10;

/// Renders `n` digits: images `(n, 784)`, row-major with values in `[0, 1]` (0 = paper, 1 = ink),
/// and their labels `(n)`.
///
/// Every ten consecutive samples from the start hold each digit once, in random order, so that
/// class counts never differ by more than one. Sample `i` depends on `seed` and `i` alone: fewer
/// samples are a prefix of more, whatever the number of threads.
///
/// Cost: about 30 µs per image and core.
pub fn synthetic_digits(n: usize, seed: u64) -> (Array2<f32>, Vec<u32>) {
    let mut images = Array2::zeros((n, SIDE * SIDE));
    let mut labels = vec![0; n];
    images.outer_iter_mut().into_par_iter().zip(labels.par_iter_mut()).enumerate().for_each(
        |(sample, (mut image, label))| {
            let mut draw = Draw::new(seed, sample as u64);
            let digit = label_of(seed, sample);
            let canvas = render(digit, &mut draw);
            image.iter_mut().zip(canvas.pixels()).for_each(|(pixel, &ink)| *pixel = ink);
            *label = u32::from(digit);
        },
    );
    (images, labels)
}

/// The digit of sample `sample`: a seeded shuffle of 0 to 9 for every ten samples.
fn label_of(seed: u64, sample: usize) -> u8 {
    let mut digits = [0_u8, 1, 2, 3, 4, 5, 6, 7, 8, 9];
    // Groups count down from the last stream, samples up from the first: they never meet.
    let group = sample / N_CLASSES;
    let mut draw = Draw::new(seed, u64::MAX - group as u64);
    for last in (1..digits.len()).rev() {
        digits.swap(last, draw.index(last + 1));
    }
    digits.get(sample % N_CLASSES).copied().unwrap_or_default()
}

/// Draws one digit.
fn render(digit: u8, draw: &mut Draw) -> Canvas {
    let variants = TEMPLATES.get(usize::from(digit)).copied().unwrap_or_default();
    let glyph = variants.get(draw.index(variants.len())).copied().unwrap_or_default();
    let hand = Hand::draw(draw);
    let mut canvas = Canvas::new();
    for stroke in glyph {
        let placed: Vec<ControlPoint> =
            stroke.iter().map(|point| hand.place(point, draw)).collect();
        let pen = Pen {
            radius: hand.pen_radius,
            pressure: [draw.between(0.85, 1.15), draw.between(0.75, 1.15)],
        };
        canvas.stroke(&placed, &pen);
    }
    let ink = draw.between(0.8, 1.0);
    let grain = draw.between(0.0, 0.06);
    canvas.develop(|value| ink * value + grain * draw.bell());
    canvas
}

/// How one digit is written: everything that varies from one writer to the next.
struct Hand {
    /// Where the glyph's unit vectors go, in pixels: size, rotation and shear.
    along_x: [f64; 2],
    along_y: [f64; 2],
    /// Where the glyph's origin lies, in pixels.
    origin: [f64; 2],
    /// Coefficients of `x²`, `xy`, `y²` in each coordinate: bends strokes without breaking joints.
    bend: [[f64; 3]; 2],
    /// Deviation of a single control point, in glyph units.
    jitter: f64,
    pen_radius: f64,
}

impl Hand {
    fn draw(draw: &mut Draw) -> Self {
        // Rotation by the angle with tangent of half angle `h` needs no trigonometry.
        let h = 0.065 * draw.bell();
        let (cosine, sine) = ((1.0 - h * h) / (1.0 + h * h), 2.0 * h / (1.0 + h * h));
        let shear = 0.08 + 0.15 * draw.bell();
        let height = draw.between(7.6, 10.2);
        let width = height * draw.between(0.85, 1.25);
        // Image rows grow downwards, as the glyphs' y does. x leans to the right going up.
        let along_x = [width * cosine, width * sine];
        let along_y = [height * (-shear * cosine - sine), height * (cosine - shear * sine)];
        const MIDDLE: f64 = 13.5;
        let origin = [MIDDLE + 0.9 * draw.bell(), MIDDLE + 0.9 * draw.bell()];
        let bend = [(); 2].map(|()| [(); 3].map(|()| 0.07 * draw.bell()));
        Self {
            along_x,
            along_y,
            origin,
            bend,
            jitter: draw.between(0.015, 0.05),
            pen_radius: draw.between(0.95, 1.75),
        }
    }

    /// Glyph coordinates (`x` in about ±0.6, `y` in ±1) to pixels.
    fn place(&self, point: &ControlPoint, draw: &mut Draw) -> ControlPoint {
        let x = point.x + self.jitter * draw.bell();
        let y = point.y + self.jitter * draw.bell();
        let [bend_x, bend_y] = self.bend.map(|[a, b, c]| a * x * x + b * x * y + c * y * y);
        let (x, y) = (x + bend_x, y + bend_y);
        let [origin_x, origin_y] = self.origin;
        let [[xx, xy], [yx, yy]] = [self.along_x, self.along_y];
        ControlPoint {
            x: origin_x + xx * x + yx * y,
            y: origin_y + xy * x + yy * y,
            is_corner: point.is_corner,
        }
    }
}

/// Random numbers of one sample, from a stream of their own.
struct Draw(ChaCha8Rng);

impl Draw {
    fn new(seed: u64, stream: u64) -> Self {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        generator.set_stream(stream);
        Self(generator)
    }

    /// Uniform in `[0, 1)`, a multiple of `2^-32`.
    fn unit(&mut self) -> f64 {
        f64::from(self.0.next_u32()) / 4_294_967_296.0
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Bell-shaped around 0 with deviation 1 and never beyond ±3.5: a sum of four uniforms.
    fn bell(&mut self) -> f64 {
        let sum: f64 = [(); 4].map(|()| self.unit()).iter().sum();
        (sum - 2.0) * 1.732_050_807_568_877_2
    }

    /// Uniform in `0..len`; 0 if `len` is 0.
    fn index(&mut self, len: usize) -> usize {
        // (2^32 − 1)·len / 2^32 < len; the bias is below len / 2^32.
        let scaled = (u64::from(self.0.next_u32()) * len as u64) >> 32;
        usize::try_from(scaled).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
