//! Owners' signatures as servers announce them, checked by clients that hold only the public part.

use std::sync::Arc;

use fingerprint::CanaryPack;
use nn_poly::plan::{ActivationSide, Plan};
use protocol::hosting::{HostingError, PlanShelf};
use protocol::identifiers::Digest;
use protocol::message::{PlanBytes, PublicPart};
use protocol::signature::{
    OwnerKey, OwnerPublic, OwnerSignature, PublicPartError, SignatureProblem, Subject, check,
    signature_path,
};
use securedl_tests::loopback::{in_process, runtime, server};
use securedl_tests::models::{TinyModel, samples};

fn owner() -> OwnerKey {
    OwnerKey::from_seed(&[3; 32])
}

fn plan(seed: u64) -> Plan {
    TinyModel::dense_only().with_seed(seed).plan(ActivationSide::Client, 10)
}

/// What a server with this signature hands out.
fn fetched(plan: &Plan, signature: Option<OwnerSignature>) -> PublicPart {
    let mut shelf = PlanShelf::new();
    let digest = shelf.insert(plan).unwrap();
    shelf.sign(&digest, signature);
    let remote = in_process(server(Arc::new(shelf)));
    runtime().block_on(async {
        let cards = remote.list_models().await.unwrap();
        assert_eq!(cards[0].signature, signature, "the same in the list");
        remote.fetch_plan(&digest).await.unwrap()
    })
}

fn problem_of(part: &PublicPart, plan: Digest, owners: &[OwnerPublic]) -> Option<SignatureProblem> {
    match part.open(plan, owners) {
        Ok(_) => None,
        Err(PublicPartError::Signature { source }) => Some(source),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_fetched_public_part_is_its_owners_for_that_plan_only() {
    let (plan, other) = (plan(1), plan(2));
    let digest = Digest(plan.digest().0);
    let signature = owner().sign(&Subject::of_plan(&plan));
    let part = fetched(&plan, Some(signature));
    let owners = [owner().public()];
    assert_eq!(&part.open(digest, &owners).unwrap(), plan.public());
    assert_eq!(problem_of(&part, digest, &[]), None);
    // The digest names the weights, too: another plan of the same public part is another subject.
    let wrong = Digest(other.digest().0);
    assert!(matches!(problem_of(&part, wrong, &owners), Some(SignatureProblem::Wrong { .. })));
    assert!(matches!(problem_of(&part, wrong, &[]), Some(SignatureProblem::Wrong { .. })));
    // Another public part under the signature.
    let exchanged = PublicPart { plan: fetched(&other, None).plan, ..part.clone() };
    let is_other = other.public() != plan.public();
    assert_eq!(problem_of(&exchanged, digest, &owners).is_some(), is_other);
    let unsigned = PublicPart { signature: None, ..part.clone() };
    assert_eq!(problem_of(&unsigned, digest, &owners), Some(SignatureProblem::Missing));
    assert_eq!(problem_of(&unsigned, digest, &[]), None);
    let strangers = [OwnerKey::from_seed(&[4; 32]).public()];
    let foreign = SignatureProblem::Foreign { signer: owner().public() };
    assert_eq!(problem_of(&part, digest, &strangers), Some(foreign));
    let garbage = PublicPart { plan: PlanBytes(vec![7; 100].into()), ..part };
    assert!(matches!(garbage.open(digest, &owners), Err(PublicPartError::Plan { .. })));
}

/// A pack says which plan it bounds, and its signature says so too: of another plan, of other canaries or
/// of a plan with the pack's digest it is none.
#[test]
fn the_signature_of_a_pack_is_of_these_canaries_of_this_plan() {
    let packs = [2, 3].map(|seed| {
        let plan = TinyModel::fine_grid().with_seed(seed).masked_plan();
        let made = CanaryPack::make(&plan, &samples(&plan, 5, 1)).unwrap();
        let longer = CanaryPack::make(&plan, &samples(&plan, 6, 1)).unwrap();
        [made, longer]
    });
    let subject = |pack: &CanaryPack| Subject::of_pack(pack).unwrap();
    let [[pack, longer], [foreign, _]] = &packs;
    let owners = [owner().public()];
    let signature = owner().sign(&subject(pack));
    let again = CanaryPack::from_bytes(&pack.to_bytes().unwrap()).unwrap();
    assert_eq!(check(Some(&signature), &subject(&again), &owners), Ok(()));
    assert_eq!(check(None, &subject(pack), &owners), Err(SignatureProblem::Missing));
    let Subject::Pack { pack: digest, plan } = subject(pack) else { panic!("a pack") };
    assert_eq!(plan, Digest(pack.plan().0));
    let Subject::Pack { plan: other_plan, .. } = subject(foreign) else { panic!("a pack") };
    for wrong in [
        subject(longer),
        subject(foreign),
        Subject::Pack { pack: digest, plan: other_plan },
        Subject::Plan { plan: digest, public: plan },
        Subject::Fingerprint(digest),
    ] {
        let problem = SignatureProblem::Wrong { subject: wrong };
        assert_eq!(check(Some(&signature), &wrong, &owners), Err(problem));
    }
}

#[test]
fn a_shelf_takes_only_what_its_owners_have_signed() {
    let folder = tempfile::tempdir().unwrap();
    let (file, plan) = (folder.path().join("a.plan"), plan(1));
    plan.save(&file).unwrap();
    let owners = [owner().public()];
    let open = |owners: &[OwnerPublic]| {
        PlanShelf::open_directory_of(folder.path(), owners).map_err(Box::new)
    };
    assert!(open(&[]).is_ok());
    let problem = |owners: &[OwnerPublic]| match open(owners) {
        Ok(_) => None,
        Err(error) => match *error {
            HostingError::Signature { source, path } if path == file => Some(source),
            error => panic!("{error}"),
        },
    };
    assert_eq!(problem(&owners), Some(SignatureProblem::Missing));
    let subject = Subject::of_plan(&plan);
    let sign = |key: &OwnerKey, subject: &Subject| {
        std::fs::write(signature_path(&file), key.sign(subject).to_text(subject)).unwrap();
    };
    sign(&owner(), &subject);
    assert!(open(&owners).is_ok() && open(&[]).is_ok());
    let stranger = OwnerKey::from_seed(&[4; 32]);
    sign(&stranger, &subject);
    let foreign = SignatureProblem::Foreign { signer: stranger.public() };
    assert_eq!(problem(&owners), Some(foreign));
    // Of a fingerprint with the plan's digest; then of another plan. Wrong also if nobody is named.
    let others = [Subject::Fingerprint(Digest(plan.digest().0)), Subject::of_plan(&self::plan(2))];
    for other in others {
        sign(&owner(), &other);
        for owners in [&owners[..], &[]] {
            assert_eq!(problem(owners), Some(SignatureProblem::Wrong { subject }));
        }
    }
    std::fs::write(signature_path(&file), "no signature").unwrap();
    let error = open(&[]).unwrap_err();
    assert!(matches!(*error, HostingError::SignatureFile { .. }), "{error}");
}
