//! Both phases of both servers, in this process.

use anyhow::{Context, Result, bail};
use ndarray::{Array2, Axis};
use nn_poly::layer::{Activation, Conv2d, Layer, Pool2d, PoolKind};
use nn_poly::network::{Network, predictions};
use nn_poly::quantize::unrounded;
use nn_poly::tensor::Shape;
use rand::SeedableRng;
use rand::rngs::StdRng;
use secureml::lhe::TripleGeneration;
use secureml::{
    Convolution, FRACTION_BITS, Inference, OpenedWeights, Phase, Pipe, ServerModel, Shares,
    WeightOpening, drive_pair, encode, reconstruct, reconstruct_words, share_inputs, share_model,
};

use super::{PhaseRecord, SharesRecord, Subject};
use crate::pipeline::keeping::Kept;
use crate::report::machine::Machine;
use crate::report::units;

/// Samples that go through both phases together: a ciphertext of the offline phase holds so many values.
const SAMPLES_AT_ONCE: usize = secureml::lhe::RING_DEGREE;
/// Samples whose scores are compared with plain fixed point.
const COMPARED_SAMPLES: usize = 16;

impl PhaseRecord {
    /// Add one part of the batch.
    ///
    /// # Errors
    /// Other bytes than the formula's.
    fn add(&mut self, phase: &Phase, formula_bytes: u64) -> Result<()> {
        if phase.payload_bytes() != formula_bytes {
            let moved = phase.payload_bytes();
            bail!("two servers exchanged {moved} bytes, the formula says {formula_bytes}");
        }
        self.seconds += phase.elapsed.as_secs_f64();
        self.bytes += phase.payload_bytes();
        self.bytes_with_headers += phase.bytes();
        self.formula_bytes += formula_bytes;
        self.rounds = self.rounds.max(phase.rounds());
        Ok(())
    }
}

impl Subject<'_> {
    pub(super) fn run_shares(&self, n_samples: u64) -> Result<SharesRecord> {
        let network = translated(&unrounded(self.model.network())?.fold_batch_norm()?)?;
        let (features, labels) = self.batch(n_samples)?;
        let inputs = self.model.spec().preprocessing.apply(&features)?.mapv(f64::from);
        let name = format!("{} on {}, secureml", self.design.network(), self.design.data());
        let bar = self.laboratory.progress.bar(name.clone(), n_samples);
        let mut rng = StdRng::try_from_os_rng().context("no random numbers")?;
        let mut record = self.empty_record(n_samples);
        let servers = Servers::new(&network, &mut rng, &mut record.weights)?;
        let (mut n_correct, mut n_begun) = (0, 0);
        for (part, labels) in
            inputs.axis_chunks_iter(Axis(0), SAMPLES_AT_ONCE).zip(labels.chunks(SAMPLES_AT_ONCE))
        {
            let part = part.t().as_standard_layout().into_owned();
            let shares = servers.classify(&part, &mut rng, &mut record)?;
            if n_begun == 0 {
                compare(&network, &part, &shares)?;
            }
            let scores = reconstruct(&shares[0], &shares[1])?;
            let classes = predictions(&scores.t().as_standard_layout().into_owned());
            n_correct += classes.iter().zip(labels).filter(|(c, l)| **c == **l as usize).count();
            n_begun += part.ncols();
            bar.advance(part.ncols() as u64);
        }
        bar.finish(name);
        record.accuracy = units::share(n_correct, n_begun);
        Ok(record)
    }

    fn empty_record(&self, samples: u64) -> SharesRecord {
        SharesRecord {
            format: SharesRecord::FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            machine: Machine::here().summary(),
            network: self.design.network(),
            data: self.design.data().to_owned(),
            samples,
            samples_at_once: samples.min(SAMPLES_AT_ONCE as u64),
            accuracy: 0.0,
            weights: PhaseRecord::default(),
            offline: PhaseRecord::default(),
            online: PhaseRecord::default(),
        }
    }
}

/// Both servers with their shares of a model, in this process.
struct Servers {
    models: [ServerModel; 2],
    weights: [OpenedWeights; 2],
}

impl Servers {
    fn new(
        network: &secureml::Network,
        rng: &mut StdRng,
        opening: &mut PhaseRecord,
    ) -> Result<Self> {
        let models = share_model(network, rng);
        let mut openings = models.each_ref().map(WeightOpening::new);
        let phase = drive_pair(openings.each_mut(), Pipe::pair())?;
        opening.add(&phase, network.structure().weight_bytes())?;
        let [first, second] = openings.map(WeightOpening::finish);
        let weights = [first?, second?];
        Ok(Self { models, weights })
    }

    /// Both phases for a part of the batch; shares of the scores.
    fn classify(
        &self,
        inputs: &Array2<f64>,
        rng: &mut StdRng,
        record: &mut SharesRecord,
    ) -> Result<[Shares; 2]> {
        let ([model0, model1], [weights0, weights1]) = (&self.models, &self.weights);
        let (structure, n) = (model0.structure(), inputs.ncols());
        let mut machines =
            [TripleGeneration::new(model0, n, rng)?, TripleGeneration::new(model1, n, rng)?];
        let offline = drive_pair(machines.each_mut(), Pipe::pair())?;
        record.offline.add(&offline, TripleGeneration::total_bytes(structure, n)?)?;
        let [material0, material1] = machines.map(TripleGeneration::finish);
        let [inputs0, inputs1] = share_inputs(inputs.view(), rng)?;
        let mut servers = [
            Inference::new(model0, weights0, material0?, inputs0)?,
            Inference::new(model1, weights1, material1?, inputs1)?,
        ];
        let online = drive_pair(servers.each_mut(), Pipe::pair())?;
        record.online.add(&online, structure.online_bytes(n))?;
        let [first, second] = servers.map(Inference::finish);
        Ok([first?, second?])
    }
}

