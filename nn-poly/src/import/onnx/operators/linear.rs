//! Convolutions, dense layers and normalizations.

use std::rc::Rc;

use ndarray::{Array1, Array2, Array4, ArrayD, ArrayView2, Ix2, Ix4};

use super::super::importer::{Importer, Read};
use super::super::node::{Node, Outcome};
use super::super::value::{Flow, Order, Polynomial, Scores, Value, View};
use super::spatial::{Windows, total};
use crate::error::Result;
use crate::import::{Ending, Treatment};
use crate::layer::{Conv2d, Dense, Layer, Padding};

impl<'a> Importer<'a> {
    /// `Conv`; dilation becomes a larger kernel with zeros.
    pub(in super::super) fn convolution(&mut self, node: Node<'a>) -> Read {
        let mut flow = self.flow(node, 0)?;
        let kernels = self.array(node, 1)?;
        let advice = "use two-dimensional convolutions on images";
        let Some((height, width, channels)) = flow.as_channels_first() else {
            return Err(node.unsupported("it does not read channel-first images", advice).into());
        };
        let Ok(kernels) = kernels.view().into_dimensionality::<Ix4>() else {
            return Err(node.unsupported("its kernels are not two-dimensional", advice).into());
        };
        let (maps, per_group, kernel_h, kernel_w) = kernels.dim();
        let groups = usize::try_from(node.int("group", 1)).unwrap_or(0);
        if groups == 0 || maps % groups != 0 || channels % groups != 0 {
            let requirement = "a divisor of the channels and of the kernels";
            return Err(node.bad_attribute("group", requirement).into());
        }
        let expected = [maps, channels / groups, kernel_h, kernel_w];
        if kernels.shape() != expected {
            return Err(node.bad_axes("kernel", &expected, kernels.shape()).into());
        }
        let windows = Windows::read(node, [kernel_h, kernel_w], 1)?;
        let [extent_h, extent_w] = windows.extents(node)?;
        let n_weights = total(&[maps, extent_h, extent_w, per_group]);
        self.budget.take(|| node.site().to_string(), n_weights)?;
        let mut weights = Array4::zeros((maps, extent_h, extent_w, per_group));
        let [step_h, step_w] = windows.dilation;
        for ((map, channel, u, v), &weight) in kernels.indexed_iter() {
            if let Some(target) = weights.get_mut((map, u * step_h, v * step_w, channel)) {
                *target = weight;
            }
        }
        let bias = self.bias(node, 2, maps)?;
        let before = flow.padding;
        let pad = |n, a, b| n + a + b;
        let size = [pad(height, before.top, before.bottom), pad(width, before.left, before.right)];
        let own = windows.padding(node, size)?;
        let padding = Padding {
            top: own.top + before.top,
            bottom: own.bottom + before.bottom,
            left: own.left + before.left,
            right: own.right + before.right,
        };
        flow.padding = Padding::NONE;
        let [stride_h, stride_w] = windows.stride;
        let conv = Conv2d::new(weights, bias, (stride_h, stride_w), padding).with_groups(groups);
        let flow = self.apply(node, &flow, Layer::Conv2d(conv))?;
        Ok((Value::Flow(flow), Treatment::Layer("conv2d")))
    }

    /// Optional input `index` as one number per output, zeros if it is absent.
    fn bias(&mut self, node: Node<'a>, index: usize, n: usize) -> Result<Array1<f32>> {
        if node.input(index).is_none() {
            return Ok(Array1::zeros(n));
        }
        let array = self.array(node, index)?;
        let is_row = array.shape().iter().rev().skip(1).all(|&dim| dim == 1);
        match array.len() {
            len if len == n && (is_row || n == 1) => Ok(array.iter().copied().collect()),
            1 => Ok(array.iter().copied().cycle().take(n).collect()),
            _ => Err(node.bad_axes("bias", &[n], array.shape()).into()),
        }
    }

    /// `Gemm`: `alpha · A B + beta · C`, with `B` perhaps transposed.
    pub(in super::super) fn gemm(&mut self, node: Node<'a>) -> Read {
        let flow = self.flow(node, 0)?;
        if node.int("transA", 0) != 0 {
            return Err(node.bad_attribute("transA", "0: the batch is the first axis").into());
        }
        let matrix = self.array(node, 1)?;
        let alpha = node.float("alpha", 1.0);
        let n_out = self.dense_extent(node, &matrix, node.int("transB", 0) == 0)?;
        let bias = self.bias(node, 2, n_out)? * node.float("beta", 1.0);
        let by_columns = node.int("transB", 0) == 0;
        self.dense(node, &flow, (&matrix, by_columns), bias, alpha)
    }

    /// `MatMul` with constants on the right.
    pub(in super::super) fn mat_mul(&mut self, node: Node<'a>) -> Read {
        let flow = self.flow(node, 0)?;
        let matrix = self.array(node, 1)?;
        let n_out = self.dense_extent(node, &matrix, true)?;
        self.dense(node, &flow, (&matrix, true), Array1::zeros(n_out), 1.0)
    }

