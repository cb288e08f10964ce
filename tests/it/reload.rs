//! Plans that come and go under requests.

use std::ops::ControlFlow;
use std::path::Path;

use nn_poly::plan::{ActivationSide, Plan};
use protocol::access::Look;
use protocol::hosting::{HostingError, PlanLibrary, PlanShelf};
use protocol::identifiers::Digest;
use protocol::message::RefusalCode;
use protocol::server::service::{PlanHost, SegmentService};
use protocol::signature::{OwnerKey, Subject, signature_path};
use securedl_tests::models::TinyModel;

fn plans() -> [Plan; 2] {
    [TinyModel::dense_only(), TinyModel::dense_quadratic()]
        .map(|model| model.plan(ActivationSide::Server, 8))
}

/// What a segment answers to a request of zeros, of which the second half is sent after `between`.
fn answer(service: &dyn SegmentService, between: impl FnOnce()) -> Vec<u8> {
    let request = vec![0; usize::try_from(service.request_bytes()).unwrap()];
    let (first, second) = request.split_at(request.len() / 2);
    let mut receiver = service.begin([1; 32]).unwrap();
    receiver.push(first).unwrap();
    between();
    receiver.push(second).unwrap();
    let mut reply = Vec::new();
    receiver
        .evaluate(&mut |piece| {
            reply.extend_from_slice(&piece);
            ControlFlow::Continue(())
        })
        .unwrap();
    reply
}

#[test]
fn a_plan_that_is_taken_away_finishes_what_it_began_and_begins_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let [one, other] = plans();
    let (first, second) = (folder.path().join("one.plan"), folder.path().join("other.plan"));
    one.save(&first).unwrap();
    other.save(&second).unwrap();
    let library = PlanLibrary::open(folder.path(), &[]).unwrap();
    let digest = Digest(one.digest().0);
    let mut shelf = PlanShelf::new();
    shelf.insert(&one).unwrap();
    let expected = answer(&*shelf.segment(&digest, 0).unwrap(), || {});

    let service = library.segment(&digest, 0).unwrap();
    let reply = answer(&*service, || {
        std::fs::remove_file(&first).unwrap();
        let changes = library.refresh(Look::IfTouched).unwrap();
        assert_eq!(changes.removed.len(), 1);
        assert_eq!(library.n_plans(), 1);
        let refusal = library.segment(&digest, 0).err().unwrap();
        assert_eq!(refusal.code, RefusalCode::UnknownPlan);
    });
    assert_eq!(reply, expected);
}

#[test]
fn a_file_is_read_when_it_has_settled_and_a_broken_one_takes_nothing_away() {
    let folder = tempfile::tempdir().unwrap();
    let [one, other] = plans();
    let (first, second) = (folder.path().join("one.plan"), folder.path().join("other.plan"));
    one.save(&first).unwrap();
    let library = PlanLibrary::open(folder.path(), &[]).unwrap();
    assert!(library.refresh(Look::IfTouched).unwrap().is_empty());

    std::fs::write(&second, b"half").unwrap();
    assert!(library.refresh(Look::IfTouched).unwrap().is_empty(), "it may still grow");
    let changes = library.refresh(Look::IfTouched).unwrap();
    assert!(matches!(changes.problems[..], [HostingError::Plan { .. }]));
    assert_eq!((library.n_plans(), changes.broken_files), (1, 1));
    let changes = library.refresh(Look::IfTouched).unwrap();
    assert!(changes.is_empty() && changes.broken_files == 1, "told once");

    other.save(&second).unwrap();
    library.refresh(Look::IfTouched).unwrap();
    let changes = library.refresh(Look::IfTouched).unwrap();
    assert_eq!((changes.added.len(), changes.broken_files), (1, 0));

    // What was good before stays until it is replaced or taken away.
    std::fs::write(&second, b"damaged").unwrap();
    let changes = library.refresh(Look::Always).unwrap();
    assert_eq!((library.n_plans(), changes.removed.len(), changes.problems.len()), (2, 0, 1));
    std::fs::remove_file(&second).unwrap();
    let changes = library.refresh(Look::IfTouched).unwrap();
    assert_eq!((library.n_plans(), changes.removed.len(), changes.broken_files), (1, 1, 0));

    assert!(matches!(
        PlanLibrary::open(&folder.path().join("none"), &[]),
        Err(HostingError::Folder { .. })
    ));
}

