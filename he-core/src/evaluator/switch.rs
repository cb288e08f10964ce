//! Modulus switching: of whole blocks, and of ciphertexts on their way to the wire.

use core::ops::Range;

use rayon::prelude::*;

use crate::{
    CiphertextBlock, Error, Result,
    block::pieces_mut,
    bytes::{self, limb_bytes},
    correction::next_correction,
    ring::Ring,
    simd::{Factor, vectorize},
};

impl CiphertextBlock {
    /// Drops the last modulus and divides the noise by it, exactly preserving the plaintext.
    ///
    /// With `u` the centred residue of `-c·t^-1` modulo the dropped prime `q`, the new ciphertext is
    /// `(c + t·u)/q`; the plaintext gains the factor `q^-1 mod t`, recorded in
    /// [`CiphertextBlock::correction`]. Added noise at degree 2: deviation
    /// `t·sqrt((1 + 2N/3 + 8N²/9)/12)`. Cost per polynomial: one inverse transform and one forward
    /// transform per remaining modulus.
    ///
    /// # Errors
    /// [`Error::Form`] when only one modulus is left.
    ///
    /// # Source
    /// Brakerski, Gentry, Vaikuntanathan 2012, section 3.2, in residue number system form.
    pub fn mod_switch_down(&self) -> Result<Self> {
        let (Some((last, kept)), true) = (self.rings().split_last(), self.n_moduli() > 1) else {
            return Err(Error::Form {
                operation: "modulus switching",
                requirement: "at least two moduli",
                degree: self.degree(),
                n_moduli: self.n_moduli(),
            });
        };
        let t = self.params().plaintext_modulus();
        let n = self.params().ring_degree();
        let switch = Switch::new(t, last, kept);
        let len = self.count() * self.row_len();
        let mut words = vec![0_u64; kept.len() * len];
        // One task per polynomial: its places in every kept limb.
        let outputs = pieces_mut(&mut words, kept.len(), n);
        let dropped = self.limb(self.n_moduli() - 1).par_chunks(n);
        let buffers = || (vec![0; n], vec![0; n]);
        let work =
            |(u, lifted): &mut (Vec<i64>, Vec<u64>),
             (index, (places, dropped)): (usize, (Vec<&mut [u64]>, &[u64]))| {
                switch.rounding(dropped, lifted, u);
                for (limb, out) in places.into_iter().enumerate() {
                    let input = self.limb(limb).get(index * n..(index + 1) * n).unwrap_or_default();
                    switch.apply(limb, input, u, lifted, out);
                }
            };
        if self.count() == 1 {
            // Waking other threads costs more than it saves.
            let mut buffers = buffers();
            let pieces = outputs.into_iter().zip(self.limb(kept.len()).chunks(n)).enumerate();
            pieces.for_each(|piece| work(&mut buffers, piece));
        } else {
            let pieces = outputs.into_par_iter().zip(dropped).enumerate();
            pieces.for_each_init(buffers, work);
        }
        let correction = next_correction(self.correction(), last.value(), t);
        Ok(Self::from_parts(self, kept.len(), correction, words))
    }

    /// Switches down until `n_moduli` moduli are left.
    ///
    /// # Errors
    /// [`Error::Form`] when fewer are left already or `n_moduli` is zero.
    pub fn mod_switch_to(&self, n_moduli: usize) -> Result<Self> {
        self.check_target(n_moduli)?;
        if n_moduli == self.n_moduli() {
            return Ok(self.clone());
        }
        let mut block = self.mod_switch_down()?;
        while block.n_moduli() > n_moduli {
            block = block.mod_switch_down()?;
        }
        Ok(block)
    }

    /// Switches the ciphertexts `range` down to `n_moduli` moduli and appends the bytes a reply
    /// carries: what [`CiphertextBlock::select`], [`CiphertextBlock::mod_switch_to`] and
    /// [`bytes::write_reply`] give, without a switched block in between.
    ///
    /// In parallel over ciphertexts. Cost: that of [`CiphertextBlock::mod_switch_to`] and packing.
    ///
    /// # Errors
    /// - [`Error::Form`] as [`CiphertextBlock::mod_switch_to`].
    /// - [`Error::Index`] when the range ends beyond the ciphertexts.
    pub fn write_switched(
        &self,
        range: Range<usize>,
        n_moduli: usize,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        if range.start > range.end || range.end > self.count() {
            let (index, count) = (range.end, self.count());
            return Err(Error::Index { what: "ciphertext", index, count });
        }
        self.check_target(n_moduli)?;
        let (n, t) = (self.params().ring_degree(), self.params().plaintext_modulus());
        let rings = self.rings();
        let switches: Vec<Switch<'_>> = (n_moduli..rings.len())
            .rev()
            .filter_map(|last| {
                let (last, kept) = rings.get(..=last)?.split_last()?;
                Some(Switch::new(t, last, kept))
            })
            .collect();
        let size = bytes::reply_bytes(self.params(), self.degree(), n_moduli);
        let start = out.len();
        out.resize(start + range.len() * size, 0);
        let places = out.get_mut(start..).unwrap_or_default().par_chunks_mut(size);
        places.zip(range).for_each_init(
            || Workspace::new(n, rings.len()),
            |workspace, (place, index)| {
                let polynomials = place.chunks_exact_mut(size / (self.degree() + 1));
                for (polynomial, place) in polynomials.enumerate() {
                    workspace.load(self, index, polynomial);
                    workspace.switch(&switches);
                    workspace.write(rings, place);
                }
            },
        );
        Ok(())
    }