    /// Outputs of a matrix that has them as columns or as rows.
    fn dense_extent(
        &self,
        node: Node<'a>,
        matrix: &ArrayD<f32>,
        by_columns: bool,
    ) -> Outcome<usize> {
        match *matrix.shape() {
            // Without values, the other axis could be of any length.
            _ if matrix.is_empty() => Err(node.bad_input(1, "a matrix with values")),
            [_, n] if by_columns => Ok(n),
            [n, _] if !by_columns => Ok(n),
            _ => Err(node.bad_axes("matrix", &[0, 0], matrix.shape())),
        }
    }

    /// A dense layer. Its columns are put into the order in which this crate flattens.
    fn dense(
        &mut self,
        node: Node<'a>,
        flow: &Flow,
        (matrix, by_columns): (&ArrayD<f32>, bool),
        bias: Array1<f32>,
        alpha: f32,
    ) -> Read {
        let matrix = matrix.view().into_dimensionality::<Ix2>();
        let matrix = matrix.map_err(|_| node.bad_input(1, "a matrix"))?;
        let matrix = if by_columns { matrix.reversed_axes() } else { matrix };
        let (n_out, n_in) = matrix.dim();
        if flow.view == View::ChannelsLast && node.operator() == "MatMul" {
            return self.pointwise(node, flow, matrix);
        }
        let View::Features(order) = flow.view else {
            let (reason, advice) = ("it does not read vectors", "put Flatten before it");
            return Err(node.unsupported(reason, advice).into());
        };
        if n_in != flow.shape.len() || n_out == 0 {
            return Err(node.bad_axes("matrix", &[n_out, flow.shape.len()], &[n_out, n_in]).into());
        }
        self.budget.take(|| node.site().to_string(), total(&[n_out, n_in]))?;
        let weights = Array2::from_shape_fn((n_out, n_in), |(i, j)| {
            matrix.get((i, order.position(j))).map_or(0.0, |w| w * alpha)
        });
        let flow = self.apply(node, flow, Layer::Dense(Dense::new(weights, bias)))?;
        let flow = Flow { view: View::Features(Order::Same), ..flow };
        Ok((Value::Flow(flow), Treatment::Layer("dense")))
    }

    /// `MatMul` of channel-last images: the same dense layer at every position, a 1×1 convolution.
    fn pointwise(&mut self, node: Node<'a>, flow: &Flow, matrix: ArrayView2<'_, f32>) -> Read {
        let (n_out, n_in) = matrix.dim();
        if n_in != flow.shape.channels() || n_out == 0 {
            let expected = [n_out, flow.shape.channels()];
            return Err(node.bad_axes("matrix", &expected, &[n_out, n_in]).into());
        }
        self.budget.take(|| node.site().to_string(), matrix.len())?;
        let weight = |(map, _, _, channel)| matrix.get((map, channel)).copied().unwrap_or(0.0);
        let weights = Array4::from_shape_fn((n_out, 1, 1, n_in), weight);
        let conv = Conv2d::new(weights, Array1::zeros(n_out), (1, 1), Padding::NONE);
        let flow = self.apply(node, flow, Layer::Conv2d(conv))?;
        Ok((Value::Flow(flow), Treatment::Layer("conv2d")))
    }

    /// `BatchNormalization` with its running statistics.
    pub(in super::super) fn batch_normalization(&mut self, node: Node<'a>) -> Read {
        let flow = self.flow(node, 0)?;
        if node.int("training_mode", 0) != 0 {
            return Err(node.bad_attribute("training_mode", "0: export in evaluation mode").into());
        }
        let order = match flow.view {
            View::ChannelsFirst => Order::Same,
            View::Features(order) => order,
            View::ChannelsLast | View::Plane => {
                let reason = "it does not read channel-first images or vectors";
                return Err(node.unsupported(reason, "normalize along axis 1").into());
            }
        };
        let n = flow.shape.channels();
        let mut parts = Vec::with_capacity(4);
        for index in 1..5 {
            let array = self.array(node, index)?;
            if array.len() != n || array.ndim() != 1 {
                return Err(node.bad_axes("a statistic", &[n], array.shape()).into());
            }
            let values = array.iter().copied().map(f64::from).collect::<Vec<_>>();
            let at = |idx| values.get(order.position(idx)).copied().unwrap_or(0.0);
            parts.push((0..n).map(at).collect::<Vec<f64>>());
        }
        let [gamma, beta, mean, variance] = parts.as_slice() else {
            return Err(node.bad_input(1, "present").into());
        };
        let epsilon = f64::from(node.float("epsilon", 1e-5));
        let scale: Vec<f64> =
            gamma.iter().zip(variance).map(|(g, v)| g / (v + epsilon).sqrt()).collect();
        if !scale.iter().all(|s| s.is_finite()) {
            return Err(node.bad_input(4, "variances that are not negative").into());
        }
        let offset = beta.iter().zip(mean).zip(&scale).map(|((b, m), s)| b - m * s).collect();
        self.affine(node, flow, scale, offset)
    }

