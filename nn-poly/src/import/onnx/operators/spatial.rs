//! Pools, padding, and the geometry of windows.

use super::super::importer::{Importer, Read};
use super::super::node::{MAX_EXTENT, Node, Outcome};
use super::super::value::{Flow, Order, Value, View};
use crate::error::Result;
use crate::import::Treatment;
use crate::layer::{Conv2d, Layer, Padding, Pool2d, PoolKind};

/// Kernel, stride, dilation and padding along both axes of an image.
pub(super) struct Windows {
    kernel: [usize; 2],
    pub(super) stride: [usize; 2],
    pub(super) dilation: [usize; 2],
    rule: PaddingRule,
}

enum PaddingRule {
    /// Top, left, bottom, right.
    Explicit([usize; 4]),
    /// So that only the stride shrinks the image; the odd zero goes first.
    SameLower,
    /// The same; the odd zero goes last.
    SameUpper,
}

impl Windows {
    /// Read the attributes of `Conv` and of pools, whose strides default to 1.
    pub(super) fn read(node: Node<'_>, kernel: [usize; 2], stride: usize) -> Outcome<Self> {
        const TWO: &str = "two whole numbers of at least 1";
        const FOUR: &str = "four whole numbers that are not negative";
        if node.has("kernel_shape") && node.counts::<2>("kernel_shape", (1, 1), TWO)? != kernel {
            return Err(node.bad_attribute("kernel_shape", "the axes of the kernels"));
        }
        let rule = match node.word("auto_pad", "NOTSET") {
            "NOTSET" => PaddingRule::Explicit(node.counts::<4>("pads", (0, 0), FOUR)?),
            "VALID" => PaddingRule::Explicit([0; 4]),
            "SAME_UPPER" => PaddingRule::SameUpper,
            "SAME_LOWER" => PaddingRule::SameLower,
            _ => {
                let requirement = "NOTSET, VALID, SAME_UPPER or SAME_LOWER";
                return Err(node.bad_attribute("auto_pad", requirement));
            }
        };
        Ok(Self {
            kernel,
            stride: node.counts::<2>("strides", (stride, 1), TWO)?,
            dilation: node.counts::<2>("dilations", (1, 1), TWO)?,
            rule,
        })
    }

    /// Extents of the dilated kernel.
    pub(super) fn extents(&self, node: Node<'_>) -> Outcome<[usize; 2]> {
        let extent = |kernel: usize, dilation: usize| {
            let extent = kernel.checked_sub(1)?.checked_mul(dilation)?.checked_add(1)?;
            (extent <= MAX_EXTENT).then_some(extent)
        };
        let [(kernel_h, step_h), (kernel_w, step_w)] =
            [(self.kernel[0], self.dilation[0]), (self.kernel[1], self.dilation[1])];
        let refuse = || node.bad_attribute("dilations", "small enough for an image");
        Ok([
            extent(kernel_h, step_h).ok_or_else(refuse)?,
            extent(kernel_w, step_w).ok_or_else(refuse)?,
        ])
    }

    /// Zeros around an image of `size` rows and columns.
    pub(super) fn padding(&self, node: Node<'_>, size: [usize; 2]) -> Outcome<Padding> {
        let [extent_h, extent_w] = self.extents(node)?;
        let same = |size: usize, extent: usize, stride: usize| {
            let covered = (size.div_ceil(stride) - 1) * stride + extent;
            covered.saturating_sub(size)
        };
        let (rows, columns) =
            (same(size[0], extent_h, self.stride[0]), same(size[1], extent_w, self.stride[1]));
        let split = |less: fn(usize) -> usize| {
            let (top, left) = (less(rows), less(columns));
            Padding { top, bottom: rows - top, left, right: columns - left }
        };
        Ok(match self.rule {
            PaddingRule::Explicit([top, left, bottom, right]) => {
                Padding { top, bottom, left, right }
            }
            PaddingRule::SameUpper => split(|n| n / 2),
            PaddingRule::SameLower => split(|n| n.div_ceil(2)),
        })
    }
}

