//! One encrypted segment: its inputs, and what the server makes of them.

use std::ops::ControlFlow;

use nn_poly::encrypted::{Error, SegmentEvaluator};
use nn_poly::integer::IntegerMatrix;

/// Fills a block's rows with the values of a stage's inputs, one column per sample.
pub(crate) fn rows_of(
    inputs: &IntegerMatrix,
) -> impl Fn(usize, &mut [i64]) -> Result<(), Error> + Copy {
    |input, row| {
        for (slot, &value) in row.iter_mut().zip(inputs.row(input)) {
            *slot = i64::from(value);
        }
        Ok(())
    }
}

/// Sends a payload in uneven pieces and collects the reply.
pub(crate) fn evaluate(server: &SegmentEvaluator, seed: [u8; 32], payload: &[u8]) -> Vec<u8> {
    let mut receiver = server.receive(seed).unwrap();
    for piece in payload.chunks(100_003) {
        receiver.push(piece).unwrap();
    }
    let block = receiver.finish().unwrap();
    let mut reply = Vec::new();
    let mut sink = |bytes: Vec<u8>| {
        reply.extend(bytes);
        ControlFlow::Continue(())
    };
    assert!(server.evaluate(&block, &mut sink).unwrap().is_continue());
    reply
}
