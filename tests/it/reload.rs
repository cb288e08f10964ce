//! Plans that come and go under requests.

use std::ops::ControlFlow;

use nn_poly::plan::{ActivationSide, Plan};
use protocol::access::Look;
use protocol::hosting::{HostingError, PlanLibrary, PlanShelf};
use protocol::identifiers::Digest;
use protocol::message::RefusalCode;
use protocol::server::service::{PlanHost, SegmentService};
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
