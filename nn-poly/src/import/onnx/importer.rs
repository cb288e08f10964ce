//! Walks a graph from its input to the chosen output and writes down the steps.

use std::collections::BTreeMap;
use std::rc::Rc;

use ndarray::{Array1, ArrayD};

use super::super::assemble::{Budget, Link, Step, entry, single};
use super::super::{Ending, ImportError, ImportedNode, Treatment};
use super::graph::Graph;
use super::input::input_view;
use super::node::Node;
use super::tensor::{Store, is_integer};
use super::value::{Flow, Gate, Order, Polynomial, Scores, VIEWED_INPUT, Value, View};
use crate::error::{Error, Result};
use crate::layer::{Activation, Fault, Layer, Padding};
use crate::tensor::Shape;

/// What to do about arithmetic that no layer computes.
pub(super) const USE_POLYNOMIAL: &str =
    "replace it by ReLU, GELU, a square or the like and fine-tune before exporting";

/// A graph on its way to becoming layers.
pub(super) struct Importer<'a> {
    pub(super) graph: &'a Graph<'a>,
    pub(super) budget: &'a mut Budget,
    store: Store,
    /// Fixed length of the batch axis in the file.
    pub(super) batch: Option<i64>,
    /// Shape of the input as the file gives it.
    input_shape: Shape,
    /// The image as which a graph views an input that the file gives as a vector.
    pub(super) viewed: Option<Shape>,
    values: BTreeMap<&'a str, Value>,
    /// Every step with the steps it reads (0 is the input).
    steps: Vec<Link>,
    /// The step that computes a polynomial (kept, so that its address stays its own) of the channels
    /// of a base: all that read it share one.
    settled: BTreeMap<(usize, usize, *const Polynomial), (Rc<Polynomial>, usize)>,
    /// The step that computes the logistic function of a step: all that read it share one.
    pub(super) logistic: BTreeMap<usize, usize>,
    pub(super) nodes: Vec<ImportedNode>,
}

/// The scores of a graph and how they end.
pub(super) struct Finished {
    /// All lead to the last.
    pub(super) links: Vec<Link>,
    pub(super) input_shape: Shape,
    pub(super) nodes: Vec<ImportedNode>,
    pub(super) ending: Option<Ending>,
    /// One score for two classes.
    pub(super) is_binary: bool,
}