#[test]
fn a_server_starts_with_the_plans_that_are_good() {
    let folder = tempfile::tempdir().unwrap();
    let [one, other] = plans();
    let (first, second) = (folder.path().join("one.plan"), folder.path().join("other.plan"));
    std::fs::write(&first, b"half").unwrap();
    let error = PlanLibrary::open(folder.path(), &[]).unwrap_err();
    assert!(matches!(&error, HostingError::Plan { path, .. } if *path == first), "{error}");

    other.save(&second).unwrap();
    let (library, found) = PlanLibrary::open_on(PlanShelf::new(), folder.path(), &[]).unwrap();
    assert_eq!((library.n_plans(), found.added.len(), found.broken_files), (1, 1, 1));
    assert!(matches!(&found.problems[..], [HostingError::Plan { path, .. }] if *path == first));

    // Its copy is finished.
    one.save(&first).unwrap();
    library.refresh(Look::IfTouched).unwrap();
    let changes = library.refresh(Look::IfTouched).unwrap();
    assert_eq!((library.n_plans(), changes.broken_files), (2, 0));
}

#[test]
fn a_plan_whose_signature_was_withdrawn_is_not_served_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let [one, other] = plans();
    let owner = OwnerKey::from_seed(&[3; 32]);
    let files = ["one.plan", "other.plan"].map(|name| folder.path().join(name));
    let sign = |plan: &Plan, path: &Path, owner: &OwnerKey| {
        let subject = Subject::of_plan(plan);
        std::fs::write(signature_path(path), owner.sign(&subject).to_text(&subject)).unwrap();
    };
    for (plan, path) in [&one, &other].into_iter().zip(&files) {
        plan.save(path).unwrap();
        sign(plan, path, &owner);
    }
    let library = PlanLibrary::open(folder.path(), &[owner.public()]).unwrap();
    assert_eq!(library.n_plans(), 2);
    let digest = Digest(one.digest().0);
    let service = library.segment(&digest, 0).unwrap();
    let expected = answer(&*service, || {});

    // Deleted: gone at the next look, but for the request under way.
    let reply = answer(&*service, || {
        std::fs::remove_file(signature_path(&files[0])).unwrap();
        let changes = library.refresh(Look::IfTouched).unwrap();
        assert_eq!((library.n_plans(), changes.removed.len(), changes.broken_files), (1, 1, 1));
        assert!(matches!(changes.problems[..], [HostingError::Signature { .. }]));
        assert_eq!(library.segment(&digest, 0).err().unwrap().code, RefusalCode::UnknownPlan);
    });
    assert_eq!(reply, expected);

    // Of somebody else, or damaged.
    sign(&other, &files[1], &OwnerKey::from_seed(&[4; 32]));
    library.refresh(Look::Always).unwrap();
    assert_eq!(library.n_plans(), 0);
    sign(&other, &files[1], &owner);
    library.refresh(Look::Always).unwrap();
    assert_eq!(library.n_plans(), 1);
    std::fs::write(signature_path(&files[1]), b"nothing").unwrap();
    library.refresh(Look::IfTouched).unwrap();
    assert_eq!(library.n_plans(), 0);

    // Signed again, both are back.
    sign(&one, &files[0], &owner);
    sign(&other, &files[1], &owner);
    let changes = library.refresh(Look::IfTouched).unwrap();
    assert_eq!((library.n_plans(), changes.broken_files), (2, 0));
}
