//! The graph as a whole: operator sets, names, the input, the chosen output, and the order of nodes.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{ImportError, printable};
use super::node::{Node, Outcome};
use super::proto::{GraphProto, ModelProto, TensorProto, ValueInfoProto, element};

/// Oldest and newest supported version of the default operator set.
pub(super) const OPSETS: (i64, i64) = (11, 21);
/// The same for the operators of classical machine learning, of which two are read.
const ML_OPSETS: (i64, i64) = (1, 5);
/// Name of the set of classical machine learning.
pub(super) const ML_DOMAIN: &str = "ai.onnx.ml";

/// Checked view of a model.
pub(super) struct Graph<'a> {
    proto: &'a GraphProto,
    /// Version of each operator set by domain; the default domain is the empty string.
    opsets: BTreeMap<&'a str, i64>,
    /// The node that defines each name.
    producers: BTreeMap<&'a str, usize>,
    initializers: BTreeMap<&'a str, &'a TensorProto>,
    /// Domain and name of the operators that the file defines itself.
    functions: BTreeSet<(&'a str, &'a str)>,
}

/// The one input that is not a constant.
pub(super) struct GraphInput<'a> {
    pub(super) name: &'a str,
    /// Length of the batch axis, if it is fixed.
    pub(super) batch: Option<i64>,
    /// The other axes.
    pub(super) dims: Vec<usize>,
}

impl<'a> Graph<'a> {
    /// Check versions and that every name has one meaning.
    pub(super) fn new(model: &'a ModelProto) -> Outcome<Self> {
        let proto = model
            .graph
            .as_ref()
            .ok_or_else(|| ImportError::NotOnnx { cause: "it holds no graph".into() })?;
        check_names(proto)?;
        let mut opsets = BTreeMap::new();
        for set in &model.opset_import {
            let domain = default_domain(&set.domain);
            let (min, max) = match domain {
                "" => OPSETS,
                ML_DOMAIN => ML_OPSETS,
                _ => (i64::MIN, i64::MAX),
            };
            if !(min..=max).contains(&set.version) {
                let domain = if domain.is_empty() { "ai.onnx" } else { domain };
                let (domain, version) = (printable(domain, 80), set.version);
                return Err(ImportError::UnsupportedOpset { domain, version, min, max });
            }
            if opsets.insert(domain, set.version).is_some() {
                let domain = if domain.is_empty() { "ai.onnx" } else { domain };
                return Err(ImportError::DuplicateName { name: printable(domain, 80) });
            }
        }
        if !opsets.contains_key("") && !opsets.contains_key(ML_DOMAIN) {
            let cause = "it names no version of the operator set `ai.onnx`".into();
            return Err(ImportError::NotOnnx { cause });
        }
        if !proto.sparse_initializer.is_empty() {
            let what = "weights are stored as sparse tensors, which are not read";
            return Err(ImportError::Unread { what, advice: "export them as dense ones" });
        }
        let functions = model.functions.iter();
        let functions = functions.map(|f| (default_domain(&f.domain), f.name.as_str())).collect();
        let (producers, initializers) = (BTreeMap::new(), BTreeMap::new());
        let mut graph = Self { proto, opsets, producers, initializers, functions };
        graph.collect_names()?;
        Ok(graph)
    }

    fn collect_names(&mut self) -> Outcome<()> {
        let mut defined = BTreeSet::new();
        let twice =
            |name: &str| ImportError::DuplicateName { name: name.chars().take(80).collect() };
        for tensor in &self.proto.initializer {
            if !defined.insert(tensor.name.as_str()) {
                return Err(twice(&tensor.name));
            }
            self.initializers.insert(&tensor.name, tensor);
        }
        // An input may repeat the name of an initializer, which is then its default value.
        let inputs = self.inputs().map(|input| input.name.as_str()).collect::<Vec<_>>();
        for name in inputs {
            if !defined.insert(name) {
                return Err(twice(name));
            }
        }
        for (node_idx, node) in self.proto.node.iter().enumerate() {
            for name in node.output.iter().filter(|name| !name.is_empty()) {
                if !defined.insert(name) {
                    return Err(twice(name));
                }
                self.producers.insert(name, node_idx);
            }
        }
        Ok(())
    }

