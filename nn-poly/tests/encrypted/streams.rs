//! Requests made and replies taken chunk by chunk are those of one call.

use nn_poly::encrypted::{
    BlockEncryption, ClientTimes, Error, ReplyCheckStream, ReplyDecryption, SegmentContext,
    SegmentEvaluator, SegmentKey, check_reply, decrypt_reply, encrypt_block, linear_map,
};
use nn_poly::plan::{ActivationSide, Plan};
use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{Sketch, evaluate, example};

struct Scene {
    plan: Plan,
    context: SegmentContext,
    key: SegmentKey,
}

impl Scene {
    /// The first segment of a network with more inputs than one chunk holds.
    fn new(side: ActivationSide) -> Self {
        let sketch = Sketch { size: 12, channels: 2, maps: 5, ..example() };
        let plan = sketch.plan(side, 8192);
        let context = SegmentContext::new(0, &plan.public().segments[0]).unwrap();
        assert!(context.n_inputs() > 200, "several chunks");
        let key = context.generate_key(&mut StdRng::seed_from_u64(1)).unwrap();
        Self { plan, context, key }
    }

    fn reply(&self, seed: [u8; 32], payload: &[u8]) -> Vec<u8> {
        let segment = &self.plan.public().segments[0];
        let (structure, weights) = self.plan.network().stage(0).unwrap();
        let server = SegmentEvaluator::new(0, segment, structure, weights).unwrap();
        evaluate(&server, seed, payload)
    }

    fn rows(&self, reply: &[u8]) -> Vec<Vec<i64>> {
        let mut rows = Vec::new();
        let mut times = ClientTimes::default();
        decrypt_reply(&self.context, &self.key, reply, &mut times, |output, row| {
            assert_eq!(output, rows.len());
            rows.push(row.to_vec());
            Ok::<(), Error>(())
        })
        .unwrap();
        rows
    }
}

fn fill(input: usize, row: &mut [i64]) -> Result<(), Error> {
    row.iter_mut().enumerate().for_each(|(i, x)| *x = ((input + i) % 16) as i64);
    Ok(())
}

/// Cuts of all sizes, empty pieces among them.
fn pieces<'a>(mut bytes: &'a [u8], rng: &mut StdRng) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    while !bytes.is_empty() {
        let most = [0, 1, 100, 20_000, 1_000_000, bytes.len()][rng.random_range(0..6)];
        let (piece, rest) = bytes.split_at(rng.random_range(0..=most.min(bytes.len())));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}

#[test]
fn chunks_of_a_request_are_its_payload() {
    for side in [ActivationSide::Client, ActivationSide::Server] {
        let scene = Scene::new(side);
        let (structure, weights) = scene.plan.network().stage(0).unwrap();
        let map = linear_map(&scene.context, structure, weights).unwrap();
        let check = scene.context.is_linear().then_some((&map, 2));
        let generator = || StdRng::seed_from_u64(2);
        let whole =
            encrypt_block(&scene.context, &scene.key, check, fill, &mut generator()).unwrap();
        let mut block =
            BlockEncryption::new(&scene.context, &scene.key, check, &mut generator()).unwrap();
        assert_eq!(block.seed(), whole.seed);
        let mut payload = Vec::new();
        let mut remaining = scene.context.n_inputs();
        while let Some(chunk) = block.next_chunk(&fill).unwrap() {
            let count = chunk.len() / scene.context.request_ciphertext_bytes();
            remaining -= count;
            assert!(count > 0 && block.remaining() == remaining);
            payload.extend(chunk);
        }
        assert_eq!(remaining, 0);
        assert!(payload == whole.payload);
        let (check, times) = block.finish().unwrap();
        assert!(times.encrypt > times.encode);
        assert_eq!(check.is_some(), scene.context.is_linear());
        if let Some(check) = check {
            let reply = scene.reply(whole.seed, &payload);
            let mut times = ClientTimes::default();
            assert!(check_reply(&scene.context, check, &reply, &mut times).unwrap());
        }
    }
}

