#![allow(clippy::unwrap_used, reason = "tests")]
use std::sync::Mutex;
use std::time::Duration;

use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

use super::*;

/// Time as the test says.
#[derive(Debug, Default)]
struct Hands(Mutex<(Duration, u64)>);

impl Hands {
    fn advance(&self, by: Duration) {
        let mut time = self.0.lock().unwrap();
        time.0 += by;
        time.1 += by.as_secs();
    }
}

impl Clock for Hands {
    fn monotonic(&self) -> Duration {
        self.0.lock().unwrap().0
    }

    fn unix_seconds(&self) -> u64 {
        self.0.lock().unwrap().1
    }
}

fn token(byte: u8) -> Token {
    Token::from_bytes(&[byte; 32])
}

fn hash(byte: u8) -> String {
    TokenHash::new(&token(byte), &mut ChaCha20Rng::seed_from_u64(byte.into())).to_string()
}

fn fingerprint(byte: u8) -> CertificateFingerprint {
    CertificateFingerprint([byte; 32])
}

/// Two clients: `a` with tokens 1 and 2 (which expires) and a certificate, `b` with token 3.
fn text() -> String {
    format!(
        "version = 1\n\
         [[client]]\nname = \"a\"\nplans = [\"*\"]\nrequests_per_minute = 2\n\
         bytes_per_hour = 1000\nconcurrent_requests = 1\ncertificates = [\"{}\"]\n\
         [[client]]\nname = \"b\"\nplans = [\"digits\", \"{}\"]\n\
         [[token]]\nclient = \"a\"\nhash = \"{}\"\n\
         [[token]]\nclient = \"a\"\nhash = \"{}\"\nexpires = 1970-01-02\n\
         [[token]]\nclient = \"b\"\nhash = \"{}\"\nexpires = 1970-01-03T01:00:00+01:00\n",
        fingerprint(9),
        Digest([5; 32]),
        hash(1),
        hash(2),
        hash(3),
    )
}

fn with_token(byte: u8) -> Credentials {
    Credentials { token: Some(token(byte)), certificate: None }
}

fn with_certificate(byte: u8) -> Credentials {
    Credentials { token: None, certificate: Some(fingerprint(byte)) }
}

fn setup(text: &str) -> (AccessControl, Arc<Hands>) {
    let clock = Arc::new(Hands::default());
    let list = AccessList::parse(text).unwrap();
    (AccessControl::with_clock(list, Arc::clone(&clock) as Arc<dyn Clock>), clock)
}

fn code(result: Result<impl Sized, Refusal>) -> Option<RefusalCode> {
    result.err().map(|refusal| refusal.code)
}

#[test]
fn each_credential_lets_its_client_in_and_nothing_else_does() {
    let (control, _) = setup(&text());
    for (shown, name) in [
        (with_token(1), "a"),
        (with_token(2), "a"),
        (with_token(3), "b"),
        (with_certificate(9), "a"),
    ] {
        assert_eq!(control.enter(&shown).unwrap().name(), Some(name));
    }
    let both = Credentials { token: Some(token(1)), certificate: Some(fingerprint(9)) };
    assert_eq!(control.enter(&both).unwrap().name(), Some("a"));
    let of_two = Credentials { token: Some(token(3)), certificate: Some(fingerprint(9)) };
    let wrong_token = Credentials { token: Some(token(4)), certificate: Some(fingerprint(9)) };
    for shown in [
        Credentials::default(),
        with_token(0),
        with_token(4),
        with_certificate(8),
        of_two,
        wrong_token,
    ] {
        assert_eq!(control.enter(&shown).unwrap_err(), UNAUTHORIZED, "one constant answer");
    }
    assert!(AccessControl::closed().enter(&with_token(1)).is_err());
    assert_eq!(AccessControl::open().enter(&Credentials::default()).unwrap().name(), None);
}

#[test]
fn tokens_expire_to_the_second_also_while_connected() {
    let (control, clock) = setup(&text());
    let visitor = control.enter(&with_token(2)).unwrap();
    clock.advance(Duration::from_secs(86_399));
    drop(visitor.begin().unwrap());
    assert!(control.enter(&with_token(2)).is_ok());
    clock.advance(Duration::from_secs(1));
    assert_eq!(code(visitor.begin()), Some(RefusalCode::Unauthorized));
    assert!(control.enter(&with_token(2)).is_err());
    assert!(control.enter(&with_token(1)).is_ok());
    clock.advance(Duration::from_secs(86_399));
    assert!(control.enter(&with_token(3)).is_ok());
    clock.advance(Duration::from_secs(1));
    assert!(control.enter(&with_token(3)).is_err(), "an offset counts");
}

