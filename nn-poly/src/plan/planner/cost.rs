//! The model of time: what a block costs, and how blocks, link and both sides overlap.

use std::collections::VecDeque;

use crate::error::Result;
use crate::integer::IntegerNetwork;
use crate::plan::Segment;

/// Wall seconds of one block of a segment, on all cores of a machine that does nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BlockSeconds {
    /// Client: encoding, encryption, packing, preparation of the check, random points.
    pub encrypt: f64,
    /// Server: unpacking and expansion of the request.
    pub receive: f64,
    /// Server: linear map, squares, sums, switching, packing.
    pub evaluate: f64,
    /// Client: word check of the reply; nothing is decrypted before its end.
    pub check: f64,
    /// Client: decryption, decoding, comparison, activation and pool at the client, refresh.
    pub decrypt: f64,
}

impl BlockSeconds {
    /// Seconds at the client.
    #[must_use]
    pub fn client(&self) -> f64 {
        self.encrypt + self.check + self.decrypt
    }

    /// Seconds at the server.
    #[must_use]
    pub fn server(&self) -> f64 {
        self.receive + self.evaluate
    }
}

/// Where a planner learns what segments cost: measured, or from stored rates.
pub trait CostSource {
    /// Wall seconds of one block of `segment`, a segment of `network`.
    ///
    /// # Errors
    /// What measuring meets: parameters this build cannot use.
    fn block_seconds(
        &mut self,
        network: &IntegerNetwork,
        segment: &Segment,
    ) -> Result<BlockSeconds>;

    /// Wall seconds per byte, on all cores.
    ///
    /// # Errors
    /// As for [`Self::block_seconds`].
    fn byte_seconds(&mut self) -> Result<ByteSeconds>;
}

/// Wall seconds per byte at either side, on all cores.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ByteSeconds {
    /// Hashing and copying of payloads.
    pub payload: f64,
    /// First use of memory: the operating system clears pages when they are touched.
    pub memory: f64,
}

/// What lies between client and server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Link {
    /// Nothing: both share the cores of this machine, as `securedl infer --local` does.
    SameMachine,
    /// A link between two machines, as fast in both directions at once.
    Network {
        /// Bits per second in each direction.
        bits_per_second: f64,
        /// Seconds of a round trip.
        round_trip_seconds: f64,
    },
}

/// Forecast seconds of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TimeForecast {
    /// The client's work on all its cores.
    pub client: f64,
    /// The server's work on all its cores.
    pub server: f64,
    /// Bytes on the link, both directions one after the other, and round trips.
    pub link: f64,
    /// From first to last: less than the sum where the three overlap.
    pub total: f64,
}

impl TimeForecast {
    /// One run after the other.
    pub(super) fn add(&mut self, other: &Self, times: f64) {
        self.client += other.client * times;
        self.server += other.server * times;
        self.link += other.link * times;
        self.total += other.total * times;
    }
}

/// Blocks in flight with default settings.
pub(super) const IN_FLIGHT: usize = 2;

/// Blocks whose schedule is followed one by one; more go on at the same pace.
const MAX_FOLLOWED: u64 = 64;

/// One round: `blocks` blocks of a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct RoundCost {
    pub(super) blocks: u64,
    pub(super) seconds: BlockSeconds,
    pub(super) bytes_up: u64,
    pub(super) bytes_down: u64,
    /// Whether the reply must be complete before it is decrypted.
    pub(super) is_linear: bool,
    /// Seconds in which the client first uses memory for this round.
    pub(super) client_memory: f64,
    /// The same at the server.
    pub(super) server_memory: f64,
}

/// The time of one round.
///
/// On one machine both sides take turns on the same cores, so times add up. Over a link up to
/// [`IN_FLIGHT`] blocks are under way, and what client and server compute overlaps as in
/// [`Pipeline`], after the first use of memory; the link overlaps with that in part: see
/// [`with_link`].
#[expect(clippy::cast_precision_loss, reason = "a forecast of seconds")]
pub(super) fn round_time(round: &RoundCost, link: Link, seconds_per_byte: f64) -> TimeForecast {
    let (up, down) = (round.bytes_up as f64, round.bytes_down as f64);
    let carried = (up + down) * seconds_per_byte;
    let n = round.blocks as f64;
    let client = n * (round.seconds.client() + carried) + round.client_memory;
    let server = n * (round.seconds.server() + carried) + round.server_memory;
    match link {
        Link::SameMachine => TimeForecast { client, server, link: 0.0, total: client + server },
        Link::Network { bits_per_second, round_trip_seconds } => {
            let seconds = BlockSeconds {
                encrypt: round.seconds.encrypt + up * seconds_per_byte,
                receive: round.seconds.receive + up * seconds_per_byte,
                evaluate: round.seconds.evaluate + down * seconds_per_byte,
                check: round.seconds.check + down * seconds_per_byte,
                decrypt: round.seconds.decrypt,
            };
            let is_linear = round.is_linear;
            let pipeline = Pipeline { seconds, one_way: round_trip_seconds / 2.0, is_linear };
            let on_wire = n * 8.0 * (up + down) / bits_per_second;
            let memory = round.client_memory + round.server_memory;
            let total = with_link(memory + pipeline.makespan(round.blocks), on_wire);
            TimeForecast { client, server, link: on_wire + round_trip_seconds, total }
        }
    }
}

