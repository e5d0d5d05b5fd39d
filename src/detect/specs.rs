//! What the API says of objects, for comparison: the kept fields of workloads, services, claims and volumes.
//!
//! Invariants:
//! - At most [`OBJECTS_MAX`] objects and [`PODS_MAX`] pods; what had to make room is counted.
//! - A change replaces the fields that it names and no others.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};

use super::bounded::Bounded;
use super::seen::Seen;
use crate::event::{Kind, fields};

/// Objects remembered, at most.
const OBJECTS_MAX: usize = 4096;

/// Pods whose workload is remembered, at most.
const PODS_MAX: usize = 8192;

/// Longest text of an object's fields.
const TEXT_BYTES_MAX: usize = 16 << 10;

/// One object.
#[derive(Debug, Clone, Default)]
pub(super) struct Spec {
    fields: Map<String, Json>,
    /// The parts of its fields that came so far.
    parts: String,
    /// How many of its replicas are ready.
    pub(super) ready: u64,
}

impl Spec {
    /// A kept field, by its path with dots.
    pub(super) fn get(&self, path: &str) -> &Json {
        self.fields.get(path).unwrap_or(&Json::Null)
    }

    /// The containers of a workload's template.
    pub(super) fn containers(&self) -> impl Iterator<Item = &Json> {
        self.get("spec.template.spec.containers").as_array().into_iter().flatten()
    }

    /// The labels of a workload's template.
    pub(super) fn labels(&self) -> BTreeMap<&str, &str> {
        pairs(self.get("spec.template.metadata.labels"))
    }
}

/// The pairs of an object of texts.
pub(super) fn pairs(value: &Json) -> BTreeMap<&str, &str> {
    let pairs = value.as_object().into_iter().flatten();
    pairs.filter_map(|(name, value)| Some((name.as_str(), value.as_str()?))).collect()
}

/// Whether all of these pairs are among those.
pub(super) fn is_within(few: &BTreeMap<&str, &str>, many: &BTreeMap<&str, &str>) -> bool {
    few.iter().all(|(name, value)| many.get(name) == Some(value))
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Specs {
    objects: Bounded<String, Spec>,
    /// By `namespace/name` and by uid of the pod, and by `Kind/namespace/name` of what is in between.
    owners: Bounded<String, String>,
    /// By cluster address.
    services: Bounded<String, String>,
}

impl Default for Specs {
    fn default() -> Self {
        Self {
            objects: Bounded::new(OBJECTS_MAX),
            owners: Bounded::new(PODS_MAX),
            services: Bounded::new(OBJECTS_MAX),
        }
    }
}

impl Specs {
    /// Learns from an event of the API.
    pub(super) fn learn(&mut self, seen: &Seen<'_>) {
        match seen.kind() {
            Kind::ObjectChange => self.change(seen),
            Kind::PodState | Kind::ContainerState => {
                let owner = seen.field(fields::OWNER);
                let pod = format!("{}/{}", seen.field(fields::NAMESPACE), seen.field(fields::POD));
                if !owner.is_empty() {
                    self.owners.insert(seen.field(fields::POD_UID).into_owned(), owner.to_string());
                    self.owners.insert(pod, owner.into_owned());
                }
            }
            _ => {}
        }
    }

    fn change(&mut self, seen: &Seen<'_>) {
        let name = seen.field(fields::OBJECT).into_owned();
        let owner = seen.field(fields::OWNER);
        if !owner.is_empty() {
            self.owners.insert(name.clone(), owner.into_owned());
        }
        if seen.number("deleted") == 1 {
            self.objects.remove(&name);
            return;
        }
        let text = seen.field(fields::SPEC);
        let spec = self.objects.entry(name.clone(), Spec::default);
        spec.ready = seen.number("ready");
        if seen.number("part") == 0 {
            spec.parts.clear();
        }
        if spec.parts.len() + text.len() > TEXT_BYTES_MAX {
            return;
        }
        spec.parts.push_str(&text);
        if seen.number("part") + 1 < seen.number("parts") {
            return;
        }
        if let Ok(Json::Object(fields)) = serde_json::from_str(&std::mem::take(&mut spec.parts)) {
            spec.fields.extend(fields);
        }
        let address = spec.get("spec.clusterIP").as_str().unwrap_or_default().to_owned();
        if name.starts_with("Service/") && !address.is_empty() {
            self.services.insert(address, name);
        }
    }

    /// An object, by `Kind/namespace/name`.
    pub(super) fn get(&self, object: &str) -> Option<&Spec> {
        self.objects.get(&object.to_owned())
    }

    /// The objects of a kind, in one namespace if it is given.
    pub(super) fn of<'all>(
        &'all self,
        kind: &str,
        namespace: &str,
    ) -> impl Iterator<Item = (&'all str, &'all Spec)> {
        let start = if namespace.is_empty() { format!("{kind}/") } else { format!("{kind}/{namespace}/") };
        let objects = self.objects.iter().map(|(name, spec)| (name.as_str(), spec));
        objects.filter(move |(name, _)| name.starts_with(&start))
    }

    /// The workloads of a namespace.
    pub(super) fn workloads<'all>(&'all self, namespace: &str) -> Vec<(&'all str, &'all Spec)> {
        let kinds = ["Deployment", "StatefulSet", "DaemonSet"];
        kinds.iter().flat_map(|kind| self.of(kind, namespace)).collect()
    }

    /// The workload of a pod, by its `namespace/name` or uid, or of another object by its name.
    pub(super) fn owner(&self, pod: &str) -> Option<&str> {
        self.owners.get(&pod.to_owned()).map(String::as_str)
    }

    /// The service at an address of the cluster.
    pub(super) fn service_at(&self, address: &str) -> Option<(&str, &Spec)> {
        let name = self.services.get(&address.to_owned())?;
        Some((name, self.get(name)?))
    }

    /// What had to make room.
    pub(super) const fn evicted(&self) -> u64 {
        self.objects.evicted() + self.owners.evicted() + self.services.evicted()
    }
}