#[test]
fn a_new_list_takes_effect_at_the_next_request() {
    let (control, _) = setup(&text());
    let [one, two, certificate] = [with_token(1), with_token(2), with_certificate(9)]
        .map(|shown| control.enter(&shown).unwrap());
    let running = one.begin().unwrap();
    // Rotated: token 1 is gone, 2 stays.
    let rotated = text().replace(&hash(1), &hash(7));
    control.replace(AccessList::parse(&rotated).unwrap());
    assert_eq!(code(one.begin()), Some(RefusalCode::Unauthorized));
    assert!(!one.may_use(&Digest([0; 32]), None));
    assert!(two.may_use(&Digest([0; 32]), None));
    assert_eq!(code(two.begin()), Some(RefusalCode::RateLimited), "the place is still taken");
    drop(running);
    assert!(control.enter(&with_token(7)).is_ok() && control.enter(&with_token(1)).is_err());
    // Disabled, then removed, then moved to another client.
    let disabled = text().replacen("name = \"a\"", "name = \"a\"\nenabled = false", 1);
    control.replace(AccessList::parse(&disabled).unwrap());
    assert_eq!(code(certificate.begin()), Some(RefusalCode::Unauthorized));
    assert!(control.enter(&with_certificate(9)).is_err());
    control.replace(AccessList::default());
    assert_eq!(code(certificate.begin()), Some(RefusalCode::Unauthorized));
    control.replace(AccessList::parse(&text().replace("\"a\"", "\"c\"")).unwrap());
    assert_eq!(code(two.begin()), Some(RefusalCode::Unauthorized), "the token is another's now");
    assert_eq!(control.enter(&with_token(2)).unwrap().name(), Some("c"));
}

#[test]
fn plans_are_known_by_digest_by_name_or_all_of_them() {
    let (control, _) = setup(&text());
    let [all, some] = [1, 3].map(|byte| control.enter(&with_token(byte)).unwrap());
    assert!(all.may_use(&Digest([0; 32]), None));
    assert!(some.may_use(&Digest([5; 32]), Some("other")));
    assert!(some.may_use(&Digest([6; 32]), Some("digits")));
    assert!(!some.may_use(&Digest([6; 32]), Some("digits2")));
    assert!(!some.may_use(&Digest([6; 32]), None));
}

#[test]
fn limits_hold_and_say_when_to_come_back() {
    let (control, clock) = setup(&text());
    let visitor = control.enter(&with_token(1)).unwrap();
    let mut ticket = visitor.begin().unwrap();
    assert_eq!(code(visitor.begin()), Some(RefusalCode::RateLimited), "one at a time");
    assert_eq!(code(ticket.spend(1001)), Some(RefusalCode::TooLarge));
    ticket.spend(900).unwrap();
    let refusal = ticket.spend(101).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::RateLimited);
    assert_eq!(refusal.retry_after(), Some(Duration::from_millis(3600)));
    drop(ticket);
    let refusal = visitor.begin().unwrap_err();
    assert_eq!(refusal.code, RefusalCode::RateLimited, "refused ones count");
    assert_eq!(refusal.retry_after(), Some(Duration::from_secs(30)));
    // Another connection of the same client, and a new list, change nothing.
    control.replace(AccessList::parse(&text()).unwrap());
    assert!(control.enter(&with_certificate(9)).unwrap().begin().is_err());
    clock.advance(Duration::from_secs(30));
    let mut ticket = visitor.begin().unwrap();
    ticket.spend(100).unwrap();
    ticket.forgive();
    visitor.begin().unwrap().spend(100).unwrap();
    // The other client has limits of its own: none.
    let other = control.enter(&with_token(3)).unwrap();
    let tickets: Vec<_> = (0..50).map(|_| other.begin().unwrap()).collect();
    drop(tickets);
}