/// Half way between computing beside the transport and after it: whichever it is, the forecast is off
/// by a factor of 1.5 at most.
///
/// The more bytes a choice moves, the more it loses on a slower link, so a slower link never makes
/// a segment move more.
fn with_link(computing: f64, on_wire: f64) -> f64 {
    0.5 * (computing + on_wire) + 0.5 * computing.max(on_wire)
}

/// Times of one block at every place it passes, the link apart.
struct Pipeline {
    seconds: BlockSeconds,
    one_way: f64,
    is_linear: bool,
}

impl Pipeline {
    /// Seconds until the last of `blocks` blocks is open.
    #[expect(clippy::cast_precision_loss, reason = "a forecast of seconds")]
    fn makespan(&self, blocks: u64) -> f64 {
        let n_followed = blocks.min(MAX_FOLLOWED);
        let ends = self.ends(n_followed);
        let last = ends.last().copied().unwrap_or(0.0);
        let (half, n_rest) = (ends.len() / 2, (blocks - n_followed) as f64);
        let middle = ends.get(half).copied().unwrap_or(0.0);
        let n_between = ends.len().saturating_sub(half + 1).max(1) as f64;
        last + (last - middle) / n_between * n_rest
    }

    /// When each block is open.
    ///
    /// The client encrypts two blocks, then opens the oldest and encrypts another, by turns. The
    /// server decodes a block while it is encrypted, and the client checks a reply while it is
    /// computed.
    fn ends(&self, blocks: u64) -> Vec<f64> {
        let BlockSeconds { encrypt, receive, evaluate, check, decrypt } = self.seconds;
        let n_blocks = usize::try_from(blocks).unwrap_or(usize::MAX);
        let (mut client, mut server) = (0.0_f64, 0.0_f64);
        let mut waiting = VecDeque::new();
        let mut ends: Vec<f64> = Vec::new();
        let mut n_begun = 0;
        while ends.len() < n_blocks {
            while n_begun < n_blocks && waiting.len() < IN_FLIGHT {
                waiting.push_back(client);
                client += encrypt;
                n_begun += 1;
            }
            let begun = waiting.pop_front().unwrap_or(client) + self.one_way;
            // Each step ends no sooner than it takes, nor than what feeds it.
            let received = (begun + encrypt).max(server.max(begun) + receive);
            server = received + evaluate;
            let replied = server + self.one_way;
            let free = client.max(received + self.one_way);
            // Words are decrypted after the last of them was checked.
            client = if self.is_linear {
                replied.max(free + check) + decrypt
            } else {
                replied.max(free + check + decrypt)
            };
            ends.push(client);
        }
        ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: BlockSeconds =
        BlockSeconds { encrypt: 3.0, receive: 1.0, evaluate: 5.0, check: 1.0, decrypt: 2.0 };

    fn round(blocks: u64) -> RoundCost {
        let (bytes_up, bytes_down) = (1000, 2000);
        let (client_memory, server_memory) = (0.125, 0.25);
        let seconds = BLOCK;
        let is_linear = true;
        RoundCost { blocks, seconds, bytes_up, bytes_down, is_linear, client_memory, server_memory }
    }

    fn over(bits_per_second: f64, blocks: u64) -> TimeForecast {
        let link = Link::Network { bits_per_second, round_trip_seconds: 0.5 };
        round_time(&round(blocks), link, 0.0)
    }

    #[test]
    fn one_machine_does_everything_itself() {
        let time = round_time(&round(3), Link::SameMachine, 1e-3);
        assert!((time.total - 3.0 * (12.0 + 2.0 * 3.0) - 0.375).abs() < 1e-9, "{time:?}");
        assert!((time.client - 3.0 * (6.0 + 3.0) - 0.125).abs() < 1e-9 && time.link == 0.0);
    }

    #[test]
    fn one_block_waits_for_every_step_that_cannot_overlap() {
        let time = over(1e12, 1);
        // Encryption, most of the decoding beside it, evaluation, decryption.
        assert!(time.total >= 3.0 + 5.0 + 2.0 + 0.5 && time.total <= 12.5, "{time:?}");
    }

    #[test]
    fn many_blocks_go_at_the_pace_of_the_slowest_place() {
        // The client takes 6 seconds per block, the server 6, the link 0, 30 or 3.
        for (bits_per_second, least, most) in
            [(1e12, 6.0, 8.0), (800.0, 30.0, 35.0), (8000.0, 6.0, 10.0)]
        {
            let (few, many) = (over(bits_per_second, 40).total, over(bits_per_second, 1040).total);
            let pace = (many - few) / 1000.0;
            assert!((least..=most).contains(&pace), "{bits_per_second}: {pace}");
        }
    }

    #[test]
    fn more_work_never_takes_less_time() {
        let mut last = 0.0;
        for blocks in [1, 2, 3, 5, 63, 64, 65, 1000] {
            let total = over(1e5, blocks).total;
            assert!(total > last, "{blocks} blocks");
            last = total;
        }
        let mut last = f64::MAX;
        for bits_per_second in [1e2, 1e3, 1e4, 1e6, 1e9] {
            let total = over(bits_per_second, 7).total;
            assert!(total <= last, "{bits_per_second} bits per second");
            last = total;
        }
    }
}
