//! What the papers say: the only figures in this program that it has not measured or derived.
//!
//! | Short | Source |
//! |---|---|
//! | SSF | Z. He, T. Zhang, R. Lee, "Sensitive-Sample Fingerprinting of Deep Neural Networks", CVPR 2019: on *their* networks (VGG-Face, a 7-layer CNN on GTSRB and on CIFAR-10) |
//! | SecureDL | G. Xu et al., "Secure and Verifiable Inference in Deep Neural Networks", ACSAC 2020, section 5.3: tables 2 and 3, HElib on a machine that our source does not name |
//!
//! Of SecureDL, tables 10 to 12 and the curves of figures 4 and 5 could not be recovered.

/// Numbers of samples in tables of missing rates.
pub(crate) const SAMPLES: [usize; 6] = [1, 2, 3, 4, 5, 8];

/// SSF, table 3: missing rates in percent for [`SAMPLES`], with sensitive samples chosen by MANC, top-1.
pub(crate) const MISSING: [(&str, &str, [f64; 6]); 4] = [
    ("trojan", "trojan", [5.93, 0.22, 0.0, 0.0, 0.0, 0.0]),
    ("error-generic", "error-generic poisoning", [12.26, 0.04, 0.01, 0.0, 0.0, 0.0]),
    ("error-specific", "error-specific poisoning", [2.20, 0.01, 0.0, 0.0, 0.0, 0.0]),
    ("precision", "compression", [48.93, 15.56, 4.72, 1.81, 0.83, 0.04]),
];

/// SSF, table 4: missing rates in percent for 1, 2, 3 samples, trojan, by what is compared.
pub(crate) const BY_RULE: [(&str, [f64; 3]); 5] = [
    ("top-1", [5.93, 0.22, 0.0]),
    ("top-3", [0.0, 0.0, 0.0]),
    ("top-5", [0.0, 0.0, 0.0]),
    ("decimals-1", [0.21, 0.0, 0.0]),
    ("decimals-2", [0.0, 0.0, 0.0]),
];

/// SSF, table 5: samples needed for
/// [`MISSING_TARGETS`](fingerprint::experiment::MISSING_TARGETS): non-sensitive, sensitive (random), with MANC.
pub(crate) const QUERIES: [(&str, [[u64; 7]; 3]); 4] = [
    ("trojan", [[74, 65, 56, 47, 38, 28, 21], [10, 9, 8, 7, 6, 4, 3], [4, 4, 3, 3, 3, 2, 2]]),
    (
        "error-generic",
        [[332, 291, 249, 208, 166, 125, 83], [14, 12, 11, 9, 7, 6, 4], [4, 4, 4, 4, 3, 2, 2]],
    ),
    (
        "error-specific",
        [[309, 270, 232, 193, 155, 116, 77], [11, 9, 8, 7, 6, 4, 3], [3, 3, 3, 3, 3, 2, 2]],
    ),
    (
        "precision",
        [
            [502, 439, 376, 314, 252, 189, 126],
            [78, 70, 59, 51, 40, 29, 20],
            [31, 31, 30, 28, 25, 18, 8],
        ],
    ),
];

/// One row of SecureDL's table 2: one batch of [`TABLE_2_BATCH`] on the benchmark network.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Tabular {
    /// Our name of the data set.
    pub(crate) data: &'static str,
    /// Classification.
    pub(crate) seconds: f64,
    /// Messages between user and server for noise reduction, `#C`.
    pub(crate) messages: u32,
    /// Noise reduction.
    pub(crate) refresh_seconds: f64,
}

const fn tabular(data: &'static str, seconds: f64, refresh_seconds: f64) -> Tabular {
    Tabular { data, seconds, messages: 14, refresh_seconds }
}

/// SecureDL, table 2.
pub(crate) const TABLE_2: [Tabular; 6] = [
    tabular("breast_tissue", 181.23, 115.84),
    tabular("crabs", 174.56, 112.07),
    tabular("ovarian", 214.33, 138.06),
    tabular("wine", 182.57, 116.26),
    tabular("climate", 193.64, 124.71),
    tabular("fertility", 183.26, 117.26),
];

/// Samples of its batches.
pub(crate) const TABLE_2_BATCH: u64 = 576;

/// One column of SecureDL's table 3: MNIST, [`TABLE_3_BATCH`] images, one network and machine for all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Compared {
    pub(crate) name: &'static str,
    /// Share of 1.
    pub(crate) accuracy: f64,
    pub(crate) seconds: f64,
    /// Data transfer, in units of 10^6 bytes.
    pub(crate) megabytes: f64,
}

/// SecureDL, table 3.
pub(crate) const TABLE_3: [Compared; 3] = [SECUREDL, CRYPTONETS, SECUREML];
/// Its own method.
pub(crate) const SECUREDL: Compared =
    Compared { name: "SecureDL", accuracy: 0.9623, seconds: 319.0, megabytes: 330.7 };
/// Leveled encryption without interaction; the paper says that it bootstraps, which CryptoNets does
/// not.
pub(crate) const CRYPTONETS: Compared =
    Compared { name: "CryptoNets", accuracy: 0.9593, seconds: 803.0, megabytes: 776.0 };
/// Two servers on additive shares.
pub(crate) const SECUREML: Compared =
    Compared { name: "SecureML", accuracy: 0.9167, seconds: 10_648.0, megabytes: 2460.0 };

/// Samples of its batch.
pub(crate) const TABLE_3_BATCH: u64 = 8192;

/// SecureDL, section 5.3: sizes of batches that take as long as a single instance. (The largest is
/// printed as 8912.)
pub(crate) const BATCHES: [u64; 6] = [282, 576, 1420, 3668, 6144, 8192];

/// Plaintext moduli of CryptoNets (ICML 2016, section 5).
pub(crate) const CRYPTONETS_MODULI: u32 = 5;
