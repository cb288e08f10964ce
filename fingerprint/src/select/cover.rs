//! Greedy maximum coverage.

/// A set of small integers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BitSet {
    words: Vec<u64>,
}

impl BitSet {
    pub(super) fn new(members: impl IntoIterator<Item = bool>) -> Self {
        let mut words = Vec::new();
        for (position, is_member) in members.into_iter().enumerate() {
            if position % 64 == 0 {
                words.push(0);
            }
            if let (true, Some(word)) = (is_member, words.last_mut()) {
                *word |= 1_u64 << (position % 64);
            }
        }
        Self { words }
    }

    fn count_common(&self, other: &Self) -> u32 {
        self.words.iter().zip(&other.words).map(|(a, b)| (a & b).count_ones()).sum()
    }

    fn remove(&mut self, other: &Self) {
        for (word, removed) in self.words.iter_mut().zip(&other.words) {
            *word &= !removed;
        }
    }

    fn union(&mut self, other: &Self) {
        for (word, added) in self.words.iter_mut().zip(&other.words) {
            *word |= added;
        }
    }

    fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }
}

/// Positions in `candidates` of `count` of them, each adding most of what is not yet covered; the
/// earlier of equals. Once all is covered, covering begins again.
///
/// The first picks, until all is covered, cover at least `1 − 1/e` of what any as many sets cover
/// (Nemhauser, Wolsey and Fisher 1978). Cost: `count · candidates` intersections.
pub(super) fn greedy_cover(candidates: &[&BitSet], count: usize) -> Vec<usize> {
    let Some(first) = candidates.first() else { return Vec::new() };
    let mut everything = (*first).clone();
    candidates.iter().for_each(|set| everything.union(set));
    let mut uncovered = everything.clone();
    let mut is_left = vec![true; candidates.len()];
    let mut picked = Vec::with_capacity(count.min(candidates.len()));
    while picked.len() < count.min(candidates.len()) {
        let mut best: Option<(usize, u32)> = None;
        for (position, (set, &is_left)) in candidates.iter().zip(&is_left).enumerate() {
            let gain = set.count_common(&uncovered);
            if is_left && best.is_none_or(|(_, most)| gain > most) {
                best = Some((position, gain));
            }
        }
        let Some((position, gain)) = best else { break };
        // What is still uncovered belongs to no candidate that is left: begin again.
        if gain == 0 && uncovered != everything && !everything.is_empty() {
            uncovered = everything.clone();
            continue;
        }
        if let (Some(set), Some(is_left)) = (candidates.get(position), is_left.get_mut(position)) {
            uncovered.remove(set);
            *is_left = false;
        }
        picked.push(position);
    }
    picked
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    fn covered(sets: &[&BitSet]) -> u32 {
        let mut all = BitSet::new([]);
        all.words.resize(sets.iter().map(|s| s.words.len()).max().unwrap_or(0), 0);
        sets.iter().for_each(|set| all.union(set));
        all.words.iter().map(|word| word.count_ones()).sum()
    }

    /// The best coverage by exhaustive search over all subsets of the wanted size.
    fn optimum(sets: &[BitSet], count: usize) -> u32 {
        (0_u32..1 << sets.len())
            .filter(|mask| mask.count_ones() as usize == count.min(sets.len()))
            .map(|mask| {
                let chosen: Vec<&BitSet> =
                    (0..sets.len()).filter(|i| mask >> i & 1 == 1).map(|i| &sets[i]).collect();
                covered(&chosen)
            })
            .max()
            .unwrap()
    }

    proptest! {
        #[test]
        fn greedy_covers_all_but_one_eth_of_the_optimum(
            members in proptest::collection::vec(proptest::collection::vec(any::<bool>(), 70), 1..9),
            density in 0.02_f64..0.5, count in 1_usize..5,
        ) {
            // Thin the sets out, so that coverage is a question at all.
            let keep = |i: usize, j: usize| {
                let hash = (i * 71 + j).wrapping_mul(2_654_435_761) % 1000;
                f64::from(u32::try_from(hash).unwrap()) < 1000.0 * density
            };
            let sets: Vec<BitSet> = members
                .iter()
                .enumerate()
                .map(|(i, set)| BitSet::new(set.iter().enumerate().map(|(j, m)| *m && keep(i, j))))
                .collect();
            let candidates: Vec<&BitSet> = sets.iter().collect();
            let picked = greedy_cover(&candidates, count);
            prop_assert_eq!(picked.len(), count.min(sets.len()));
            let mut distinct = picked.clone();
            distinct.sort_unstable();
            distinct.dedup();
            prop_assert_eq!(distinct.len(), picked.len());
            let chosen: Vec<&BitSet> = picked.iter().map(|&i| &sets[i]).collect();
            let bound = (1.0 - (-1.0_f64).exp()) * f64::from(optimum(&sets, count));
            prop_assert!(f64::from(covered(&chosen)) >= bound);
        }
    }

    #[test]
    fn covering_begins_again_when_all_is_covered() {
        let set = |bits: [u8; 4]| BitSet::new(bits.map(|b| b == 1));
        let sets = [set([1, 1, 0, 0]), set([0, 0, 1, 1]), set([1, 0, 0, 0]), set([1, 0, 1, 1])];
        let candidates: Vec<&BitSet> = sets.iter().collect();
        // Largest first, then what completes the cover, then the same question over the rest.
        assert_eq!(greedy_cover(&candidates, 9), [3, 0, 1, 2]);
        assert_eq!(greedy_cover(&candidates, 0), [0_usize; 0]);
        assert_eq!(greedy_cover(&[], 3), [0_usize; 0]);
        let empty = [set([0; 4]), set([0; 4])];
        assert_eq!(greedy_cover(&empty.iter().collect::<Vec<_>>(), 2), [0, 1]);
    }

    #[test]
    fn sets_longer_than_a_word_are_whole() {
        let long = BitSet::new((0..130).map(|i| i % 43 == 0));
        assert_eq!(covered(&[&long]), 4);
        assert_eq!(long.words.len(), 3);
    }
}