/// Compare the first samples with plain fixed point.
///
/// # Errors
/// A score beyond the proven error, or values that do not fit.
fn compare(network: &secureml::Network, inputs: &Array2<f64>, shares: &[Shares; 2]) -> Result<()> {
    let n = inputs.ncols().min(COMPARED_SAMPLES);
    let words = inputs.slice_axis(Axis(1), (..n).into());
    let words = words.iter().map(|&x| Ok(encode(x, FRACTION_BITS)?.cast_signed()));
    let plain = network.evaluate_plain(&words.collect::<Result<Vec<_>>>()?, n)?;
    let actual = reconstruct_words(&shares[0], &shares[1])?;
    let expected = plain.values.chunks(n).zip(plain.error_ulp.chunks(n));
    for (row, (values, errors)) in actual.chunks(inputs.ncols()).zip(expected) {
        for ((&word, &value), &error) in row.iter().zip(values).zip(errors) {
            if word.cast_signed().abs_diff(value) > error {
                bail!(
                    "a score on shares is {}, in plain fixed point {value}, which may differ by \
                     {error}",
                    word.cast_signed()
                );
            }
        }
    }
    Ok(())
}

/// The network in the baseline's form. Limits of values are left out: two servers cannot compare
/// shares without another protocol.
///
/// # Errors
/// A layer without that form.
fn translated(network: &Network<f32>) -> Result<secureml::Network> {
    if !network.is_sequential() {
        bail!("a network with branches has no form on shares");
    }
    let mut translated = secureml::Network::new(network.input_shape().len())?;
    for (idx, layer) in network.layers().iter().enumerate() {
        let shape = network.layer_input_shape(idx)?;
        translated = match layer {
            Layer::Dense(dense) => {
                let weights = dense.weights.mapv(f64::from);
                translated.dense(weights.view(), &dense.bias.mapv(f64::from).to_vec())?
            }
            Layer::Conv2d(convolution) => convolved(translated, convolution, shape)?,
            Layer::Activation(Activation::Square) => translated.square()?,
            Layer::Pool2d(pool) => pooled(translated, pool, shape)?,
            Layer::Flatten | Layer::Clamp(_) | Layer::Dropout(_) => translated,
            other @ (Layer::Activation(_)
            | Layer::BatchNorm(_)
            | Layer::Quantize(_)
            | Layer::Add
            | Layer::Concat
            | _) => bail!("a layer `{}` has no form on shares", other.name()),
        };
    }
    Ok(translated)
}

fn convolved(
    network: secureml::Network,
    layer: &Conv2d<f32>,
    input: &Shape,
) -> Result<secureml::Network> {
    let &[height, width, channels] = input.dims() else { bail!("a convolution of no image") };
    let (rows, kernel_height, kernel_width, taps) = layer.weights.dim();
    let (padding, stride) = (layer.padding, [layer.stride.0, layer.stride.1]);
    // The baseline pads both sides alike; more zeros than a kernel reaches change nothing.
    let reached = |size: usize, kernel: usize, stride: usize, pads: usize| {
        (size + pads).checked_sub(kernel).map(|spare| spare / stride)
    };
    let is_same = |size, kernel, stride, before: usize, after: usize| {
        reached(size, kernel, stride, before + after) == reached(size, kernel, stride, 2 * before)
    };
    if taps != channels
        || !is_same(height, kernel_height, stride[0], padding.top, padding.bottom)
        || !is_same(width, kernel_width, stride[1], padding.left, padding.right)
    {
        bail!("a convolution in groups or with uneven zeros around has no form on shares");
    }
    let shape = Convolution {
        input: [height, width, channels],
        kernel: [kernel_height, kernel_width],
        stride,
        padding: [padding.top, padding.left],
    };
    let weights = layer.weights.mapv(f64::from);
    let weights = weights.to_shape((rows, kernel_height * kernel_width * taps))?;
    Ok(network.convolution(&shape, weights.view(), &layer.bias.mapv(f64::from).to_vec())?)
}

fn pooled(network: secureml::Network, pool: &Pool2d, input: &Shape) -> Result<secureml::Network> {
    let &[height, width, channels] = input.dims() else { bail!("a pool of no image") };
    let places = |size: usize, window: usize, stride: usize| {
        (0..size).step_by(stride).take_while(move |start| start + window <= size)
    };
    let mut windows = Vec::new();
    for top in places(height, pool.window.0, pool.stride.0) {
        for left in places(width, pool.window.1, pool.stride.1) {
            for channel in 0..channels {
                let rows = (top..top + pool.window.0).flat_map(|y| {
                    (left..left + pool.window.1).map(move |x| (y * width + x) * channels + channel)
                });
                windows.push(rows.map(u32::try_from).collect::<Result<Vec<_>, _>>()?);
            }
        }
    }
    Ok(match pool.kind {
        PoolKind::Average => network.mean_pool(windows)?,
        PoolKind::Sum => network.sum_pool(windows)?,
        PoolKind::Max => bail!("a maximum has no form on shares"),
    })
}
