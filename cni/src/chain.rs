//! A chain of plugins: the commands of the spec as walks over a list (CNI spec 1.1.0, sections 3 and 4).
//!
//! ```text
//!   ADD    first ──result──► second ──result──► third ──► the attachment's result
//!   CHECK  first, second, third: each is given that result
//!   DEL    third, second, first: each is given that result, and a failure stops nobody
//! ```

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::conf::{NetworkList, Plugin, SpecVersion};
use crate::error::Error;
use crate::names::PodId;
use crate::plugin::{Command, Execution, PluginDirectories, Variables};
use crate::request::Settings;
use crate::result::{NetworkResult, in_version};

/// A network's plugins, ready to be run for one attachment or for none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chain<'a> {
    pub(crate) list: &'a NetworkList,
    pub(crate) directories: &'a PluginDirectories,
    /// For the whole chain.
    pub(crate) timeout: Duration,
}

impl Chain<'_> {
    /// Attaches. On failure the caller owes a [`Chain::del`].
    pub(crate) fn add(&self, variables: &Variables, settings: &Settings) -> Result<Value, Error> {
        let deadline = Instant::now() + self.timeout;
        let mut previous: Option<Value> = None;
        for plugin in self.list.plugins() {
            let conf = self.configuration(plugin, settings, previous.as_ref());
            let answer = self
                .execution(plugin, Command::Add, Some(variables), deadline)
                .run(&conf)?;
            let Some(answer) = answer else { continue };
            NetworkResult::parse(&answer).map_err(|problem| Error::PluginResult {
                plugin: plugin.kind().into(),
                command: Command::Add,
                problem,
            })?;
            previous = Some(in_version(answer, self.list.version()));
        }
        // A list is never empty, so there was an answer.
        Ok(previous.unwrap_or(Value::Null))
    }

    /// Detaches: every plugin is asked, whatever the others say; all failures are returned.
    pub(crate) fn del(
        &self,
        variables: &Variables,
        settings: &Settings,
        result: Option<&Value>,
    ) -> Vec<Error> {
        let deadline = Instant::now() + self.timeout;
        // Before 0.4.0 DEL was given no result.
        let previous = result.filter(|_| self.list.version() >= SpecVersion::V0_4_0);
        let undo = |plugin| {
            let conf = self.configuration(plugin, settings, previous);
            self.execution(plugin, Command::Del, Some(variables), deadline)
                .run(&conf)
                .err()
        };
        self.list.plugins().iter().rev().filter_map(undo).collect()
    }

    /// Compares with what ADD made; a network that cannot be checked is fine.
    pub(crate) fn check(
        &self,
        variables: &Variables,
        settings: &Settings,
        result: &Value,
    ) -> Result<(), Error> {
        if !self.list.can_check() {
            return Ok(());
        }
        let deadline = Instant::now() + self.timeout;
        for plugin in self.list.plugins() {
            let conf = self.configuration(plugin, settings, Some(result));
            self.execution(plugin, Command::Check, Some(variables), deadline)
                .run(&conf)?;
        }
        Ok(())
    }

    /// Has the plugins collect all that belongs to none of these attachments.
    pub(crate) fn gc(&self, valid: &[(PodId, String)]) -> Vec<Error> {
        if !self.list.can_collect() {
            return Vec::new();
        }
        let deadline = Instant::now() + self.timeout;
        let valid: Vec<Value> = valid
            .iter()
            .map(|(pod, if_name)| json!({"containerID": pod.as_str(), "ifname": if_name}))
            .collect();
        let collect = |plugin: &Plugin| {
            let mut conf = self.configuration(plugin, &Settings::default(), None);
            conf["cni.dev/valid-attachments"] = Value::Array(valid.clone());
            self.execution(plugin, Command::Gc, None, deadline)
                .run(&conf)
                .err()
        };
        self.list.plugins().iter().filter_map(collect).collect()
    }

    /// Can the network serve? Every binary must be there; since 1.1.0 the plugins are asked.
    pub(crate) fn status(&self) -> Result<(), Error> {
        for plugin in self.list.plugins() {
            self.directories.find(plugin.kind())?;
        }
        if self.list.version() < SpecVersion::V1_1_0 {
            return Ok(());
        }
        let deadline = Instant::now() + self.timeout;
        for plugin in self.list.plugins() {
            let conf = self.configuration(plugin, &Settings::default(), None);
            self.execution(plugin, Command::Status, None, deadline)
                .run(&conf)?;
        }
        Ok(())
    }

    fn execution<'b>(
        &'b self,
        plugin: &'b Plugin,
        command: Command,
        variables: Option<&'b Variables>,
        deadline: Instant,
    ) -> Execution<'b> {
        Execution {
            directories: self.directories,
            kind: plugin.kind(),
            command,
            variables,
            deadline,
        }
    }

    /// What the plugin reads on its stdin (section 3, "Deriving execution configuration from plugin configuration").
    fn configuration(&self, plugin: &Plugin, settings: &Settings, previous: Option<&Value>) -> Value {
        let mut conf = plugin.conf().clone();
        conf.insert("name".into(), self.list.name().into());
        conf.insert("cniVersion".into(), self.list.version().as_str().into());
        let wanted = wanted_settings(plugin, settings);
        if !wanted.is_empty() {
            conf.insert("runtimeConfig".into(), Value::Object(wanted));
        }
        if let Some(previous) = previous {
            conf.insert("prevResult".into(), previous.clone());
        }
        Value::Object(conf)
    }
}

/// The settings whose capability the plugin declares.
fn wanted_settings(plugin: &Plugin, settings: &Settings) -> Map<String, Value> {
    match serde_json::to_value(settings) {
        Ok(Value::Object(all)) => all
            .into_iter()
            .filter(|(capability, _)| plugin.wants(capability))
            .collect(),
        _ => Map::new(),
    }
}

/// `CNI_ARGS` as Kubernetes' plugins expect it. The values were checked for `;` and `=`.
pub(crate) fn kubernetes_arguments(namespace: &str, name: &str, pod: &PodId, uid: &str) -> String {
    format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_INFRA_CONTAINER_ID={pod};K8S_POD_UID={uid}"
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::request::{Bandwidth, PortMapping, Protocol};

    #[test]
    fn a_plugin_gets_only_the_settings_it_declares() {
        let list = NetworkList::parse(
            Path::new("x"),
            json!({"cniVersion": "1.0.0", "name": "net", "plugins": [
                {"type": "bridge", "bridge": "b0"},
                {"type": "portmap", "capabilities": {"portMappings": true}, "name": "overridden"}
            ]}),
        )
        .expect("valid");
        let directories = PluginDirectories(Vec::new());
        let chain = Chain {
            list: &list,
            directories: &directories,
            timeout: Duration::from_secs(1),
        };
        let settings = Settings {
            port_mappings: vec![PortMapping {
                host_port: 8080,
                container_port: 80,
                protocol: Protocol::Tcp,
                host_ip: None,
            }],
            bandwidth: Some(Bandwidth::default()),
            ..Settings::default()
        };
        let first = chain.configuration(&list.plugins()[0], &settings, None);
        assert_eq!(
            first,
            json!({"type": "bridge", "bridge": "b0", "name": "net", "cniVersion": "1.0.0"})
        );
        let second = chain.configuration(&list.plugins()[1], &settings, Some(&json!({"ips": []})));
        assert_eq!(second["name"], "net");
        assert_eq!(second["prevResult"], json!({"ips": []}));
        assert_eq!(
            second["runtimeConfig"],
            json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]})
        );
    }
}