impl Windows {
    /// Refuse `ceil_mode` where it adds windows that reach beyond the image.
    fn check_last(&self, node: Node<'_>, size: [usize; 2], padding: Padding) -> Outcome<()> {
        let sums = [padding.top + padding.bottom, padding.left + padding.right];
        let is_exact = size.iter().zip(sums).zip(self.kernel).zip(self.stride).all(
            |(((&size, sum), kernel), stride)| {
                (size + sum).checked_sub(kernel).is_some_and(|n| n % stride == 0)
            },
        );
        if node.int("ceil_mode", 0) == 0 || is_exact {
            return Ok(());
        }
        Err(node.unsupported("its last windows reach beyond the image", "use ceil_mode=0"))
    }
}

/// Product that saturates instead of overflowing: a budget then refuses it.
pub(super) fn total(extents: &[usize]) -> usize {
    extents.iter().fold(1, |product, &extent| product.saturating_mul(extent))
}

impl<'a> Importer<'a> {
    /// `AveragePool` and `MaxPool`.
    pub(in super::super) fn pool(&mut self, node: Node<'a>) -> Read {
        let flow = self.flow(node, 0)?;
        let Some((height, width, channels)) = flow.as_channels_first() else {
            let advice = "use two-dimensional pools on images";
            return Err(node.unsupported("it does not read channel-first images", advice).into());
        };
        let requirement = "two whole numbers of at least 1";
        if !node.has("kernel_shape") {
            return Err(node.bad_attribute("kernel_shape", requirement).into());
        }
        let window = node.counts::<2>("kernel_shape", (1, 1), requirement)?;
        let windows = Windows::read(node, window, 1)?;
        if windows.dilation != [1, 1] {
            return Err(node.bad_attribute("dilations", "1").into());
        }
        let padding = windows.padding(node, [height, width])?;
        windows.check_last(node, [height, width], padding)?;
        let is_average = node.operator() == "AveragePool";
        if is_average && !padding.is_none() {
            return self.padded_average(node, &flow, &windows, (padding, channels));
        }
        let ([window_h, window_w], [stride_h, stride_w]) = (windows.kernel, windows.stride);
        let kind = if is_average { PoolKind::Average } else { PoolKind::Max };
        let (window, stride) = ((window_h, window_w), (stride_h, stride_w));
        let pool = Pool2d { kind, window, stride, padding };
        let flow = self.apply(node, &flow, Layer::Pool2d(pool))?;
        Ok((Value::Flow(flow), Treatment::Layer(pool.name())))
    }

    /// An average pool whose windows all divide by the same number: a depthwise convolution.
    fn padded_average(
        &mut self,
        node: Node<'a>,
        flow: &Flow,
        windows: &Windows,
        (padding, channels): (Padding, usize),
    ) -> Read {
        if node.int("count_include_pad", 0) == 0 {
            let reason = "its windows at the border divide by fewer values";
            let advice = "use count_include_pad=1 or padding 0";
            return Err(node.unsupported(reason, advice).into());
        }
        let ([window_h, window_w], [stride_h, stride_w]) = (windows.kernel, windows.stride);
        self.budget.take(|| node.site().to_string(), total(&[channels, window_h, window_w]))?;
        let (window, stride) = ((window_h, window_w), (stride_h, stride_w));
        let conv = Conv2d::average_pool(channels, window, stride, padding);
        let flow = self.apply(node, flow, Layer::Conv2d(conv))?;
        Ok((Value::Flow(flow), Treatment::Layer("conv2d")))
    }

