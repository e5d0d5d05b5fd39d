//! What comes next.

use super::component::Component;
use super::incident::Prediction;
use super::verdict::Scene;

/// Predictions that belong to an incident.
#[must_use]
pub fn for_incident(_scene: Scene<'_>, _component: &Component<'_>, _members: &[usize]) -> Vec<Prediction> {
    Vec::new()
}
