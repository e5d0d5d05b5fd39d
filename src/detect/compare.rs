//! Objects of Kubernetes compared with each other, when a symptom asks: a pod that no node takes, a claim without a
//! volume, a probe that fails, a service that leads nowhere.
//!
//! Invariants:
//! - Nothing is compared unasked: an odd object that hurts nobody is no fact.
//! - The answer is the one field that would have to be edited. Where more than one could be it, there is none.

use serde_json::Value as Json;

use super::Detector;
use super::bounded::{Bounded, Throttle};
use super::claims;
use super::fact::{Fact, FactKind, KeyKind, Subject};
use super::objects::quota;
use super::seen::{Seen, object, with_text};
use super::specs::{Spec, Specs, is_within, pairs};
use super::text::{self, canonical, slot_address};
use crate::event::{Kind, fields};

/// Answers remembered, at most; each is told again after this time.
const TOLD_MAX: usize = 2048;
const AGAIN_NS: u64 = 600_000_000_000;

/// Services without endpoints that are looked at again when objects change, at most.
const EMPTY_MAX: usize = 256;

/// Taints of nodes remembered, at most.
const TAINTS_MAX: usize = 2048;

/// How the taints begin that the cluster puts on nodes for their state.
const STATE_TAINT: &str = "node.kubernetes.io/";

const ECONNREFUSED: u64 = 111;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Compare {
    specs: Specs,
    empty: Bounded<String, ()>,
    told: Throttle<(String, FactKind)>,
    /// The taints that nodes have: node, and taint with its effect.
    taints: Bounded<(String, String), ()>,
}

impl Default for Compare {
    fn default() -> Self {
        Self {
            specs: Specs::default(),
            empty: Bounded::new(EMPTY_MAX),
            told: Throttle::new(TOLD_MAX, AGAIN_NS),
            taints: Bounded::new(TAINTS_MAX),
        }
    }
}

impl Detector for Compare {
    fn event(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        self.specs.learn(seen);
        match seen.kind() {
            Kind::ObjectEvent => match &*seen.field(fields::REASON) {
                "FailedScheduling" => out.extend(self.unschedulable(seen)),
                "Unhealthy" => out.extend(self.unhealthy(seen)),
                "FailedCreate" => {
                    out.extend(self.no_account(seen));
                    out.extend(self.quota(seen));
                }
                _ => {}
            },
            Kind::EndpointsReady => {
                let service = seen.field(fields::OBJECT).into_owned();
                if seen.number("ready") > 0 {
                    self.empty.remove(&service);
                } else {
                    self.empty.insert(service, ());
                }
                self.empty_services(seen, out);
            }
            Kind::ObjectChange => {
                out.extend(self.scheduler(seen));
                self.empty_services(seen, out);
            }
            Kind::ContainerState => {
                out.extend(self.not_permitted(seen));
                out.extend(self.proxy(seen));
            }
            Kind::NodeCondition => self.tainted(seen),
            Kind::TcpConnect if seen.number("result_errno") == ECONNREFUSED => out.extend(self.refused(seen)),
            _ => {}
        }
    }

    fn evicted(&self) -> u64 {
        self.specs.evicted() + self.empty.evicted() + self.told.evicted() + self.taints.evicted()
    }
}

/// `namespace/name` of the pod that an event is about.
fn pod_of(seen: &Seen<'_>) -> String {
    format!("{}/{}", seen.field(fields::NAMESPACE), seen.field(fields::POD))
}

impl Compare {
    /// An answer about an object, unless it was given before.
    fn fact(&mut self, seen: &Seen<'_>, kind: FactKind, about: &str, said: &str) -> Option<Fact> {
        self.told.pass((about.to_owned(), kind), seen.time_ns())?;
        let fact = seen.fact_about(kind, object(about)).key(KeyKind::Object, about);
        let is_workload = !about.starts_with("Service/") && !about.starts_with("Pod/");
        let fact = if !is_workload { fact } else { fact.key(KeyKind::Owner, about) };
        Some(with_text(fact, "text", said))
    }

