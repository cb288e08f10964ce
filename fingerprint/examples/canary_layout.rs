//! Draws a secret slot layout, lets servers cheat, and prints what the client concludes.
//!
//! `cargo run -p securedl-fingerprint --example canary_layout`

#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use fingerprint::{
    BlockObservation, LayoutOptions, LayoutSpec, RandomPoints, Result, SegmentCheck, SlotCheck,
    SlotLayout, SlotRole, Soundness, judge,
};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

/// Plaintext modulus: a prime of 29 bits.
const T: i64 = 536_813_569;
const CANARIES: [i64; 4] = [3, 1, 4, 1];

/// The model: one input neuron, one output neuron, `(5x + 2)²` modulo `T`.
fn model(x: i64) -> i64 {
    square(5 * x + 2)
}

/// The same model with one weight changed by one unit.
fn modified_model(x: i64) -> i64 {
    square(6 * x + 2)
}

fn square(z: i64) -> i64 {
    let z = i128::from(z);
    i64::try_from((z * z).rem_euclid(i128::from(T))).unwrap_or_default()
}

fn main() -> Result<()> {
    // A fixed seed makes the printed layout reproducible; a real client takes the system's generator.
    let mut rng = ChaCha20Rng::seed_from_u64(2024);
    let options =
        LayoutOptions { network_canaries: CANARIES.len(), replicas: 2, ..LayoutOptions::default() };
    let spec = LayoutSpec::new(64, options)?;
    let samples: Vec<i32> = (0..26).collect();
    let layout = SlotLayout::draw(&spec, samples.len(), &mut rng)?;
    let counts = layout.counts();
    println!(
        "64 slots: {} samples x {} replicas, {} network canaries, {} slots with {} random points",
        counts.samples(),
        counts.replicas(),
        counts.network_canaries(),
        counts.point_slots(),
        counts.random_points(),
    );
    println!("the secret assignment (letters: samples, #: canary, ?: random point):");
    for row in layout.roles().chunks(16) {
        println!("    {}", row.iter().map(|role| letter(*role)).collect::<String>());
    }

    let points = RandomPoints::draw(counts.random_points(), 1, T.unsigned_abs(), &mut rng)?;
    let mut point_values = vec![0; counts.random_points()];
    points.values_into(0, &mut point_values)?;
    let mut sent = vec![0; counts.n_slots()];
    layout.fill(&samples, &CANARIES, &point_values, &mut sent)?;

    let slot_check = SlotCheck::new(counts, u128::from(T.unsigned_abs()), 2)?;
    let soundness = Soundness::weakest(&[SegmentCheck::Slots(slot_check)])?;
    let expected_canaries = CANARIES.map(model);
    let expected_points: Vec<i64> = point_values.iter().map(|&x| model(x)).collect();
    let conclude = |server: &str, reply: &[i64]| -> Result<()> {
        let mut observation = BlockObservation::new(1);
        let mut released = vec![0; samples.len()];
        layout.compare(
            0,
            reply,
            &expected_canaries,
            &expected_points,
            &mut observation,
            &mut released,
        )?;
        println!("\n{server}\n    {}", judge(0, &[observation], &soundness)?);
        Ok(())
    };

    let honest: Vec<i64> = sent.iter().map(|&x| model(x)).collect();
    conclude("an honest server:", &honest)?;

    let modified: Vec<i64> = sent.iter().map(|&x| modified_model(x)).collect();
    conclude("a server with one weight changed by one unit:", &modified)?;

    let mut one_slot = honest.clone();
    if let Some(value) = one_slot.get_mut(17) {
        *value += 1;
    }
    conclude("a server that alters slot 17 only:", &one_slot)?;

    let mut half = honest;
    half.iter_mut().zip(&sent).take(32).for_each(|(y, &x)| *y = modified_model(x));
    conclude("a server that runs another model on the first half of the slots:", &half)
}

fn letter(role: SlotRole) -> char {
    match role {
        SlotRole::Sample { sample, .. } => {
            char::from(b'a'.saturating_add(u8::try_from(sample).unwrap_or(25)))
        }
        SlotRole::NetworkCanary(_) => '#',
        SlotRole::RandomPoint(_) => '?',
    }
}
