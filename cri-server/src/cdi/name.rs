//! Qualified names of devices: `vendor.com/class=device` (CDI specification, "Kind" and "Device names").

use std::fmt;

/// The kind of a device (`vendor.com/class`) and its name within the kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct QualifiedName {
    pub(super) kind: String,
    pub(super) device: String,
}

impl QualifiedName {
    /// Parses one; the error says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let refuse = |problem: &str| Err(format!("{text:?} {problem}; write vendor.com/class=device"));
        let Some((kind, device)) = text.split_once('=') else {
            return refuse("has no \"=\"");
        };
        if let Err(problem) = check_kind(kind) {
            return refuse(problem);
        }
        if !is_name(device, "_-.:", char::is_alphanumeric) {
            return refuse("names a device with a character that no device has");
        }
        Ok(Self {
            kind: kind.to_owned(),
            device: device.to_owned(),
        })
    }
}

impl fmt::Display for QualifiedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.kind, self.device)
    }
}

/// `vendor/class`, each of letters, digits and a few signs, beginning with a letter and ending with none of the signs.
pub(super) fn check_kind(kind: &str) -> Result<(), &'static str> {
    let Some((vendor, class)) = kind.split_once('/') else {
        return Err("has no \"/\" between vendor and class");
    };
    if !is_name(vendor, "_-.", char::is_alphabetic) {
        return Err("has a vendor that is none");
    }
    match is_name(class, "_-", char::is_alphabetic) {
        true => Ok(()),
        false => Err("has a class that is none"),
    }
}

fn is_name(text: &str, signs: &str, begins: fn(char) -> bool) -> bool {
    text.is_ascii()
        && text.len() <= 255
        && text.starts_with(begins)
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || signs.contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_part_by_part() {
        for good in ["nvidia.com/gpu=0", "v/c=all", "vendor-1.com/class_x=GPU-1:2.3"] {
            assert_eq!(QualifiedName::parse(good).unwrap().to_string(), good);
        }
        for bad in [
            "",
            "gpu0",
            "nvidia.com=0",
            "nvidia.com/gpu=",
            "/gpu=0",
            "1vendor/gpu=0",
            "vendor./gpu=0",
            "vendor/gpu.x=0",
            "vendor/gpu=../../etc",
            "vendor/gpu=a b",
            "vendor/gpu=-0",
            "vendör/gpu=0",
        ] {
            assert!(QualifiedName::parse(bad).is_err(), "{bad:?}");
        }
    }
}