    /// Why no node takes a pod, where one reason is left that its owner can change.
    fn unschedulable(&mut self, seen: &Seen<'_>) -> Option<Fact> {
        let message = seen.field(fields::MESSAGE);
        let reason = scheduling_reason(&message)?;
        let pod = pod_of(seen);
        let owner = self.specs.owner(&pod).map(str::to_owned);
        let spec = owner.as_deref().and_then(|owner| self.specs.get(owner));
        // Since Kubernetes 1.34 the scheduler does not say which taint it is.
        let unnamed = reason.contains("untolerated taint") && !reason.contains('{');
        if unnamed && !self.has_taints_of_people() {
            return None;
        }
        let (kind, said) = match scheduling_cause(reason) {
            Some(kind) => (kind, message.to_string()),
            None if reason.contains("node affinity/selector") => {
                (affinity_or_selector(spec?)?, message.to_string())
            }
            None if reason.contains("unbound immediate PersistentVolumeClaims") => {
                let namespace = seen.field(fields::NAMESPACE);
                claims_of(spec?).find_map(|claim| claims::fault(&self.specs, &namespace, claim))?
            }
            None => return None,
        };
        let about = owner.unwrap_or_else(|| format!("Pod/{pod}"));
        let fact = self.fact(seen, kind, &about, &said)?;
        // Other pods have to make room for this one, not for its workload.
        Some(if about.starts_with("Pod/") { Fact { subject: seen.subject(), ..fact } } else { fact })
    }

    /// Learns what taints nodes have.
    fn tainted(&mut self, seen: &Seen<'_>) {
        if seen.field(fields::CONDITION) != "Taint" {
            return;
        }
        let taint = (seen.field(fields::NODE).into_owned(), seen.field(fields::REASON).into_owned());
        if seen.field(fields::STATUS) == "True" {
            self.taints.insert(taint, ());
        } else {
            self.taints.remove(&taint);
        }
    }

    /// Whether every taint that is known was put there by somebody, and none by the cluster for the state of a node.
    fn has_taints_of_people(&self) -> bool {
        let mut all = self.taints.iter().peekable();
        all.peek().is_some() && all.all(|((_, taint), ())| !taint.starts_with(STATE_TAINT))
    }

    /// A workload whose pods cannot be made since it names a service account that is not there.
    fn no_account(&mut self, seen: &Seen<'_>) -> Option<Fact> {
        let message = seen.field(fields::MESSAGE);
        let name =
            text::until(&message, "serviceaccount \"", &['"']).filter(|_| message.contains("not found"))?;
        let object = seen.field(fields::OBJECT).into_owned();
        let about = self.specs.owner(&object).map_or(object.clone(), str::to_owned);
        let said = format!("there is no service account {}/{name}", seen.field(fields::NAMESPACE));
        self.fact(seen, FactKind::MissingServiceAccount, &about, &said)
    }

    /// A namespace whose quota leaves no room for what a workload wants.
    fn quota(&mut self, seen: &Seen<'_>) -> Option<Fact> {
        let message = seen.field(fields::MESSAGE);
        let kind = quota(&message).filter(|meaning| meaning.word == "quota")?.kind;
        let object = seen.field(fields::OBJECT).into_owned();
        let about = self.specs.owner(&object).map_or(object.clone(), str::to_owned);
        let fact = self.fact(seen, kind, &about, &message)?;
        Some(Fact { subject: Subject::new("namespace", &*seen.field(fields::NAMESPACE)), ..fact })
    }

    /// A probe that asks where its container does not serve, or in another protocol.
    fn unhealthy(&mut self, seen: &Seen<'_>) -> Option<Fact> {
        use FactKind as F;
        let message = seen.field(fields::MESSAGE);
        let (probe, port, protocol) = match message.get(..4)? {
            "Live" => ("livenessProbe", F::LivenessProbeIncorrectPort, F::LivenessProbeIncorrectProtocol),
            "Read" => ("readinessProbe", F::ReadinessProbeIncorrectPort, F::ReadinessProbeIncorrectProtocol),
            _ => return None,
        };
        let owner = self.specs.owner(&pod_of(seen))?.to_owned();
        let spec = self.specs.get(&owner)?;
        let name = seen.field(fields::CONTAINER);
        let container = spec
            .containers()
            .find(|container| container.get("name").and_then(Json::as_str) == Some(&*name))
            .or_else(|| spec.containers().next().filter(|_| spec.containers().count() == 1))?;
        let asked = probe_port(container, container.get(probe)?)?;
        let served = ports(container, "TCP");
        let is_served = served.contains(&asked);
        let has = |words: &[&str]| words.iter().any(|words| message.contains(words));
        let said = format!("{probe} asks port {asked}; {} serves {served:?}", name);
        let foreign =
            ["malformed HTTP", "HTTP response to HTTPS client", "server preface", "tls: first record"];
        if has(&["connection refused"]) && !served.is_empty() && !is_served {
            return self.fact(seen, port, &owner, &said);
        }
        if has(&foreign) && (is_served || served.is_empty()) {
            return self.fact(seen, protocol, &owner, &format!("{said}: {message}"));
        }
        None
    }

