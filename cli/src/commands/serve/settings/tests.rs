use super::*;

fn read(text: &str) -> Result<Settings, (usize, String)> {
    let mut settings = Settings::default();
    settings.read(text, Path::new("")).map(|()| settings)
}

#[test]
fn what_is_printed_parses_to_the_defaults() {
    let text = Settings::default().print();
    assert_eq!(read(&text), Ok(Settings::default()), "{text}");
    for option in OPTIONS {
        assert!(text.contains(&format!("\n{} = ", option.key)), "{} is missing", option.name());
        assert!(SECTIONS.iter().any(|(section, _)| *section == option.section));
    }
    assert!(text.lines().all(|line| line.chars().count() <= 110), "lines stay readable\n{text}");
}

#[test]
fn whatever_is_set_is_printed_and_read_back() {
    let changed = "[server]\nlisten = \"[::1]:1\"\nplans = \"a b\\\"c\"\nowners = [\"x\", \"y\"]\n\
                   [access]\nopen = true\naudit = \"log\"\nclient_certificates = \"required\"\n\
                   [admin]\nlisten = \"127.0.0.1:9\"\n[limits]\nmemory = 5000000001\n\
                   evaluations = 3\n[timeouts]\ndrain = \"1500ms\"\nmin_upload = \"3KiB\"\n\
                   [log]\nformat = \"json\"\nlevel = \"debug\"\n";
    let settings = read(changed).expect("a configuration");
    assert_ne!(settings, Settings::default());
    assert_eq!(settings.timeouts.drain, Duration::from_millis(1500));
    assert_eq!(settings.limits.max_memory_bytes, 5_000_000_001);
    assert_eq!(read(&settings.print()), Ok(settings));
}

#[test]
fn mistakes_are_told_with_line_key_and_what_is_allowed() {
    let cases = [
        ("[server]\nlisten = 7443\n", 2, &["server.listen = 7443", "0.0.0.0:7443"][..]),
        ("[limits]\n\nmemory = \"4GB\"\n", 3, &["limits.memory = \"4GB\"", "64TiB"]),
        ("[limits]\nevaluations = 0\n", 2, &["limits.evaluations = 0", "from 1 to 128"]),
        ("[timeouts]\nidle = 120\n", 2, &["timeouts.idle = 120", "\"24h\""]),
        ("[log]\nformat = \"xml\"\n", 2, &["\"text\" or \"json\""]),
        ("[access]\nopen = \"yes\"\n", 2, &["true or false"]),
        ("[access]\nopne = true\n", 2, &["[access] has no key `opne`", "open"]),
        ("\n[acess]\nopen = true\n", 2, &["no section [acess]", "[access]"]),
        ("[server]\nplans = \"\"\n", 2, &["server.plans = \"\"", "a path"]),
        ("[server]\nlisten = \"localhost:1\n", 2, &[]),
        ("listen = 1\n", 1, &[]),
        ("[server]\nowners = [1]\n", 2, &["a list of paths"]),
    ];
    for (text, line, words) in cases {
        let (found, message) = read(text).expect_err(text);
        assert_eq!(found, line, "{text}: {message}");
        for word in words {
            assert!(message.contains(word), "{text}: {message}");
        }
    }
}

#[test]
fn paths_are_relative_to_the_file() {
    let mut settings = Settings::default();
    let text = "[server]\nplans = \"p\"\ntls = \"/t\"\n[access]\nfile = \"a\"\n";
    settings.read(text, Path::new("/etc/securedl")).expect("a configuration");
    assert_eq!(settings.plans, Path::new("/etc/securedl/p"));
    assert_eq!(settings.tls, Path::new("/t"));
    assert_eq!(settings.access.as_deref(), Some(Path::new("/etc/securedl/a")));
}

#[test]
fn assignments_take_numbers_and_bare_words() {
    let mut settings = Settings::default();
    for assignment in ["limits.memory=6GiB", "limits.connections=9", "timeouts.drain = 2s"] {
        settings.assign(assignment).expect(assignment);
    }
    assert_eq!(settings.limits.max_memory_bytes, 6 << 30);
    assert_eq!(settings.limits.max_connections, 9);
    assert_eq!(settings.timeouts.drain, Duration::from_secs(2));
    for wrong in ["limits.memory", "limits.none=1", "limits.memory=lots", "x=1\ny=2"] {
        assert!(settings.assign(wrong).is_err(), "{wrong}");
    }
}
