//! Every figure of a table, one line per batch or phase.

use crate::pipeline::tabulating::BatchRecord;
use crate::pipeline::tabulating::shares::{PhaseRecord, SharesRecord};

/// Columns.
const HEAD: &str = "method,network,data,mode,bits,samples,float_accuracy,accuracy,seconds,runs,\
                    refresh_seconds,client_seconds,server_seconds,rounds,refresh_messages,moduli,\
                    ring_degree,modulus_bits,proven,bytes_up,bytes_down,bytes,forecast_bytes,\
                    peak_memory_bytes\n";

/// Encrypted batches.
pub(super) fn of_batches(records: &[BatchRecord]) -> String {
    let mut text = HEAD.to_owned();
    for record in records {
        let cells = [
            method(record).to_owned(),
            record.network.clone(),
            record.data.clone(),
            record.mode.clone(),
            record.bits.clone(),
            record.samples.to_string(),
            format!("{:.6}", record.float_accuracy),
            format!("{:.6}", record.accuracy),
            format!("{:.6}", record.seconds()),
            record.runs.len().to_string(),
            format!("{:.6}", record.refresh_seconds),
            format!("{:.6}", record.client_seconds),
            format!("{:.6}", record.server_seconds),
            record.rounds.to_string(),
            record.refresh_messages().to_string(),
            record.residues.to_string(),
            record.ring_degree.to_string(),
            format!("{:.1}", record.modulus_bits),
            record.proven.to_string(),
            record.bytes_up.to_string(),
            record.bytes_down.to_string(),
            record.bytes().to_string(),
            record.forecast_bytes.to_string(),
            record.peak_memory_bytes.map(|bytes| bytes.to_string()).unwrap_or_default(),
        ];
        text.push_str(&(cells.join(",") + "\n"));
    }
    text
}

/// Phases on two servers; what they have no figure for stays empty.
pub(super) fn of_shares(records: &[SharesRecord]) -> String {
    let mut text = String::new();
    for record in records {
        let phases = [
            ("SecureML weights", &record.weights),
            ("SecureML offline", &record.offline),
            ("SecureML online", &record.online),
        ];
        for (method, phase) in phases {
            text.push_str(&phase_line(method, record, phase));
        }
    }
    text
}

fn phase_line(method: &str, record: &SharesRecord, phase: &PhaseRecord) -> String {
    let SharesRecord { network, data, samples, accuracy, .. } = record;
    let PhaseRecord { seconds, bytes, formula_bytes, rounds, .. } = phase;
    format!(
        "{method},{network},{data},two servers,,{samples},,{accuracy:.6},{seconds:.6},1,,,,{rounds},,,,,,,,\
         {bytes},{formula_bytes},\n"
    )
}

/// Whose way of classifying it is.
pub(super) fn method(record: &BatchRecord) -> &'static str {
    if record.mode == "non-interactive" { "CryptoNets" } else { "SecureDL" }
}