impl<'a> Importer<'a> {
    /// Read the part of `graph` that leads to `output`, for samples of the shape `wanted`, if it is known.
    pub(super) fn run(
        graph: &'a Graph<'a>,
        (output, wanted): (&'a str, Option<&Shape>),
        store: Store,
        budget: &'a mut Budget,
    ) -> Result<Finished> {
        let input = graph.input()?;
        let (shape, view) = input_view(graph, &input, wanted)?;
        let flow = Flow {
            base: 0,
            shape: shape.clone(),
            view,
            polynomial: Rc::new(Polynomial::identity()),
            padding: Padding::NONE,
        };
        let mut importer = Importer {
            graph,
            budget,
            store,
            batch: input.batch,
            input_shape: shape,
            viewed: None,
            values: BTreeMap::from([(input.name, Value::Flow(flow))]),
            steps: Vec::new(),
            settled: BTreeMap::new(),
            logistic: BTreeMap::new(),
            nodes: Vec::new(),
        };
        for node in graph.order(output)? {
            importer.node(node)?;
        }
        importer.finish(output)
    }

    /// Read one node and give its output a meaning.
    fn node(&mut self, node: Node<'a>) -> Result<()> {
        let (value, treatment) = self.operator(node)?;
        // Of two outputs, label and scores, a classifier's second one holds the scores.
        let position = usize::from(node.operator() == "ai.onnx.ml.LinearClassifier");
        if let Some(name) = node.proto.output.get(position).filter(|name| !name.is_empty()) {
            self.values.insert(name, value);
        }
        self.nodes.push(ImportedNode { site: node.site(), treatment });
        Ok(())
    }

    /// The meaning of input `index` of `node`.
    pub(super) fn value(&mut self, node: Node<'a>, index: usize) -> Result<Value> {
        let name =
            node.input(index).ok_or_else(|| node.bad_input(index, "present (it is missing)"))?;
        if let Some(value) = self.values.get(name) {
            return Ok(value.clone());
        }
        let Some(tensor) = self.graph.initializer(name) else {
            let (site, name) = (node.site(), name.chars().take(80).collect());
            return Err(ImportError::MissingValue { site, name }.into());
        };
        let value = self.constant(name, tensor)?;
        self.values.insert(name, value.clone());
        Ok(value)
    }

    /// Decode a tensor of the file.
    pub(super) fn constant(
        &mut self,
        name: &str,
        tensor: &super::proto::TensorProto,
    ) -> Result<Value> {
        Ok(if is_integer(tensor) {
            let integers = self.store.integers(name, tensor, self.budget)?;
            Value::Integers(Rc::new(integers.into_iter().map(Some).collect()))
        } else {
            Value::Array(Rc::new(self.store.floats(name, tensor, self.budget)?))
        })
    }

    /// Input `index` as values that depend on the network's input.
    pub(super) fn flow(&mut self, node: Node<'a>, index: usize) -> Result<Flow> {
        match self.value(node, index)? {
            Value::Flow(flow) => Ok(flow),
            Value::Scores(scores) => self.unfinished(node, &scores),
            Value::Gate(gate) => Err(refuse_gate(&gate).into()),
            Value::Array(_) | Value::Integers(_) | Value::Matrix(_) => Err(node
                .bad_input(index, "computed from the network's input, not a constant")
                .into()),
        }
    }

    /// Input `index` as constants.
    pub(super) fn array(&mut self, node: Node<'a>, index: usize) -> Result<Rc<ArrayD<f32>>> {
        const ADVICE: &str = "a constant: weights computed from the input have no layer";
        match self.value(node, index)? {
            Value::Array(array) => Ok(array),
            Value::Flow(_)
            | Value::Scores(_)
            | Value::Gate(_)
            | Value::Integers(_)
            | Value::Matrix(_) => Err(node.bad_input(index, ADVICE).into()),
        }
    }

    /// Input `index` as whole numbers of fixed value.
    pub(super) fn integers(&mut self, node: Node<'a>, index: usize) -> Result<Vec<i64>> {
        let refuse = || Error::from(node.bad_input(index, "constant whole numbers"));
        match self.value(node, index)? {
            Value::Integers(integers) => {
                integers.iter().copied().collect::<Option<Vec<_>>>().ok_or_else(refuse)
            }
            Value::Flow(_)
            | Value::Scores(_)
            | Value::Gate(_)
            | Value::Array(_)
            | Value::Matrix(_) => Err(refuse()),
        }
    }

    /// Write down `step`, which reads the results of steps `sources`; the number of its own result.
    fn push(&mut self, sources: Vec<usize>, step: Step) -> usize {
        self.steps.push(Link { sources, step });
        self.steps.len()
    }

    /// Let `flow` go through `layer`.
    pub(super) fn apply(&mut self, node: Node<'a>, flow: &Flow, layer: Layer<f32>) -> Result<Flow> {
        self.join(node, std::slice::from_ref(flow), layer)
    }

    /// Let flows of one view, at least one, go through `layer` together.
    pub(super) fn join(
        &mut self,
        node: Node<'a>,
        flows: &[Flow],
        layer: Layer<f32>,
    ) -> Result<Flow> {
        let flows = flows.iter().map(|flow| self.settle(node, flow)).collect::<Result<Vec<_>>>()?;
        let shapes: Vec<&Shape> = flows.iter().map(|flow| &flow.shape).collect();
        let shape = layer.output_shape(&shapes).map_err(|fault| match fault {
            Fault::Input(reason) | Fault::Inputs { reason, .. } => {
                node.unsupported(reason, "check that the file describes the network you mean")
            }
            Fault::ParameterShape { field, expected, actual } => {
                node.bad_axes(field, &expected, &actual)
            }
            Fault::ParameterValue { field, position, value, .. } => {
                ImportError::NonFinite { name: field.to_owned(), position, value }
            }
        })?;
        let base = self.push(flows.iter().map(|flow| flow.base).collect(), Step::Layer(layer));
        let first = flows.into_iter().next().expect("invariant: every layer reads something");
        Ok(Flow { base, shape, ..first })
    }

    /// Turn the polynomial of a flow into steps, so that its base is the values themselves.
    pub(super) fn settle(&mut self, node: Node<'a>, flow: &Flow) -> Result<Flow> {
        if !flow.padding.is_none() {
            let advice = "let the convolution pad by itself, or put Pad directly before it";
            return Err(node.unsupported("it reads an image padded by Pad", advice).into());
        }
        if flow.polynomial.is_identity() {
            return Ok(flow.clone());
        }
        let settled = Rc::new(Polynomial::identity());
        let key = (flow.base, flow.shape.channels(), Rc::as_ptr(&flow.polynomial));
        if let Some(&(_, base)) = self.settled.get(&key) {
            return Ok(Flow { base, polynomial: settled, ..flow.clone() });
        }
        let mut base = flow.base;
        let n_coefficients = flow.polynomial.len();
        self.budget.take(|| node.site().to_string(), n_coefficients.saturating_mul(4))?;
        if let Some(affine) = flow.polynomial.as_affine() {
            base = self.push(vec![base], Step::Affine(affine));
        } else if let Some(root) = flow.polynomial.square_root() {
            if !root.is_identity() {
                base = self.push(vec![base], Step::Affine(root));
            }
            base = self.push(vec![base], Step::Layer(Layer::Activation(Activation::Square)));
        } else {
            let n = flow.shape.channels();
            self.budget.take(|| node.site().to_string(), n.saturating_mul(3))?;
            let spread = |values: &[f64]| -> Array1<f32> {
                (0..n).map(|i| single(entry(values, i))).collect()
            };
            let Polynomial { a, b, c } = flow.polynomial.as_ref();
            let activation = Activation::Polynomial { a: spread(a), b: spread(b), c: spread(c) };
            base = self.push(vec![base], Step::Layer(Layer::Activation(activation)));
        }
        self.settled.insert(key, (Rc::clone(&flow.polynomial), base));
        Ok(Flow { base, polynomial: settled, ..flow.clone() })
    }

    /// A flow as a vector: flattened unless it is one.
    pub(super) fn flatten(&mut self, node: Node<'a>, flow: &Flow) -> Result<Flow> {
        let (channels, plane) = match (flow.view, flow.shape.as_image()) {
            (View::Features(_), _) | (_, None) => return Ok(flow.clone()),
            (_, Some((height, width, channels))) => (channels, height * width),
        };
        let order = match flow.view {
            View::ChannelsFirst => Order::of_flattened(channels, plane),
            View::ChannelsLast | View::Plane | View::Features(_) => Order::Same,
        };
        let flow = self.apply(node, flow, Layer::Flatten)?;
        Ok(Flow { view: View::Features(order), ..flow })
    }

    /// Take the value of `output` as the scores of the network.
    fn finish(mut self, output: &str) -> Result<Finished> {
        let not_scores = |reason| {
            let name = output.chars().take(80).collect();
            Error::from(ImportError::NotScores { name, reason })
        };
        let last = self.graph.order(output)?.pop();
        let (flow, ending) = match self.values.get(output).cloned() {
            Some(Value::Flow(flow)) => (flow, None),
            Some(Value::Scores(scores)) if !scores.is_complement => {
                (scores.flow, Some(scores.ending))
            }
            Some(Value::Scores(_)) => return Err(not_scores("it is one minus a probability")),
            Some(Value::Gate(gate)) => return Err(refuse_gate(&gate).into()),
            Some(Value::Array(_) | Value::Integers(_) | Value::Matrix(_)) | None => {
                return Err(not_scores("it does not depend on the network's input"));
            }
        };
        let Some(last) = last else { return Err(not_scores("it is the input itself")) };
        let is_flat = match (flow.view, flow.shape.as_image()) {
            (View::Features(order), _) => order == Order::Same,
            (_, Some((height, width, _))) => height * width == 1,
            (_, None) => true,
        };
        if !is_flat {
            return Err(not_scores("it is an image; classifiers end in one score per class"));
        }
        let flow = self.flatten(last, &flow)?;
        let flow = self.settle(last, &flow)?;
        let is_binary = flow.shape.len() == 1;
        if is_binary && matches!(ending, Some(Ending::Softmax | Ending::LogSoftmax)) {
            return Err(not_scores("the softmax of a single score is always 1"));
        }
        let nodes = self.nodes.clone();
        let (input_shape, links) = self.links(flow.base);
        Ok(Finished { links, input_shape, nodes, ending, is_binary })
    }

    /// The steps that lead to step `base`, in order, and the shape of the input they read.
    ///
    /// An input that is viewed as an image is one; what reads it as the vector of the file reads it
    /// flattened.
    fn links(self, base: usize) -> (Shape, Vec<Link>) {
        let mut is_needed = vec![false; self.steps.len() + 1];
        let mark = |marks: &mut [bool], value: usize| {
            if let Some(mark) = marks.get_mut(value) {
                *mark = true;
            }
        };
        mark(&mut is_needed, base);
        for (idx, link) in self.steps.iter().enumerate().rev() {
            if is_needed.get(idx + 1) == Some(&true) {
                link.sources.iter().for_each(|&source| mark(&mut is_needed, source));
            }
        }
        let needed = self.steps.iter().zip(is_needed.iter().skip(1)).filter(|(_, is)| **is);
        let reads = |wanted| needed.clone().any(|(link, _)| link.sources.contains(&wanted));
        let viewed = self.viewed.filter(|_| reads(VIEWED_INPUT));
        // The new number of every value that is kept.
        let mut numbers = vec![0; self.steps.len() + 1];
        let mut links = Vec::new();
        if viewed.is_some() && reads(0) {
            links.push(Link { sources: vec![0], step: Step::Layer(Layer::Flatten) });
            numbers.fill(1);
        }
        for (idx, mut link) in self.steps.into_iter().enumerate() {
            if is_needed.get(idx + 1) != Some(&true) {
                continue;
            }
            for source in &mut link.sources {
                *source = numbers.get(*source).copied().unwrap_or(0);
            }
            links.push(link);
            if let Some(number) = numbers.get_mut(idx + 1) {
                *number = links.len();
            }
        }
        (viewed.unwrap_or(self.input_shape), links)
    }

    /// Decide what an operator means. The order is that of the tables in [`super`].
    fn operator(&mut self, node: Node<'a>) -> Result<(Value, Treatment)> {
        match node.operator().as_str() {
            "Conv" => self.convolution(node),
            "Gemm" => self.gemm(node),
            "MatMul" => self.mat_mul(node),
            "BatchNormalization" => self.batch_normalization(node),
            "ai.onnx.ml.Scaler" => self.scaler(node),
            "ai.onnx.ml.LinearClassifier" => self.linear_classifier(node),
            "AveragePool" | "MaxPool" => self.pool(node),
            "GlobalAveragePool" | "GlobalMaxPool" | "ReduceMean" => self.global_pool(node),
            "Relu" => self.relu(node),
            "Clip" => self.clip(node),
            "Tanh" | "Gelu" | "LeakyRelu" | "PRelu" | "Softplus" | "Abs" => self.function(node),
            "Erf" => self.error_function(node),
            "Add" | "Sub" | "Mul" | "Div" => self.arithmetic(node),
            "Pow" => self.power(node),
            "Neg" => self.negate(node),
            "Flatten" => self.flatten_operator(node),
            "Reshape" | "Squeeze" | "Unsqueeze" => self.reshape(node),
            "Transpose" => self.transpose(node),
            "Pad" => self.pad(node),
            "Identity" | "Dropout" | "Cast" | "CastLike" => self.pass(node),
            "Softmax"
            | "LogSoftmax"
            | "Sigmoid"
            | "ai.onnx.ml.ZipMap"
            | "ai.onnx.ml.Normalizer" => self.ending(node),
            "Constant" => self.constant_operator(node),
            "ConstantOfShape" => self.constant_of_shape(node),
            "Shape" | "Gather" | "Slice" => self.shape_arithmetic(node),
            "Concat" => self.concat(node),
            _ => Err(refuse(node).into()),
        }
    }
}

/// Scores that are not at the end, and are not the values of an activation either.
pub(super) fn refuse_scores(scores: &Scores) -> ImportError {
    ImportError::Unsupported {
        site: scores.site.clone(),
        reason: "no layer computes it, and it can be left out only as the last operation",
        advice: USE_POLYNOMIAL,
    }
}

/// An error function that is no part of GELU.
pub(super) fn refuse_gate(gate: &Gate) -> ImportError {
    ImportError::Unsupported {
        site: gate.site.clone(),
        reason: "no layer computes it outside of GELU, x · (1 + erf(x / √2)) / 2",
        advice: USE_POLYNOMIAL,
    }
}

/// Why an operator is not read, and what to do.
fn refuse(node: Node<'_>) -> ImportError {
    let (reason, advice) = match node.operator().as_str() {
        "Elu" | "Selu" | "Celu" | "Softsign" | "HardSigmoid" | "HardSwish" | "Mish"
        | "ThresholdedRelu" | "Exp" | "Sqrt" | "Swish" => {
            ("no layer computes this function", USE_POLYNOMIAL)
        }
        "ConvTranspose" | "Resize" | "Upsample" => {
            ("networks that enlarge images are not read", "use a classifier")
        }
        "LSTM" | "GRU" | "RNN" | "Loop" | "Scan" | "If" => {
            ("networks with state or choices are not read", "use a feed-forward classifier")
        }
        "LayerNormalization"
        | "InstanceNormalization"
        | "GroupNormalization"
        | "LpNormalization"
        | "LRN" => (
            "it divides by what it computes from each sample",
            "train with batch normalization, which is folded into the weights",
        ),
        "QuantizeLinear" | "DequantizeLinear" | "QLinearConv" | "QLinearMatMul" | "ConvInteger"
        | "MatMulInteger" => (
            "quantized networks are not read",
            "export the float network; bits are chosen by `securedl compile --bits`",
        ),
        "ArgMax" | "ai.onnx.ml.ArrayFeatureExtractor" | "ai.onnx.ml.LabelEncoder" => (
            "labels cannot be computed on encrypted values",
            "choose the output that holds the scores: --output NAME",
        ),
        _ => (
            "no layer computes it",
            "use convolutions, dense layers, batch normalization, pools, ReLU, GELU and the like, and \
             polynomials of degree 2",
        ),
    };
    node.unsupported(reason, advice)
}

/// The value and treatment of a node that only changes how values are seen.
pub(super) fn layout(flow: Flow) -> (Value, Treatment) {
    (Value::Flow(flow), Treatment::Layout)
}

/// Result of reading one operator.
pub(super) type Read = Result<(Value, Treatment)>;