    /// Services without endpoints whose selector is next to one that would have some.
    fn empty_services(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        let empty: Vec<String> = self.empty.iter().map(|(service, ())| service.clone()).collect();
        for service in empty {
            if let Some(said) = self.selector_fault(&service) {
                out.extend(self.about_service(seen, FactKind::ServiceSelectorMismatch, &service, &said));
            }
        }
    }

    fn selector_fault(&self, service: &str) -> Option<String> {
        let selector = pairs(self.specs.get(service)?.get("spec.selector"));
        let namespace = service.split('/').nth(1)?;
        let workloads = self.specs.workloads(namespace);
        if selector.is_empty() || workloads.iter().any(|(_, spec)| is_within(&selector, &spec.labels())) {
            return None;
        }
        let near = |labels: &std::collections::BTreeMap<&str, &str>| {
            selector.keys().any(|key| labels.contains_key(key))
        };
        let (meant, spec) = workloads.into_iter().find(|(_, spec)| spec.ready > 0 && near(&spec.labels()))?;
        Some(format!("selects {selector:?}; the pods of {meant} have {:?}", spec.labels()))
    }

    /// An answer about a service that another object's event brought.
    fn about_service(&mut self, seen: &Seen<'_>, kind: FactKind, service: &str, said: &str) -> Option<Fact> {
        self.told.pass((service.to_owned(), kind), seen.time_ns())?;
        let fact = seen.bare(kind, object(service)).key(KeyKind::Object, service);
        Some(with_text(fact, "text", said))
    }

    /// A connection to a service that was refused: the port that it leads to is not one of its pods'.
    fn refused(&mut self, seen: &Seen<'_>) -> Option<Fact> {
        let address = canonical(slot_address(seen.event.slot("destination_address")?)?);
        let port = seen.number("destination_port");
        let (service, spec) = self.specs.service_at(&address)?;
        let service = service.to_owned();
        let at = |entry: &&Json| entry.get("port").and_then(Json::as_u64) == Some(port);
        let entry = spec.get("spec.ports").as_array().into_iter().flatten().find(at);
        let Some(entry) = entry else { return self.misaddressed(seen, &service, port) };
        let (kind, said) = self.port_fault(&service, spec, entry)?;
        let fact = self.about_service(seen, kind, &service, &said)?;
        Some(fact.key(KeyKind::Socket, format!("{address}:{port}")))
    }

    fn port_fault(&self, service: &str, spec: &Spec, entry: &Json) -> Option<(FactKind, String)> {
        let selector = pairs(spec.get("spec.selector"));
        let namespace = service.split('/').nth(1)?;
        let behind = |(_, spec): &(&str, &Spec)| is_within(&selector, &spec.labels());
        let workload =
            self.specs.workloads(namespace).into_iter().find(behind).filter(|_| !selector.is_empty())?;
        let protocol = entry.get("protocol").and_then(Json::as_str).unwrap_or("TCP");
        let all = |protocol: &str| -> Vec<u64> {
            workload.1.containers().flat_map(|container| ports(container, protocol)).collect()
        };
        let target = entry.get("targetPort").filter(|target| !target.is_null());
        let target = target.unwrap_or(entry.get("port")?);
        let number = match target.as_str() {
            Some(name) => workload.1.containers().find_map(|container| named_port(container, name)),
            None => target.as_u64(),
        };
        let said = format!("leads to port {target}/{protocol} of {}", workload.0);
        let other = if protocol == "TCP" { "UDP" } else { "TCP" };
        match number {
            None => {
                Some((FactKind::ServicePortMappingMismatch, format!("{said}, which has none of that name")))
            }
            Some(number) if all(protocol).contains(&number) => None,
            Some(number) if all(other).contains(&number) => {
                Some((FactKind::ServiceProtocolMismatch, format!("{said}, which serves it as {other}")))
            }
            Some(_) if all(protocol).is_empty() => None,
            Some(_) => {
                let served = all(protocol);
                Some((FactKind::ServicePortMappingMismatch, format!("{said}, which serves {served:?}")))
            }
        }
    }

