//! Bytes of plans: those of this version, and tables and versions that are refused.

use nn_poly::Error;
use nn_poly::integer::{
    ConvGeometry, Grouping, IntegerNetwork, LinearGeometry, Reduction, StageWeights, SumGeometry,
    SumTerm, ValueRef, Volume,
};
use nn_poly::layer::Padding;
use nn_poly::plan::{ActivationSide, Digest, Plan, PublicPlan};

use super::{altered, check_simulation, compiled, table, tiny};

/// A change here is a new format version and an entry in the change log.
#[test]
fn golden_bytes_of_a_tiny_plan() {
    let plan = compiled(&tiny(), ActivationSide::Server);
    let file = Digest(*blake3::hash(&plan.to_bytes().unwrap()).as_bytes());
    let found = [plan.public_digest(), plan.private_digest(), plan.digest(), file];
    let expected = [
        "6af082460ab7c65f3d86630093cad79a984c8c95229137590a7144d094ccffa7",
        "64643b0c596a124f7fe56d0f0b62b5a5efcc89981932bd8f131b5570718ce4df",
        "f69659db2ce0dd639ec6d2d598787d1c1f0874d6bc81ec006c5b6b7d4b8ea84b",
        "1f4572daeae2691e39c4fa0410b82e48a67029c4289d028ce9d472627ee0b4ad",
    ];
    assert_eq!(found.map(|digest| digest.to_string()), expected);
}

/// The bytes of a plan with branches: sums and groups, which plans without them do not contain.
#[test]
fn golden_bytes_of_a_plan_with_branches() {
    let on_vector = |first_input, n_in, grouping| SumTerm {
        first_input,
        conv: ConvGeometry {
            input: Volume::vector(n_in),
            kernel: (1, 1),
            stride: (1, 1),
            padding: Padding::NONE,
            out_channels: 4,
            grouping,
        },
    };
    let sum = SumGeometry {
        n_in: 6,
        terms: vec![on_vector(0, 2, Grouping::Groups(2)), on_vector(2, 4, Grouping::Depthwise)],
    };
    let mut structure = tiny().structure().to_vec();
    structure[1].sources = vec![ValueRef::Stage(0), ValueRef::Input];
    structure[1].linear = LinearGeometry::Sum(sum);
    let mut weights = tiny().weights().to_vec();
    weights[1] = StageWeights {
        weights: vec![1, 2, -3, 4, 0, -7, 5, 6],
        bias: vec![0, 9, -9, 1],
        quadratic: None,
        chain: Vec::new(),
    };
    let network = IntegerNetwork::new(*tiny().input(), 4, structure, weights).unwrap();
    // Inputs 1, 0, 2, 3: z = (4, 1, 7, 10) and (3, 5, 1, −1); pooled squares 166 and 36, refreshed
    // to 2 and 28, clamped to 15. Then 1·2 + 2·1, −3·2 + 4·0 + 9, 0·15 − 7·2 − 9, 5·15 + 6·3 + 1.
    let inputs = ndarray::array![[1], [0], [2], [3]];
    let scores = network.evaluate(&inputs).unwrap().scores;
    assert_eq!(scores, ndarray::array![[4], [3], [-23], [94]]);
    let plan = compiled(&network, ActivationSide::Server);
    check_simulation(&plan, &inputs);
    let file = Digest(*blake3::hash(&plan.to_bytes().unwrap()).as_bytes());
    assert_eq!(Plan::from_bytes(&plan.to_bytes().unwrap()).unwrap().digest(), plan.digest());
    let expected = [
        "db2572685313b55052d4b80db6b30464dcd6678fd4f9be109098efde3dc06735",
        "22c466ef1cc0955479f595360a3de566749e5567fbfdd2d77e1ab5fe218215f1",
    ];
    assert_eq!([plan.digest(), file].map(|digest| digest.to_string()), expected);
}

/// The bytes of a plan with a look-up table and maxima.
#[test]
fn golden_bytes_of_a_plan_with_a_table() {
    let network = altered(table(), Reduction::Max);
    // Inputs 1, 0, 2, 3: z = (4, 1, 7, 10) and (3, 5, 1, −1). The tables give (5, 5, 5, 3) and
    // (11, 11, 11, 4), maxima 5 and 11; the refresh divides to 0 and (11·200 + 128)/256 = 9.
    let inputs = ndarray::array![[1], [0], [2], [3]];
    let scores = network.evaluate(&inputs).unwrap().scores;
    assert_eq!(scores, ndarray::array![[18], [45], [-72]]);
    let plan = compiled(&network, ActivationSide::Client);
    check_simulation(&plan, &inputs);
    let file = Digest(*blake3::hash(&plan.to_bytes().unwrap()).as_bytes());
    let expected = [
        "3d1ab97bc84eb2be83431655bf2af0b388fd4706957b211be710add6c3615ffc",
        "c7ac8c4a0124583333f83f07bc4470ea0c23843f394258408e2ef9db6c59f0b8",
    ];
    assert_eq!([plan.digest(), file].map(|digest| digest.to_string()), expected);
}

/// Tables in files are checked like tables from code.
#[test]
fn tables_that_are_none_are_refused_in_files() {
    let plan = compiled(&altered(table(), Reduction::Sum), ActivationSide::Client);
    let bytes = plan.public().to_bytes().unwrap();
    let position =
        |pattern: &[u8]| bytes.windows(pattern.len()).position(|window| window == pattern).unwrap();
    let starts: Vec<u8> = [-3_i64, 0, 9].iter().flat_map(|start| start.to_le_bytes()).collect();
    let at = position(&starts);
    let altered = |at: usize, with: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at..at + with.len()].copy_from_slice(with);
        let n = bytes.len() - 32;
        let digest = blake3::hash(&bytes[..n]);
        bytes[n..].copy_from_slice(digest.as_bytes());
        PublicPlan::from_bytes(&bytes)
    };
    assert_eq!(&altered(at, &(-3_i64).to_le_bytes()).unwrap(), plan.public());
    assert!(altered(at, &(-4_i64).to_le_bytes()).is_ok(), "another table");
    let values = at + starts.len() + 8;
    for (what, at, with) in [
        ("not ascending", at, 0_i64.to_le_bytes().to_vec()),
        ("beyond 2^62", at, i64::MIN.to_le_bytes().to_vec()),
        ("equal neighbors", values, (-2_i32).to_le_bytes().to_vec()),
        ("value out of range", values, i32::MAX.to_le_bytes().to_vec()),
        ("more starts than bytes", at - 8, u64::MAX.to_le_bytes().to_vec()),
        ("fewer values than runs", values - 8, 3_u64.to_le_bytes().to_vec()),
    ] {
        let refused = altered(at, &with);
        assert!(
            matches!(refused, Err(Error::Decode { .. } | Error::TrailingBytes { .. })),
            "{what}"
        );
    }
}

#[test]
fn plans_of_version_1_are_refused_by_name() {
    let mut bytes = compiled(&tiny(), ActivationSide::Server).to_bytes().unwrap();
    bytes[8] = 1;
    let n = bytes.len() - 32;
    let digest = blake3::hash(&bytes[..n]);
    bytes[n..].copy_from_slice(digest.as_bytes());
    let refused = Plan::from_bytes(&bytes);
    assert!(matches!(refused, Err(Error::UnsupportedVersion { supported: 5, actual: 1 })));
}
