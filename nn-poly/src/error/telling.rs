//! Errors in words: an error and its causes, each told once.

use std::error::Error;

/// The messages of the errors below `error` that add something to the one above.
#[must_use]
pub fn causes(error: &(dyn Error + 'static)) -> Vec<String> {
    let mut told = error.to_string();
    let mut found = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !told.contains(&text) {
            found.push(text.clone());
            told = text;
        }
        next = cause.source();
    }
    found
}

/// A message without characters that control a terminal: it may quote files and other machines.
#[must_use]
pub fn harmless(text: &str) -> String {
    let shown = |c: char| match c {
        '\n' | '\t' => c,
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    #[derive(Debug)]
    struct Told(&'static str, Option<Box<Told>>);

    impl fmt::Display for Told {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Told {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|source| source as _)
        }
    }

    #[test]
    fn causes_are_told_once() {
        let inner = Told("disk on fire", Some(Box::new(Told("a spark", None))));
        let outer = Told(
            "the run failed",
            Some(Box::new(Told("cannot write: disk on fire", Some(Box::new(inner))))),
        );
        assert_eq!(causes(&outer), ["cannot write: disk on fire", "a spark"]);
    }

    #[test]
    fn nothing_that_is_told_controls_a_terminal() {
        assert_eq!(harmless("a\u{1b}[31mb\n\tc\u{7}"), "a\u{fffd}[31mb\n\tc\u{fffd}");
    }
}
