//! Hooks: what runs when, and who is told what.

use oci_spec::runtime::{Hook, Spec};

use super::context::HookContext;
use super::{PlanError, host_path, invalid, missing, process_string};
use crate::launch::hooks::DEFAULT_TIMEOUT;
use crate::launch::plan::{self, HooksPlan};
use crate::launch::values::ProcessString;

/// Hooks that the launch runs itself. `poststart` and `poststop` are the business of whoever reports the start and the
/// end; the deprecated `prestart` runs first among `createRuntime`, where the specification puts it.
pub(super) fn convert(spec: &Spec, context: &Option<HookContext>) -> Result<Option<HooksPlan>, PlanError> {
    let Some(hooks) = spec.hooks() else {
        return Ok(None);
    };
    #[allow(deprecated)] // what older specifications have is still carried out
    let prestart = list("hooks.prestart", hooks.prestart().as_deref())?;
    let mut create_runtime = prestart;
    create_runtime.extend(list("hooks.createRuntime", hooks.create_runtime().as_deref())?);
    let create_container = list("hooks.createContainer", hooks.create_container().as_deref())?;
    let start_container = list("hooks.startContainer", hooks.start_container().as_deref())?;
    if create_runtime.is_empty() && create_container.is_empty() && start_container.is_empty() {
        return Ok(None);
    }
    let context = context.as_ref().ok_or_else(|| missing("bundle of the hooks"))?;
    let annotations = spec.annotations().iter().flatten();
    Ok(Some(HooksPlan {
        bundle: host_path("bundle of the hooks", &context.bundle)?,
        id: context.id.clone(),
        annotations: annotations
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
        create_runtime,
        create_container,
        start_container,
    }))
}

fn list(field: &str, hooks: Option<&[Hook]>) -> Result<Vec<plan::Hook>, PlanError> {
    let hooks = hooks.unwrap_or_default().iter().enumerate();
    hooks
        .map(|(index, hook)| convert_one(&format!("{field}[{index}]"), hook))
        .collect()
}

fn convert_one(field: &str, hook: &Hook) -> Result<plan::Hook, PlanError> {
    let strings = |name: &str, list: &Option<Vec<String>>| -> Result<Vec<ProcessString>, PlanError> {
        let field = format!("{field}.{name}");
        let each = list.iter().flatten();
        each.map(|text| process_string(&field, text.as_bytes())).collect()
    };
    let path = host_path(&format!("{field}.path"), hook.path())?;
    let timeout = match hook.timeout() {
        None => DEFAULT_TIMEOUT,
        Some(seconds) => u32::try_from(seconds)
            .ok()
            .filter(|seconds| *seconds > 0)
            .ok_or_else(|| invalid(&format!("{field}.timeout"), &seconds, "is no number of seconds"))?,
    };
    Ok(plan::Hook {
        path,
        args: strings("args", hook.args())?,
        env: strings("env", hook.env())?,
        timeout_seconds: timeout,
    })
}