    /// Inputs without a default value.
    fn inputs(&self) -> impl Iterator<Item = &'a ValueInfoProto> {
        self.proto.input.iter().filter(|input| !self.initializers.contains_key(input.name.as_str()))
    }

    /// Version of the default operator set, or of the one for machine learning.
    pub(super) fn opset(&self) -> i64 {
        self.opsets.get("").or_else(|| self.opsets.get(ML_DOMAIN)).copied().unwrap_or(0)
    }

    pub(super) fn n_nodes(&self) -> usize {
        self.proto.node.len()
    }

    pub(super) fn initializer(&self, name: &str) -> Option<&'a TensorProto> {
        self.initializers.get(name).copied()
    }

    fn node(&self, idx: usize) -> Option<Node<'a>> {
        let proto = self.proto.node.get(idx)?;
        let domain = default_domain(&proto.domain);
        Some(Node { proto, opset: self.opsets.get(domain).copied().unwrap_or(0) })
    }

    /// Nodes that read `name`.
    pub(super) fn readers(&self, name: &str) -> impl Iterator<Item = Node<'a>> {
        (0..self.n_nodes())
            .filter_map(|idx| self.node(idx))
            .filter(move |node| node.proto.input.iter().any(|input| input == name))
    }

    /// The only input, with all axes but the first of fixed length.
    pub(super) fn input(&self) -> Outcome<GraphInput<'a>> {
        let inputs = self.inputs().collect::<Vec<_>>();
        let &[input] = inputs.as_slice() else {
            let names = inputs.iter().map(|input| input.name.clone()).collect();
            return Err(ImportError::Inputs { names });
        };
        let tensor = input.value_type.as_ref().and_then(|t| t.tensor_type.as_ref());
        let tensor = tensor.filter(|tensor| {
            matches!(
                tensor.elem_type,
                element::FLOAT | element::DOUBLE | element::FLOAT16 | element::BFLOAT16
            )
        });
        let name = || input.name.clone();
        let tensor = tensor.ok_or_else(|| ImportError::ElementType {
            name: name(),
            element_type: "no floating-point tensor".into(),
            expected: "a tensor of floating-point numbers",
        })?;
        let dims = tensor.shape.as_ref().map_or(&[][..], |shape| shape.dim.as_slice());
        let lengths: Vec<Option<i64>> =
            dims.iter().map(|dim| dim.dim_value.filter(|&length| length > 0)).collect();
        let Some((&batch, rest)) = lengths.split_first() else {
            return Err(ImportError::InputRank { name: name(), dims: Vec::new() });
        };
        let mut axes = Vec::new();
        for (position, length) in rest.iter().enumerate() {
            let length = length
                .ok_or_else(|| ImportError::DynamicShape { name: name(), axis: position + 1 })?;
            axes.push(usize::try_from(length).unwrap_or(usize::MAX));
        }
        Ok(GraphInput { name: &input.name, batch, dims: axes })
    }

    /// The output that holds the scores: `wanted`, or the only one that is a floating-point tensor, or
    /// the only one that is no tensor (a list of maps from class to probability).
    pub(super) fn output(&self, wanted: Option<&str>) -> Outcome<&'a str> {
        let outputs = &self.proto.output;
        let names = |outputs: &[&ValueInfoProto]| {
            outputs.iter().map(|output| output.name.clone()).collect::<Vec<_>>()
        };
        let all = outputs.iter().collect::<Vec<_>>();
        if let Some(wanted) = wanted {
            return all
                .iter()
                .find(|output| output.name == wanted)
                .map(|o| o.name.as_str())
                .ok_or_else(|| ImportError::UnknownOutput {
                    name: wanted.to_owned(),
                    names: names(&all),
                });
        }
        let element_type = |output: &ValueInfoProto| {
            output.value_type.as_ref().and_then(|t| t.tensor_type.as_ref()).map(|t| t.elem_type)
        };
        let is_float = |output: &&ValueInfoProto| {
            // A type of 0 is not stated.
            matches!(
                element_type(output),
                Some(0 | element::FLOAT | element::DOUBLE | element::FLOAT16 | element::BFLOAT16)
            )
        };
        let floats = all.iter().copied().filter(|output| is_float(output)).collect::<Vec<_>>();
        let others =
            all.iter().copied().filter(|output| element_type(output).is_none()).collect::<Vec<_>>();
        match (floats.as_slice(), others.as_slice()) {
            (&[output], _) | (&[], &[output]) => Ok(&output.name),
            _ => Err(ImportError::Outputs { names: names(&all) }),
        }
    }

    /// Refuse a node whose operator the file defines itself, perhaps unlike the one of that name.
    fn check_built_in(&self, node: Node<'_>) -> Outcome<()> {
        let operator = (default_domain(&node.proto.domain), node.proto.op_type.as_str());
        if self.functions.contains(&operator) {
            let reason = "the file defines it by a function of its own";
            let advice = "write its operations into the graph: onnx.inliner.inline_local_functions";
            return Err(node.unsupported(reason, advice));
        }
        Ok(())
    }

    /// The nodes on which `output` depends, each after those it reads.
    pub(super) fn order(&self, output: &str) -> Outcome<Vec<Node<'a>>> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            Open,
            Done,
        }
        let mut marks = vec![Mark::New; self.n_nodes()];
        let mut order = Vec::new();
        let mut stack: Vec<usize> = self.producers.get(output).copied().into_iter().collect();
        while let Some(&idx) = stack.last() {
            let (Some(node), Some(mark)) = (self.node(idx), marks.get_mut(idx)) else { break };
            if *mark != Mark::New {
                if *mark == Mark::Open {
                    self.check_built_in(node)?;
                    *mark = Mark::Done;
                    order.push(node);
                }
                stack.pop();
                continue;
            }
            *mark = Mark::Open;
            for name in node.proto.input.iter().filter(|name| !name.is_empty()) {
                let Some(&source) = self.producers.get(name.as_str()) else { continue };
                match marks.get(source) {
                    Some(Mark::New) => stack.push(source),
                    Some(Mark::Open) => return Err(ImportError::Cycle { site: node.site() }),
                    Some(Mark::Done) | None => {}
                }
            }
        }
        Ok(order)
    }
}

/// A domain, the empty string for the default one.
fn default_domain(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

/// Longest name, in bytes.
const MAX_NAME_BYTES: usize = 4096;

/// Refuse names that are too long to show, or that would control a terminal that shows them.
fn check_names(graph: &GraphProto) -> Outcome<()> {
    let of_nodes = graph.node.iter().flat_map(|node| {
        [&node.name, &node.op_type, &node.domain].into_iter().chain(&node.input).chain(&node.output)
    });
    let of_tensors = graph.initializer.iter().map(|tensor| &tensor.name);
    let of_ends = graph.input.iter().chain(&graph.output).map(|value| &value.name);
    let is_bad = |name: &&String| name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control);
    match of_nodes.chain(of_tensors).chain(of_ends).find(is_bad) {
        None => Ok(()),
        Some(name) => Err(ImportError::UnprintableName { name: printable(name, 80) }),
    }
}
