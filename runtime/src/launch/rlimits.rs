//! Resource limits.

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Step;
use super::failure::{InStep, StepResult};
use super::plan::{LimitedResource, ResourceLimit};

/// `RLIM_INFINITY`.
const INFINITY: u64 = u64::MAX;

/// Sets the limits of the plan; all others stay as they were inherited.
///
/// Raising a hard limit takes CAP_SYS_RESOURCE; without it the limit becomes as high as it can.
pub(crate) fn set(limits: &[ResourceLimit]) -> StepResult<()> {
    for limit in limits {
        let resource = limit.resource.into();
        let wanted = Rlimit {
            current: finite(limit.soft),
            maximum: finite(limit.hard),
        };
        setrlimit(resource, wanted)
            .or_else(|errno| match errno {
                Errno::PERM => setrlimit(resource, clamped(limit, getrlimit(resource).maximum)),
                other => Err(other),
            })
            .step_at(Step::Rlimit, limit.resource.name())?;
    }
    Ok(())
}

fn finite(limit: u64) -> Option<u64> {
    (limit != INFINITY).then_some(limit)
}

fn clamped(limit: &ResourceLimit, highest: Option<u64>) -> Rlimit {
    let highest = highest.unwrap_or(INFINITY);
    Rlimit {
        current: finite(limit.soft.min(highest)),
        maximum: finite(limit.hard.min(highest)),
    }
}

impl LimitedResource {
    fn name(self) -> &'static str {
        match self {
            LimitedResource::AddressSpace => "RLIMIT_AS",
            LimitedResource::Core => "RLIMIT_CORE",
            LimitedResource::Cpu => "RLIMIT_CPU",
            LimitedResource::Data => "RLIMIT_DATA",
            LimitedResource::FileSize => "RLIMIT_FSIZE",
            LimitedResource::Locks => "RLIMIT_LOCKS",
            LimitedResource::Memlock => "RLIMIT_MEMLOCK",
            LimitedResource::Msgqueue => "RLIMIT_MSGQUEUE",
            LimitedResource::Nice => "RLIMIT_NICE",
            LimitedResource::OpenFiles => "RLIMIT_NOFILE",
            LimitedResource::Processes => "RLIMIT_NPROC",
            LimitedResource::Rss => "RLIMIT_RSS",
            LimitedResource::RealtimePriority => "RLIMIT_RTPRIO",
            LimitedResource::RealtimeTime => "RLIMIT_RTTIME",
            LimitedResource::PendingSignals => "RLIMIT_SIGPENDING",
            LimitedResource::Stack => "RLIMIT_STACK",
        }
    }
}

impl From<LimitedResource> for Resource {
    fn from(resource: LimitedResource) -> Resource {
        match resource {
            LimitedResource::AddressSpace => Resource::As,
            LimitedResource::Core => Resource::Core,
            LimitedResource::Cpu => Resource::Cpu,
            LimitedResource::Data => Resource::Data,
            LimitedResource::FileSize => Resource::Fsize,
            LimitedResource::Locks => Resource::Locks,
            LimitedResource::Memlock => Resource::Memlock,
            LimitedResource::Msgqueue => Resource::Msgqueue,
            LimitedResource::Nice => Resource::Nice,
            LimitedResource::OpenFiles => Resource::Nofile,
            LimitedResource::Processes => Resource::Nproc,
            LimitedResource::Rss => Resource::Rss,
            LimitedResource::RealtimePriority => Resource::Rtprio,
            LimitedResource::RealtimeTime => Resource::Rttime,
            LimitedResource::PendingSignals => Resource::Sigpending,
            LimitedResource::Stack => Resource::Stack,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_may_not_be_raised_is_as_high_as_can_be() {
        let limit = ResourceLimit {
            resource: LimitedResource::OpenFiles,
            soft: 100,
            hard: INFINITY,
        };
        let clamped = clamped(&limit, Some(50));
        assert_eq!((clamped.current, clamped.maximum), (Some(50), Some(50)));
    }
}
