//! CRI's signal names, which it numbers by the alphabet, and Linux's numbers (signal(7)).

use cri_api::v1::Signal;

/// Linux's number for each of CRI's first 34 values, in CRI's order (`SIGABRT`, `SIGALRM`, …, `SIGXFSZ`).
const CLASSIC: [u8; 34] = [
    6, 14, 7, 17, 17, 18, 8, 1, 4, 2, 29, 6, 9, 13, 29, 27, 30, 3, 11, 16, 19, 31, 15, 5, 20, 21, 22, 23, 10,
    12, 26, 28, 24, 25,
];
/// CRI's value for SIGRTMIN, and glibc's number for it.
const RTMIN: (i32, u8) = (Signal::Sigrtmin as i32, 34);

/// The number of a signal; `None` where the runtime is to decide.
pub(super) fn number(signal: Signal) -> Option<u8> {
    let value = signal as i32;
    match usize::try_from(value - 1) {
        Err(_) => None,
        Ok(index) if index < CLASSIC.len() => Some(CLASSIC[index]),
        Ok(_) => u8::try_from(value - RTMIN.0).ok().map(|above| RTMIN.1 + above),
    }
}

/// CRI's value for a number; the first of two names that share one.
pub(super) fn from_number(number: u8) -> Signal {
    (1..=Signal::Sigrtmax as i32)
        .filter_map(|value| Signal::try_from(value).ok())
        .find(|signal| self::number(*signal) == Some(number))
        .unwrap_or(Signal::RuntimeDefault)
}

/// An image's `STOPSIGNAL`: a number or a name with or without `SIG`.
pub fn parse(text: &str) -> Option<u8> {
    if let Ok(number) = text.parse::<u8>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let bare = upper
        .strip_prefix("SIG")
        .unwrap_or(&upper)
        .replace('+', "PLUS")
        .replace('-', "MINUS");
    Signal::from_str_name(&format!("SIGNAL_SIG{bare}")).and_then(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_numbers_and_values_agree() {
        for (name, number) in [
            ("SIGTERM", 15),
            ("quit", 3),
            ("SIGKILL", 9),
            ("SIGWINCH", 28),
            ("RTMIN+3", 37),
            ("SIGRTMAX-1", 63),
            ("37", 37),
        ] {
            assert_eq!(parse(name), Some(number), "{name}");
            assert_eq!(self::number(from_number(number)), Some(number), "{name}");
        }
        for name in ["SIGNOPE", "0", "65", "", "SIGRTMAX+1"] {
            assert_eq!(parse(name), None, "{name:?}");
        }
        assert_eq!(number(Signal::RuntimeDefault), None);
        assert_eq!(number(Signal::Sigrtmax), Some(64));
        assert_eq!(number(Signal::Sigxfsz), Some(25));
    }
}
