//! What changed of the fields that others are compared with.
//!
//! Invariants:
//! - A change names the fields it is of, and carries them; what did not change is not said again.

use super::{Parsed, Tracker};
use crate::collector::kubernetes::api_events;
use crate::collector::kubernetes::draft::{Draft, hash, number};
use crate::collector::kubernetes::known::Entry;
use crate::collector::kubernetes::object::{Condition, Meta, Plain, text};
use crate::collector::kubernetes::resource::{Keep, Resource};
use crate::collector::kubernetes::shape::Kept;
use crate::event::{Kind, fields};

/// Longest part of an object's fields in one event; longer ones come in several.
const SPEC_PART_BYTES: usize = 1800;

/// Longest list of images, and longest message, beside them.
const TEXT_CUT_BYTES: usize = 400;

/// Parts of an object's fields at most; the rest is left out, and the event says that it is cut.
const SPEC_PARTS_MAX: usize = 8;

/// What an event says of an object.
struct ObjectChange<'object> {
    changed: String,
    json: String,
    images: String,
    replicas: Replicas,
    condition: Option<&'object Condition>,
}

/// The condition that says that a workload does not come to what is wanted.
fn telling(plain: &Plain) -> Option<&Condition> {
    let bad = [
        ("Progressing", "False"),
        ("ReplicaFailure", "True"),
        ("Failed", "True"),
        ("ScalingActive", "False"),
    ];
    let is = |condition: &&Condition| {
        let said = (text(condition.kind.as_ref()), text(condition.status.as_ref()));
        bad.contains(&said)
    };
    plain.status.conditions.as_deref().unwrap_or_default().iter().find(is)
}

/// The start of a text, in whole characters.
fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

impl Tracker {
    /// The rows of the table that changed.
    pub(super) fn compare_object(
        &self,
        parsed: &Parsed<'_>,
        before: Option<&Entry>,
        entry: &mut Entry,
        drafts: &mut Vec<Draft>,
    ) -> serde_json::Result<()> {
        let (object, plain) = (parsed.text, parsed.plain);
        let rows = self.resource.keep;
        let kept = Kept::read(&self.shape, rows, object)?;
        let replicas = Replicas::read(self.resource, object)?;
        entry.hashes = if self.resource.metadata_only {
            // Nothing but the version says that the content changed.
            let version = hash(&[text(plain.metadata.resource_version.as_ref())]);
            Box::new([u32::try_from(version >> 32).unwrap_or(0)])
        } else {
            kept.hashes().iter().copied().chain(replicas.hashes()).collect()
        };
        let before = before.map(|before| &before.hashes);
        let changed: Vec<usize> = match before {
            None => Vec::new(),
            Some(before) => {
                (0..entry.hashes.len()).filter(|&row| before.get(row) != entry.hashes.get(row)).collect()
            }
        };
        if before.is_some() && changed.is_empty() {
            return Ok(());
        }
        let is_chosen = |row: usize| before.is_none() || changed.contains(&row);
        let change = ObjectChange {
            changed: match before {
                Some(_) => self.row_names(&changed),
                // What the first list finds has not changed: it was there.
                None if self.is_first_list() => String::new(),
                None => "new".to_owned(),
            },
            json: kept.json(rows, is_chosen),
            images: kept.images(rows),
            replicas,
            condition: telling(plain).filter(|_| {
                rows.iter().position(|row| row.path == "status conditions").is_some_and(is_chosen)
            }),
        };
        self.say_change(&plain.metadata, entry, &change, drafts);
        Ok(())
    }

    /// Whether the objects that come were there before anybody looked.
    fn is_first_list(&self) -> bool {
        self.list == 1 && self.floor == 0
    }

    /// The paths of rows; what concerns a template has its path, too.
    fn row_names(&self, changed: &[usize]) -> String {
        let keep = self.resource.keep;
        let replicas = [self.resource.desired, self.resource.ready];
        let path = |row: usize| {
            keep.get(row).map(|keep| keep.path).or_else(|| replicas.get(row - keep.len()).copied())
        };
        let mut names: Vec<String> = Vec::new();
        for &row in changed {
            let path = path(row).filter(|path| !path.is_empty()).unwrap_or("data");
            if path.starts_with("spec template ") && names.iter().all(|name| name != "spec.template") {
                names.push("spec.template".to_owned());
            }
            names.push(path.replace(' ', "."));
        }
        names.dedup();
        names.join(" ")
    }

    /// The events about a change: one, or more where the fields are many.
    fn say_change(&self, meta: &Meta, entry: &Entry, change: &ObjectChange<'_>, drafts: &mut Vec<Draft>) {
        let (uid, version) = (text(meta.uid.as_ref()), text(meta.resource_version.as_ref()));
        let parts = parts_of(&change.json);
        let (reason, message) = change.condition.map_or(("", ""), |condition| {
            (text(condition.reason.as_ref()), text(condition.message.as_ref()))
        });
        for (number_of_part, part) in parts.iter().enumerate() {
            let label = format!("object {number_of_part}");
            let draft = self.object_draft(meta, number(uid, version, &label));
            let draft = draft
                .slot(meta.generation.unwrap_or(0))
                .slot(change.replicas.desired)
                .slot(change.replicas.ready)
                .slot(0)
                .slot(number_of_part as u64)
                .slot(parts.len() as u64);
            let draft = draft
                .field(fields::OBJECT_UID, uid)
                .field(fields::NAMESPACE, entry.namespace.text())
                .field(fields::OWNER, entry.owner.text())
                .field(fields::REVISION, entry.revision.text());
            let draft = if number_of_part == 0 {
                draft
                    .field(fields::CHANGED, &change.changed)
                    .field(fields::REASON, reason)
                    .field(fields::IMAGE, cut(&change.images, TEXT_CUT_BYTES))
                    .field(fields::MESSAGE, cut(message, TEXT_CUT_BYTES))
            } else {
                draft
            };
            drafts.push(draft.field(fields::SPEC, part));
        }
    }

    fn object_draft(&self, meta: &Meta, number: u64) -> Draft {
        let (namespace, name) = (text(meta.namespace.as_ref()), text(meta.name.as_ref()));
        let path = api_events::path(self.resource.kind, namespace, name);
        Draft::new(Kind::ObjectChange, fields::OBJECT, path, number)
    }
}

/// The fields of an object in parts that fit an event; at least one, which may be empty.
fn parts_of(json: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = json;
    while rest.len() > SPEC_PART_BYTES && parts.len() + 1 < SPEC_PARTS_MAX {
        let part = cut(rest, SPEC_PART_BYTES);
        parts.push(part);
        rest = &rest[part.len()..];
    }
    parts.push(rest);
    parts
}

/// How many replicas are wanted and ready.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Replicas {
    desired: u64,
    ready: u64,
}

impl Replicas {
    fn read(resource: &Resource, object: &[u8]) -> serde_json::Result<Self> {
        if resource.desired.is_empty() {
            return Ok(Self::default());
        }
        let rows = [resource.desired, resource.ready].map(|path| Keep { path, only: &[] });
        let [desired, ready] = Kept::numbers(&rows, object)?;
        Ok(Self { desired, ready })
    }

    fn hashes(self) -> [u32; 2] {
        [self.desired, self.ready].map(|count| u32::try_from(count).unwrap_or(u32::MAX))
    }
}