#[test]
fn unfinished_requests_and_failed_rows_are_errors() {
    let scene = Scene::new(ActivationSide::Client);
    let block = |seed| {
        let mut rng = StdRng::seed_from_u64(seed);
        BlockEncryption::new(&scene.context, &scene.key, None, &mut rng).unwrap()
    };
    let mut unfinished = block(1);
    unfinished.next_chunk(&fill).unwrap();
    assert!(matches!(unfinished.finish(), Err(Error::ByteCount { .. })));
    let refuse = |input: usize, _: &mut [i64]| -> Result<(), Error> {
        if input == 33 {
            return Err(Error::ByteCount { what: "row", expected: 33, actual: 0 });
        }
        Ok(())
    };
    let refused = block(2).next_chunk(&refuse);
    assert!(matches!(refused, Err(Error::ByteCount { expected: 33, .. })));
    let large = |_: usize, row: &mut [i64]| -> Result<(), Error> {
        row[0] = i64::MAX;
        Ok(())
    };
    assert!(matches!(block(3).next_chunk(&large), Err(Error::Arithmetic(_))));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    #[test]
    fn replies_may_be_cut_anywhere(seed: u64, server: bool) {
        let side = if server { ActivationSide::Server } else { ActivationSide::Client };
        let scene = Scene::new(side);
        let mut rng = StdRng::seed_from_u64(seed);
        let (structure, weights) = scene.plan.network().stage(0).unwrap();
        let map = linear_map(&scene.context, structure, weights).unwrap();
        let check = scene.context.is_linear().then_some((&map, 1));
        let request = encrypt_block(&scene.context, &scene.key, check, fill, &mut rng).unwrap();
        let reply = scene.reply(request.seed, &request.payload);
        let expected = scene.rows(&reply);

        let mut rows = Vec::new();
        let mut stream = ReplyDecryption::new(&scene.context, &scene.key);
        for piece in pieces(&reply, &mut rng) {
            stream
                .push(piece, |output, row| {
                    assert_eq!(output, rows.len());
                    rows.push(row.to_vec());
                    Ok::<(), Error>(())
                })
                .unwrap();
        }
        stream.finish().unwrap();
        prop_assert!(rows == expected);

        let Some(check) = request.check else { return Ok(()) };
        let mut stream = ReplyCheckStream::new(&scene.context, check);
        // The connection is lost twice, once in the middle of damaged bytes.
        let lost = rng.random_range(0..reply.len());
        for piece in pieces(&reply[..lost], &mut rng) {
            stream.push(piece).unwrap();
        }
        stream.restart();
        let refused = stream.push(&vec![0xFF; reply.len()]);
        prop_assert!(matches!(refused, Err(Error::Arithmetic(_))));
        stream.restart();
        for piece in pieces(&reply, &mut rng) {
            stream.push(piece).unwrap();
        }
        prop_assert!(stream.finish().unwrap());
    }

    #[test]
    fn altered_replies_fail_in_any_cut(seed: u64) {
        let scene = Scene::new(ActivationSide::Client);
        let mut rng = StdRng::seed_from_u64(seed);
        let (structure, weights) = scene.plan.network().stage(0).unwrap();
        let map = linear_map(&scene.context, structure, weights).unwrap();
        let request =
            encrypt_block(&scene.context, &scene.key, Some((&map, 1)), fill, &mut rng).unwrap();
        let mut reply = scene.reply(request.seed, &request.payload);
        let position = rng.random_range(0..reply.len());
        reply[position] ^= 1 << rng.random_range(0..8);
        let mut stream = ReplyCheckStream::new(&scene.context, request.check.unwrap());
        let pushed = pieces(&reply, &mut rng).into_iter().try_for_each(|piece| stream.push(piece));
        // A residue that is no longer below its modulus, or a failed check.
        prop_assert!(pushed.is_err() || !stream.finish().unwrap());
    }
}

#[test]
fn replies_of_another_length_are_errors() {
    let scene = Scene::new(ActivationSide::Client);
    let n = scene.context.reply_bytes();
    let zeros = vec![0; usize::try_from(n).unwrap() + 1];
    let push = |pieces: &[&[u8]]| -> Result<(), Error> {
        let mut stream = ReplyDecryption::new(&scene.context, &scene.key);
        pieces.iter().try_for_each(|piece| stream.push(piece, |_, _| Ok::<(), Error>(())))?;
        stream.finish()
    };
    let whole = &zeros[1..];
    assert!(push(&[whole]).is_ok());
    for (pieces, expected) in [
        (vec![&whole[1..]], n - 1),
        (vec![whole, &whole[..1]], n + 1),
        (vec![&whole[..10], &zeros[..]], n + 11),
        (vec![], 0),
    ] {
        let refused = push(&pieces);
        assert!(matches!(refused, Err(Error::ByteCount { actual, .. }) if actual == expected));
    }
    // A damaged ciphertext is named by its place in the reply, and nothing of its batch is visited.
    let mut damaged = whole.to_vec();
    let last = scene.context.n_outputs() - 1;
    damaged[last * scene.context.reply_ciphertext_bytes()..].fill(0xFF);
    let refused = push(&[&damaged]).unwrap_err().to_string();
    assert!(refused.contains(&format!("ciphertext {last} has a residue")), "{refused}");
    let failing = ReplyDecryption::new(&scene.context, &scene.key).push(whole, |output, _| {
        if output == 3 {
            Err(Error::ByteCount { what: "visit", expected: 3, actual: 0 })
        } else {
            Ok(())
        }
    });
    assert!(matches!(failing, Err(Error::ByteCount { expected: 3, .. })));
}
