//! Two neurons on encrypted samples: a linear map, a square, a modulus switch, exact results.
//!
//! `cargo run -p securedl-he-core --example slots`

use he_core::{
    BlockEncryptor, Decryptor, LinearMap, Params, ParamsSpec, Result, SecretKey, SlotEncoder, bytes,
};
use rand::{SeedableRng, rngs::StdRng};

#[expect(clippy::print_stdout, reason = "an example shows its result")]
fn main() -> Result<()> {
    // 4096 slots modulo a 20-bit prime; one prime is kept for the reply, one dropped after squaring.
    let t = ParamsSpec::smallest_slot_modulus(4096, 1 << 19)?;
    let params = Params::new(ParamsSpec::with_bits(4096, t.into(), &[40, 40])?)?;
    let encoder = SlotEncoder::new(&params)?;
    let mut rng = StdRng::from_os_rng();
    let key = SecretKey::generate(&params, &mut rng);

    // Three inputs; every slot holds another sample.
    let samples = |scale: i64| (0..4096_i64).map(|i| (i * scale) % 16).collect::<Vec<_>>();
    let inputs = [samples(1), samples(3), samples(7)];
    let plaintexts = inputs.iter().map(|x| encoder.encode(x)).collect::<Result<Vec<_>>>()?;
    let request = BlockEncryptor::new(&key, &mut rng).encrypt_next(&plaintexts)?;

    // At the server: (2x - 3y + z + 5)² and (x + y - z)², then a smaller modulus for the way back.
    let map = LinearMap::dense(2, 3, &[2, -3, 1, 1, 1, -1], &[5, 0])?;
    let reply = map.apply(&request)?.square()?.mod_switch_down()?;

    let decryptor = Decryptor::new(&key);
    for output in 0..2 {
        let slots = encoder.decode_from(&decryptor.decrypt(&reply, output)?, 0)?;
        println!("output {output}: {:?} …", slots.iter().take(8).collect::<Vec<_>>());
        for (i, &value) in slots.iter().enumerate() {
            let [x, y, z] = inputs.each_ref().map(|input| input.get(i).copied().unwrap_or(0));
            let expected = if output == 0 { 2 * x - 3 * y + z + 5 } else { x + y - z };
            assert_eq!(value, expected * expected);
        }
    }
    println!(
        "4096 samples: {} bytes up per input, {} bytes down per output, 128-bit secure",
        bytes::request_bytes(&params),
        bytes::reply_bytes(&params, reply.degree(), reply.n_moduli())
    );
    Ok(())
}
