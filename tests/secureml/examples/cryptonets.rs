//! Times and bytes of a network of the shape of CryptoNets with random weights and inputs.
//!
//! ```sh
//! cargo run -p securedl-secureml --example cryptonets -- 512          # honest offline phase
//! cargo run -p securedl-secureml --example cryptonets -- 512 dealer   # trusted dealer
//! ```
//!
//! Both servers run on this machine and share its cores. No accuracy is shown: the weights are random.

#![allow(clippy::print_stdout, reason = "an example prints")]

use std::time::Instant;

use ndarray::Array2;
use rand::{Rng, SeedableRng, rngs::StdRng};
use secureml::lhe::TripleGeneration;
use secureml::{
    Convolution, Inference, Network, Phase, Pipe, WeightOpening, deal_trusted, drive_pair,
    reconstruct, share_inputs, share_model,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let n_samples = arguments.next().map_or(Ok(512), |text| text.parse())?;
    let dealer = match arguments.next().as_deref() {
        None => false,
        Some("dealer") => true,
        Some(other) => return Err(format!("unknown offline phase {other}: use dealer").into()),
    };
    let mut rng = StdRng::from_os_rng();
    let network = network(&mut rng)?;
    let structure = network.structure();
    println!("{n_samples} samples, {} weights", structure.n_weights());

    let models = share_model(&network, &mut rng);
    let mut openings = models.each_ref().map(WeightOpening::new);
    let opening = drive_pair(openings.each_mut(), Pipe::pair())?;
    report("weights, once per model", &opening, structure.weight_bytes());
    let [weights0, weights1] = openings.map(WeightOpening::finish);
    let (weights0, weights1) = (weights0?, weights1?);

    let [model0, model1] = &models;
    let (material0, material1) = if dealer {
        let start = Instant::now();
        let [material0, material1] = deal_trusted(&models, n_samples, &mut rng)?;
        println!("offline, TRUSTED DEALER: {:.2} s", start.elapsed().as_secs_f64());
        (material0, material1)
    } else {
        let mut machines = [
            TripleGeneration::new(model0, n_samples, &mut rng)?,
            TripleGeneration::new(model1, n_samples, &mut rng)?,
        ];
        let offline = drive_pair(machines.each_mut(), Pipe::pair())?;
        let expected = TripleGeneration::total_bytes(structure, n_samples)?;
        report("offline, homomorphic encryption", &offline, expected);
        let [material0, material1] = machines.map(TripleGeneration::finish);
        (material0?, material1?)
    };

    let inputs = Array2::from_shape_simple_fn((784, n_samples), || rng.random_range(0.0..1.0));
    let [inputs0, inputs1] = share_inputs(inputs.view(), &mut rng)?;
    let mut servers = [
        Inference::new(model0, &weights0, material0, inputs0)?,
        Inference::new(model1, &weights1, material1, inputs1)?,
    ];
    let online = drive_pair(servers.each_mut(), Pipe::pair())?;
    report("online", &online, structure.online_bytes(n_samples));
    let [outputs0, outputs1] = servers.map(Inference::finish);
    let scores = reconstruct(&outputs0?, &outputs1?)?;
    println!("scores of the first sample: {:.3}", scores.column(0));
    Ok(())
}

fn report(name: &str, phase: &Phase, formula: u64) {
    println!(
        "{name}: {:.2} s, {} bytes (formula {formula}), {} with headers, {} rounds",
        phase.elapsed.as_secs_f64(),
        phase.payload_bytes(),
        phase.bytes(),
        phase.rounds()
    );
}

/// 5 maps of 5×5 with stride 2, square, 100 neurons, square, 10 neurons.
fn network(rng: &mut StdRng) -> Result<Network, secureml::Error> {
    let shape = Convolution { input: [28, 28, 1], kernel: [5, 5], stride: [2, 2], padding: [1, 1] };
    let mut weights = |rows, columns: u32| {
        let limit = (3.0 / f64::from(columns)).sqrt();
        let draw = || rng.random_range(-limit..limit);
        Array2::from_shape_simple_fn((rows, columns as usize), draw)
    };
    let (convolution, dense1, dense2) = (weights(5, 25), weights(100, 845), weights(10, 100));
    Network::new(784)?
        .convolution(&shape, convolution.view(), &[0.0; 5])?
        .square()?
        .dense(dense1.view(), &[0.0; 100])?
        .square()?
        .dense(dense2.view(), &[0.0; 10])
}