    fn check_target(&self, n_moduli: usize) -> Result<()> {
        if (1..=self.n_moduli()).contains(&n_moduli) {
            return Ok(());
        }
        Err(Error::Form {
            operation: "modulus switching",
            requirement: "between one and the present number of moduli as its target",
            degree: self.degree(),
            n_moduli: self.n_moduli(),
        })
    }
}

/// One polynomial on its way down, and buffers.
struct Workspace {
    /// One vector of N residues per modulus; those of dropped moduli are stale.
    limbs: Vec<Vec<u64>>,
    n_moduli: usize,
    rounding: Vec<i64>,
    lifted: Vec<u64>,
    spare: Vec<u64>,
}

impl Workspace {
    fn new(n: usize, n_moduli: usize) -> Self {
        let limbs = vec![vec![0; n]; n_moduli];
        Self { limbs, n_moduli, rounding: vec![0; n], lifted: vec![0; n], spare: vec![0; n] }
    }

    fn load(&mut self, block: &CiphertextBlock, index: usize, polynomial: usize) {
        let n = self.spare.len();
        for (limb, words) in self.limbs.iter_mut().enumerate() {
            let row = block.row(limb, index).get(polynomial * n..(polynomial + 1) * n);
            words.copy_from_slice(row.unwrap_or_default());
        }
        self.n_moduli = self.limbs.len();
    }

    fn switch(&mut self, switches: &[Switch<'_>]) {
        for switch in switches {
            self.n_moduli -= 1;
            let (kept, dropped) = self.limbs.split_at_mut(self.n_moduli);
            let Some(dropped) = dropped.first() else { return };
            switch.rounding(dropped, &mut self.lifted, &mut self.rounding);
            for (limb, words) in kept.iter_mut().enumerate() {
                switch.apply(limb, words, &self.rounding, &mut self.lifted, &mut self.spare);
                core::mem::swap(words, &mut self.spare);
            }
        }
    }

    fn write(&self, rings: &[Ring], mut place: &mut [u8]) {
        for (words, ring) in self.limbs.iter().zip(rings).take(self.n_moduli) {
            let (now, rest) = place.split_at_mut(limb_bytes(words.len(), ring));
            bytes::pack(words, ring.bits(), now);
            place = rest;
        }
    }
}

fn residue(t: u128, ring: &Ring) -> u64 {
    u64::try_from(t % u128::from(ring.value())).unwrap_or_default()
}

/// Constants of one modulus switch: which prime goes, which stay.
struct Switch<'a> {
    last: &'a Ring,
    /// `-t^-1` modulo the dropped prime.
    factor: Factor,
    kept: Vec<Kept<'a>>,
}

struct Kept<'a> {
    ring: &'a Ring,
    /// `q^-1` and `t·q^-1` for the dropped prime q.
    inverse: Factor,
    scale: Factor,
}

impl<'a> Switch<'a> {
    fn new(t: u128, last: &'a Ring, kept: &'a [Ring]) -> Self {
        let t_inverse = last
            .invert(residue(t, last))
            .expect("invariant: the plaintext modulus is prime to every modulus");
        let kept = kept.iter().map(|ring| {
            let inverse = ring
                .invert(last.value() % ring.value())
                .expect("invariant: the moduli are distinct primes");
            let reducer = ring.reducer();
            let scale = ring.multiply(residue(t, ring), inverse);
            Kept { ring, inverse: reducer.factor(inverse), scale: reducer.factor(scale) }
        });
        let factor = last.reducer().factor(last.negate(t_inverse));
        Self { last, factor, kept: kept.collect() }
    }

    /// `u`, centred coefficients: what makes `c + t·u` divisible by the dropped prime.
    fn rounding(&self, dropped: &[u64], scratch: &mut [u64], u: &mut [i64]) {
        let reducer = self.last.reducer();
        scratch.copy_from_slice(dropped);
        self.last.inverse(scratch);
        vectorize(|| {
            for (u, &c) in u.iter_mut().zip(scratch.iter()) {
                *u = reducer.centre(reducer.multiply(c.cast_signed(), self.factor));
            }
        });
    }

    /// `out = (c + t·u)/q` modulo one kept prime.
    fn apply(&self, limb: usize, c: &[u64], u: &[i64], lifted: &mut [u64], out: &mut [u64]) {
        let Some(Kept { ring, inverse, scale }) = self.kept.get(limb) else { return };
        let reducer = ring.reducer();
        vectorize(|| {
            for (x, &u) in lifted.iter_mut().zip(u) {
                *x = reducer.multiply(u, *scale);
            }
        });
        ring.forward(lifted);
        vectorize(|| {
            for ((o, &c), &u) in out.iter_mut().zip(c).zip(lifted.iter()) {
                *o = reducer.add(reducer.multiply(c.cast_signed(), *inverse), u);
            }
        });
    }
}