    /// The client's environment names a port that the service does not have.
    fn misaddressed(&mut self, seen: &Seen<'_>, service: &str, port: u64) -> Option<Fact> {
        let owner = self.specs.owner(&seen.owner.pod_uid)?.to_owned();
        let name = service.rsplit('/').next()?;
        let wanted = self.specs.get(&owner)?.containers().find_map(|container| {
            let variables = container.get("env").and_then(Json::as_array)?;
            variables.iter().find_map(|variable| {
                let value = variable.get("value").and_then(Json::as_str)?;
                let (host, at) = value.rsplit("//").next()?.rsplit_once(':')?;
                let is_it = host.split('.').next() == Some(name) && at.parse() == Ok(port);
                is_it.then(|| {
                    format!("{}={value}", variable.get("name").and_then(Json::as_str).unwrap_or("?"))
                })
            })
        })?;
        let said = format!("{wanted}, but {service} has no port {port}");
        self.fact(seen, FactKind::ServiceEnvVarAddressMismatch, &owner, &said)
    }

    /// A container that ended since it may not use a path of its volume.
    fn not_permitted(&mut self, seen: &Seen<'_>) -> Option<Fact> {
        let message = seen.field(fields::MESSAGE);
        if !message.to_ascii_lowercase().contains("permission denied") {
            return None;
        }
        let path = text::path(&message)?;
        let owner = seen.field(fields::OWNER).into_owned();
        let name = seen.field(fields::CONTAINER);
        let spec = self.specs.get(&owner)?;
        let of_name = |container: &&Json| container.get("name").and_then(Json::as_str) == Some(&*name);
        let mounts = spec.containers().find(of_name)?.get("volumeMounts")?.as_array()?;
        let below =
            |place: &str| path == place || path.strip_prefix(place).is_some_and(|rest| rest.starts_with('/'));
        let mount =
            mounts.iter().filter_map(|mount| mount.get("mountPath")?.as_str()).find(|place| below(place))?;
        let said = format!("{message} (volume at {mount})");
        self.fact(seen, FactKind::VolumeMountPermissionDenied, &owner, &said)
    }

    /// The kube-proxy of a node that does not run.
    fn proxy(&mut self, seen: &Seen<'_>) -> Option<Fact> {
        let is_proxy = seen.field(fields::NAMESPACE) == "kube-system"
            && seen.field(fields::POD).starts_with("kube-proxy");
        let ended = seen.number("terminated") == 1 && seen.signed("exit_code") != 0;
        if !is_proxy || !ended && seen.field(fields::REASON) != "CrashLoopBackOff" {
            return None;
        }
        let node = seen.field(fields::NODE).into_owned();
        self.told.pass((node.clone(), FactKind::KubeProxyUnavailable), seen.time_ns())?;
        let fact = seen.fact_about(FactKind::KubeProxyUnavailable, Subject::new("node", &*node));
        Some(fact.key(KeyKind::Node, node))
    }

    /// The scheduler, whose lease nobody renews.
    fn scheduler(&mut self, seen: &Seen<'_>) -> Option<Fact> {
        let is_it = seen.field(fields::OBJECT) == "Lease/kube-system/kube-scheduler";
        if !is_it || seen.field(fields::REASON) != "overdue" {
            return None;
        }
        let message = seen.field(fields::MESSAGE);
        let node = message.split(['_', ' ']).next().unwrap_or_default().to_owned();
        self.told.pass((node.clone(), FactKind::KubeSchedulerUnavailable), seen.time_ns())?;
        let fact = seen.fact_about(FactKind::KubeSchedulerUnavailable, Subject::new("node", &*node));
        Some(seen.with_message(fact.key(KeyKind::Node, node)))
    }
}