    /// Apply `scale · x + offset` to a flow, without a step yet.
    pub(in super::super) fn affine(
        &mut self,
        node: Node<'a>,
        flow: Flow,
        scale: Vec<f64>,
        offset: Vec<f64>,
    ) -> Read {
        let constant = |values: Vec<f64>| Polynomial::affine(vec![0.0], values);
        let scaled = flow.polynomial.product(&constant(scale));
        let polynomial = scaled
            .ok_or_else(|| node.unsupported("it is of degree 3", "use degree 2"))?
            .sum(&constant(offset));
        self.with_polynomial(node, flow, polynomial, Treatment::Folded)
    }

    /// A flow with another polynomial; one that pads cannot change any more.
    pub(in super::super) fn with_polynomial(
        &mut self,
        node: Node<'a>,
        flow: Flow,
        polynomial: Polynomial,
        treatment: Treatment,
    ) -> Read {
        if !flow.padding.is_none() {
            let advice = "put Pad directly before the convolution";
            return Err(node.unsupported("it reads an image padded by Pad", advice).into());
        }
        self.budget.take(|| node.site().to_string(), 2 * polynomial.len())?;
        Ok((Value::Flow(Flow { polynomial: Rc::new(polynomial), ..flow }), treatment))
    }

    /// `Scaler` of classical machine learning: `(x − offset) · scale`.
    pub(in super::super) fn scaler(&mut self, node: Node<'a>) -> Read {
        let flow = self.flow(node, 0)?;
        let n = flow.shape.len();
        let read = |name: &'static str| -> Outcome<Vec<f64>> {
            let values = node.floats(name).unwrap_or_default();
            let fits = values.len() == 1 || values.len() == n;
            if !fits || values.iter().any(|v| !v.is_finite()) {
                return Err(node.bad_attribute(name, "one finite number, or one per feature"));
            }
            Ok(values.iter().copied().map(f64::from).collect())
        };
        if flow.view != View::Features(Order::Same) {
            return Err(node.unsupported("it does not read vectors", "put it first").into());
        }
        let (offset, scale) = (read("offset")?, read("scale")?);
        let entry = crate::import::assemble::entry;
        let offset = (0..offset.len().max(scale.len()))
            .map(|i| -entry(&offset, i) * entry(&scale, i))
            .collect();
        self.affine(node, flow, scale, offset)
    }

    /// `LinearClassifier` of classical machine learning; its second output is read.
    pub(in super::super) fn linear_classifier(&mut self, node: Node<'a>) -> Read {
        let flow = self.flow(node, 0)?;
        let ending = match node.word("post_transform", "NONE") {
            "NONE" => None,
            "SOFTMAX" => Some(Ending::Softmax),
            "LOGISTIC" => Some(Ending::Sigmoid),
            _ => {
                let requirement = "NONE, SOFTMAX or LOGISTIC";
                return Err(node.bad_attribute("post_transform", requirement).into());
            }
        };
        let coefficients = node.floats("coefficients").unwrap_or_default();
        let n_in = flow.shape.len();
        let n_out = coefficients.len() / n_in;
        let refuse = || node.bad_attribute("coefficients", "finite, one per class and feature");
        if n_out * n_in != coefficients.len() || coefficients.iter().any(|w| !w.is_finite()) {
            return Err(refuse().into());
        }
        if n_out == 1 && ending != Some(Ending::Sigmoid) {
            // Runtimes make a second column of it, by rules that depend on the signs of the weights.
            let requirement = "LOGISTIC for a single score: without, its threshold is open";
            return Err(node.bad_attribute("post_transform", requirement).into());
        }
        self.budget.take(|| node.site().to_string(), coefficients.len())?;
        let intercepts = node.floats("intercepts").unwrap_or_default();
        let bias = match intercepts.len() {
            0 => Array1::zeros(n_out),
            n if n == n_out => Array1::from(intercepts.to_vec()),
            _ => return Err(node.bad_attribute("intercepts", "absent or one per class").into()),
        };
        let matrix = ArrayD::from_shape_vec(vec![n_out, n_in], coefficients.to_vec());
        let matrix = Rc::new(matrix.map_err(|_| refuse())?);
        let (value, treatment) = self.dense(node, &flow, (&matrix, false), bias, 1.0)?;
        Ok(match (value, ending) {
            (Value::Flow(flow), Some(ending)) => {
                // Of a single score, the classifier makes two columns.
                let (site, is_pair) = (node.site(), n_out == 1);
                let scores = Scores { flow, ending, site, is_complement: false, is_pair };
                (Value::Scores(scores), treatment)
            }
            (value, _) => (value, treatment),
        })
    }
}