#[test]
fn each_mistake_is_named_with_its_line() {
    let token = |hash: &str, rest: &str| {
        format!(
            "version = 1\n[[client]]\nname = \"a\"\nplans = []\n[[token]]\nclient = \"a\"\nhash = \"{hash}\"\n{rest}"
        )
    };
    let client = |rest: &str| format!("version = 1\n[[client]]\n{rest}");
    let certificate = fingerprint(1);
    let cases = [
        ("version = 2".to_owned(), 1, "version 2"),
        ("version = 1\nwhat = 3".to_owned(), 2, "what"),
        ("version = 1\n[[client]\n".to_owned(), 2, ""),
        (client("name = \"a\""), 2, "plans"),
        (client("name = \"\"\nplans = []"), 3, "1 to 256 bytes"),
        (client("name = \"a\\u001b\"\nplans = []"), 3, "control"),
        (
            client("plans = []\nname = \"a\"\n[[client]]\nplans = []\nname = \"a\""),
            7,
            "two clients",
        ),
        (client("name = \"a\"\nplans = []\nrequests_per_minute = -1"), 5, "-1"),
        (client("name = \"a\"\nplans = []\nbytes_per_hour = 0"), 3, "enabled = false"),
        (client("name = \"a\"\nplans = []\ncertificates = [\"ab\"]"), 5, "SHA-256"),
        (
            client(&format!(
                "name = \"a\"\nplans = []\ncertificates = [\"{certificate}\",\n\"{certificate}\"]"
            )),
            6,
            "twice",
        ),
        (token("blake3:00:11", ""), 7, "hash"),
        (token(&hash(1), "expires = 10:00:00"), 8, "expires"),
        (token(&hash(1), "expires = 2026-01-01T00:00:00"), 8, "offset"),
        (token(&hash(1), &format!("[[token]]\nclient = \"b\"\nhash = \"{}\"", hash(2))), 9, "`b`"),
        (
            token(&hash(1), &format!("[[token]]\nclient = \"a\"\nhash = \"{}\"", hash(1))),
            10,
            "twice",
        ),
    ];
    for (text, expected, words) in cases {
        let (line, problem) = AccessList::parse(&text).unwrap_err();
        assert!(problem.to_string().contains(words), "{text}\n{problem}");
        assert_eq!(line, expected, "{text}\n{problem}");
    }
    let long = " ".repeat(MAX_ACCESS_FILE_BYTES + 1);
    assert_eq!(AccessList::parse(&long).unwrap_err().1, AccessProblem::TooLarge);
    let many: String = (0..=MAX_ACCESS_CLIENTS)
        .map(|i| format!("[[client]]\nname = \"{i}\"\nplans = []\n"))
        .collect();
    let (_, problem) = AccessList::parse(&format!("version = 1\n{many}")).unwrap_err();
    assert!(matches!(problem, AccessProblem::TooMany { .. }), "{problem}");
}

#[test]
fn a_file_is_read_again_when_it_changes_and_kept_when_it_is_broken() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.toml");
    assert!(AccessFile::open(&path).is_err());
    std::fs::write(&path, text()).unwrap();
    let (mut file, list) = AccessFile::open(&path).unwrap();
    assert_eq!(list.clients().len(), 2);
    assert!(file.refresh(Look::IfTouched).unwrap().is_none());
    assert!(file.refresh(Look::Always).unwrap().is_none());
    std::fs::write(&path, "version = 1").unwrap();
    assert_eq!(file.refresh(Look::IfTouched).unwrap().unwrap().clients().len(), 0);
    std::fs::write(&path, "version = \n oh").unwrap();
    let error = file.refresh(Look::IfTouched).unwrap_err().to_string();
    assert!(error.contains("access.toml") && error.contains("line 2"), "{error}");
    assert!(file.refresh(Look::IfTouched).unwrap().is_none(), "told once");
    std::fs::remove_file(&path).unwrap();
    assert!(file.refresh(Look::IfTouched).is_err());
    std::fs::write(&path, text()).unwrap();
    assert_eq!(file.refresh(Look::IfTouched).unwrap().unwrap().clients().len(), 2);
}

proptest! {
    /// Altered files are read or refused, and nobody enters with a token they do not hold.
    #[test]
    fn altered_files_never_panic_nor_let_strangers_in(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = text().into_bytes();
        for (index, byte) in edits {
            let length = bytes.len();
            if let Some(target) = bytes.get_mut(index.index(length)) { *target = byte; }
        }
        for bytes in [bytes.as_slice(), bytes.get(..cut.index(bytes.len())).unwrap_or_default()] {
            if let Ok(list) = AccessList::parse(&String::from_utf8_lossy(bytes)) {
                let control = AccessControl::with_clock(list, Arc::new(Hands::default()));
                prop_assert!(control.enter(&with_token(77)).is_err());
                prop_assert!(control.enter(&Credentials::default()).is_err());
            }
        }
    }
}