    /// `GlobalAveragePool`, `GlobalMaxPool`, and `ReduceMean` over both axes of an image.
    pub(in super::super) fn global_pool(&mut self, node: Node<'a>) -> Read {
        let flow = self.flow(node, 0)?;
        let advice = "reduce over height and width of an image";
        let refuse = || node.unsupported("it does not read images", advice);
        let (height, width, _) = flow.shape.as_image().ok_or_else(refuse)?;
        let keeps_axes = if node.operator() == "ReduceMean" {
            let mut axes = self.reduced_axes(node)?;
            axes.sort_unstable();
            let plane = match flow.view {
                View::ChannelsFirst => [2, 3],
                View::ChannelsLast => [1, 2],
                View::Plane | View::Features(_) => return Err(refuse().into()),
            };
            if axes != plane {
                return Err(node.bad_attribute("axes", "height and width").into());
            }
            node.int("keepdims", 1) != 0
        } else {
            if flow.view != View::ChannelsFirst {
                return Err(refuse().into());
            }
            true
        };
        let kind =
            if node.operator() == "GlobalMaxPool" { PoolKind::Max } else { PoolKind::Average };
        let pool = Pool2d::tiles(kind, (height, width));
        let mut flow = self.apply(node, &flow, Layer::Pool2d(pool))?;
        if !keeps_axes {
            flow = self.apply(node, &flow, Layer::Flatten)?;
            flow.view = View::Features(Order::Same);
        }
        Ok((Value::Flow(flow), Treatment::Layer(pool.name())))
    }

    /// The axes of a reduction, an attribute until operator set 17, an input since; counted from 0.
    fn reduced_axes(&mut self, node: Node<'a>) -> Result<Vec<i64>> {
        let axes = match node.ints("axes") {
            Some(axes) => axes.to_vec(),
            None if node.input(1).is_some() => self.integers(node, 1)?,
            None => return Err(node.bad_attribute("axes", "height and width").into()),
        };
        Ok(axes
            .into_iter()
            .map(|axis| if axis < 0 { axis.saturating_add(4) } else { axis })
            .collect())
    }

    /// `Pad` with zeros around an image: remembered for the convolution that follows.
    pub(in super::super) fn pad(&mut self, node: Node<'a>) -> Read {
        let flow = self.flow(node, 0)?;
        if node.word("mode", "constant") != "constant" {
            return Err(node.bad_attribute("mode", "constant, with value 0").into());
        }
        if node.input(2).is_some() && self.array(node, 2)?.iter().any(|&v| v != 0.0) {
            return Err(node.bad_input(2, "0: other padding has no layer").into());
        }
        let pads = self.integers(node, 1)?;
        let rank = flow.dims().len() + 1;
        let axes = if node.input(3).is_some() {
            self.integers(node, 3)?
        } else {
            (0..i64::try_from(rank).unwrap_or(0)).collect()
        };
        let requirement = "two numbers per axis, not negative";
        if pads.len() != 2 * axes.len() {
            return Err(node.bad_input(1, requirement).into());
        }
        let (before, after) = pads.split_at(axes.len());
        let mut padding = [[0_usize; 2]; 4];
        for ((&axis, &before), &after) in axes.iter().zip(before).zip(after) {
            let axis =
                if axis < 0 { axis.saturating_add(i64::try_from(rank).unwrap_or(0)) } else { axis };
            let slot = usize::try_from(axis).ok().and_then(|axis| padding.get_mut(axis));
            let extent = |n: i64| usize::try_from(n).ok().filter(|&n| n <= MAX_EXTENT);
            let (Some(slot), Some(before), Some(after)) = (slot, extent(before), extent(after))
            else {
                return Err(node.bad_input(1, requirement).into());
            };
            *slot = [before, after];
        }
        if padding == [[0; 2]; 4] {
            return Ok((Value::Flow(flow), Treatment::Dropped));
        }
        let [[0, 0], [0, 0], [top, bottom], [left, right]] = padding else {
            let reason = "it pads the batch or the channels";
            return Err(node.unsupported(reason, "pad height and width only").into());
        };
        if flow.view != View::ChannelsFirst {
            let advice = "pad images directly before a convolution";
            return Err(node.unsupported("it does not pad a channel-first image", advice).into());
        }
        let flow = self.settle(node, &flow)?;
        let padding = Padding { top, bottom, left, right };
        Ok((Value::Flow(Flow { padding, ..flow }), Treatment::Folded))
    }
}
