//! Which of several builds of an image fits this machine.

use std::fmt;

/// Operating system, architecture and its variant, in the vocabulary of OCI (Go's `GOOS`,
/// `GOARCH`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Deserialize, serde::Serialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, ...
    pub architecture: String,
    /// `v7` of arm, `v8` of arm64, `v2` to `v4` of amd64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// The machine this runs on.
    #[must_use]
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Self {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: host_variant(),
        }
    }

    /// How well an offer runs here; higher is better, `None` is not at all.
    ///
    /// A machine runs every level of its architecture up to its own; an offer that names no
    /// level means the lowest (arm64: v8).
    #[must_use]
    pub fn rank(&self, offer: &Self) -> Option<u32> {
        if offer.os != self.os || offer.architecture != self.architecture {
            return None;
        }
        let (own, offered) = (self.level(), offer.level()?);
        (offered <= own.unwrap_or(offered)).then_some(offered)
    }

    /// The number of the variant; `None` when it is no level at all.
    fn level(&self) -> Option<u32> {
        let lowest = match self.architecture.as_str() {
            "arm64" => 8,
            "arm" => 5,
            _ => 1,
        };
        match self.variant.as_deref() {
            None | Some("") => Some(lowest),
            Some(variant) => variant.strip_prefix('v')?.split('.').next()?.parse().ok(),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) if !variant.is_empty() => write!(f, "/{variant}"),
            _ => Ok(()),
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn host_variant() -> Option<String> {
    use std::is_x86_feature_detected as has;
    let v2 = has!("sse3") && has!("ssse3") && has!("sse4.1") && has!("sse4.2") && has!("popcnt");
    let v3 = v2 && has!("avx") && has!("avx2") && has!("bmi1") && has!("bmi2") && has!("fma");
    let v4 =
        v3 && has!("avx512f") && has!("avx512bw") && has!("avx512cd") && has!("avx512dq") && has!("avx512vl");
    let level = 1 + u8::from(v2) + u8::from(v3) + u8::from(v4);
    Some(format!("v{level}"))
}

#[cfg(not(target_arch = "x86_64"))]
fn host_variant() -> Option<String> {
    (std::env::consts::ARCH == "aarch64").then(|| "v8".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(String::from);
        Platform {
            os: parts.next().unwrap(),
            architecture: parts.next().unwrap(),
            variant: parts.next(),
        }
    }

    #[test]
    fn runs_lower_levels_and_prefers_the_highest_of_them() {
        let host = platform("linux/amd64/v3");
        let rank = |offer| host.rank(&platform(offer));
        assert_eq!(rank("linux/amd64/v4"), None);
        assert!(rank("linux/amd64/v3") > rank("linux/amd64/v2"));
        assert!(rank("linux/amd64/v2") > rank("linux/amd64"));
        assert_eq!(rank("linux/arm64"), None);
        assert_eq!(rank("windows/amd64"), None);
        assert_eq!(rank("unknown/unknown"), None);
    }

    #[test]
    fn arm_variants() {
        assert!(
            platform("linux/arm64/v8")
                .rank(&platform("linux/arm64"))
                .is_some()
        );
        assert!(
            platform("linux/arm64")
                .rank(&platform("linux/arm64/v8"))
                .is_some()
        );
        let v7 = platform("linux/arm/v7");
        assert!(v7.rank(&platform("linux/arm/v6")) < v7.rank(&platform("linux/arm/v7")));
    }

    #[test]
    fn this_machine_runs_its_own_images() {
        let host = Platform::host();
        assert!(host.rank(&host).is_some());
        assert!(
            host.rank(&Platform {
                variant: None,
                ..host.clone()
            })
            .is_some()
        );
    }
}
