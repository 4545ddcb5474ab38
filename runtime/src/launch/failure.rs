//! From a kernel error to the step that it broke.

use std::fmt::Display;

use rustix::io::Errno;

use super::{SetupFailure, Step};

/// The result of a step.
pub(crate) type StepResult<T> = Result<T, SetupFailure>;

/// Names the step, and what it was working on, when a system call fails.
pub(crate) trait InStep<T> {
    fn step(self, step: Step) -> StepResult<T>;
    fn step_at(self, step: Step, path: impl Display) -> StepResult<T>;
}

impl<T> InStep<T> for rustix::io::Result<T> {
    fn step(self, step: Step) -> StepResult<T> {
        self.map_err(|errno| failure(step, None, errno))
    }

    fn step_at(self, step: Step, path: impl Display) -> StepResult<T> {
        self.map_err(|errno| failure(step, Some(path.to_string()), errno))
    }
}

/// A failure that is known without a system call.
pub(crate) fn failure(step: Step, path: Option<String>, errno: Errno) -> SetupFailure {
    SetupFailure {
        step,
        path,
        errno: errno.raw_os_error(),
    }
}