/// The reason that is left when those are taken away that no owner of a pod can change: the nodes of the control plane,
/// and nodes that are not well.
fn scheduling_reason(message: &str) -> Option<&str> {
    // "0/3 nodes are available: 1 node(s) had untolerated taint {...}, 2 Insufficient cpu. preemption: ..."
    let (_, rest) = message.strip_prefix("0/")?.split_once(" nodes are available: ")?;
    let reasons = rest.split(". ").next()?.trim_end_matches('.');
    let own = |reason: &&str| {
        let is_taint = reason.contains("untolerated taint");
        let of_plane = ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];
        !is_taint || !(of_plane.iter().any(|role| reason.contains(role)) || reason.contains(STATE_TAINT))
    };
    let mut left = reasons.split(", ").filter(own);
    let reason = left.next()?;
    if left.next().is_some() {
        return None;
    }
    Some(reason.trim_start_matches(|letter: char| letter.is_ascii_digit()).trim_start())
}

/// What a reason says by itself.
fn scheduling_cause(reason: &str) -> Option<FactKind> {
    match () {
        () if reason.starts_with("Insufficient cpu") => Some(FactKind::InsufficientNodeCpu),
        () if reason.starts_with("Insufficient memory") => Some(FactKind::InsufficientNodeMemory),
        () if reason.contains("were unschedulable") => Some(FactKind::NodeCordoned),
        () if reason.contains("anti-affinity") => Some(FactKind::PodAntiAffinityConflict),
        () if reason.contains("untolerated taint") => Some(FactKind::TaintTolerationMismatch),
        () => None,
    }
}

/// Which of the two fields excludes every node: the one that there is.
fn affinity_or_selector(spec: &Spec) -> Option<FactKind> {
    let selector = !pairs(spec.get("spec.template.spec.nodeSelector")).is_empty();
    let affinity = spec.get("spec.template.spec.affinity").get("nodeAffinity");
    let required =
        affinity.and_then(|affinity| affinity.get("requiredDuringSchedulingIgnoredDuringExecution"));
    match (required.is_some(), selector) {
        (true, false) => Some(FactKind::NodeAffinityMismatch),
        (false, true) => Some(FactKind::NodeSelectorMismatch),
        _ => None,
    }
}

/// The names of the claims of a workload's volumes.
fn claims_of(spec: &Spec) -> impl Iterator<Item = &str> {
    let volumes = spec.get("spec.template.spec.volumes").as_array().into_iter().flatten();
    volumes.filter_map(|volume| volume.get("persistentVolumeClaim")?.get("claimName")?.as_str())
}

/// The ports that a container declares in a protocol.
fn ports(container: &Json, protocol: &str) -> Vec<u64> {
    let ports = container.get("ports").and_then(Json::as_array).into_iter().flatten();
    let of = |port: &&Json| port.get("protocol").and_then(Json::as_str).unwrap_or("TCP") == protocol;
    ports.filter(of).filter_map(|port| port.get("containerPort")?.as_u64()).collect()
}

fn named_port(container: &Json, name: &str) -> Option<u64> {
    let ports = container.get("ports")?.as_array()?;
    ports
        .iter()
        .find(|port| port.get("name").and_then(Json::as_str) == Some(name))?
        .get("containerPort")?
        .as_u64()
}

/// The port that a probe asks.
fn probe_port(container: &Json, probe: &Json) -> Option<u64> {
    let port = ["httpGet", "tcpSocket", "grpc"].iter().find_map(|how| probe.get(how)?.get("port"))?;
    port.as_u64().or_else(|| named_port(container, port.as_str()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: messages of the scheduler for one reason, several, and nodes that never count.
    /// Guarantees: the one that its owner can change, or nothing.
    #[test]
    fn reasons_of_the_scheduler() {
        for (message, expected) in [
            ("0/1 nodes are available: 1 Insufficient cpu.", Some("Insufficient cpu")),
            (
                "0/3 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, \
                 2 Insufficient memory. preemption: 0/3 nodes are available.",
                Some("Insufficient memory"),
            ),
            ("0/2 nodes are available: 1 Insufficient cpu, 1 Insufficient memory.", None),
            (
                "0/2 nodes are available: 2 node(s) had untolerated taint {gpu: only}.",
                Some("node(s) had untolerated taint {gpu: only}"),
            ),
            (
                "0/2 nodes are available: 2 node(s) had untolerated taint {node.kubernetes.io/not-ready: }.",
                None,
            ),
            (
                "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. preemption: none.",
                Some("pod has unbound immediate PersistentVolumeClaims"),
            ),
            ("running PreBind plugin: x", None),
        ] {
            assert_eq!(scheduling_reason(message), expected, "{message}");
        }
    }
}
