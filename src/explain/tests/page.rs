//! The page of text.

use super::story::{Order, stories};
use super::{shipped, show, told};
use crate::explain::page::{WIDTH, page};

/// Scenario: the page of every story.
/// Guarantees: no line is wider than a terminal unless one word is; root, proof and state are on each.
#[test]
fn pages_fit_a_terminal() {
    let rules = shipped();
    for story in stories() {
        for incident in told(&story, &rules, Order::AsHappened) {
            let text = page(&incident);
            for line in text.lines() {
                assert!(
                    line.len() <= WIDTH || line.trim().split(' ').count() <= 2,
                    "story {}: {line}",
                    story.id
                );
            }
            for heading in ["What happened", "Why", "Proof", "What next", "What to do"] {
                assert!(text.contains(&format!("\n{heading}\n")), "story {}: {heading}", story.id);
            }
            assert!(text.contains(&incident.id) && text.contains("[f1]"), "story {}", story.id);
            if story.id == "1" {
                show(&format!("\n{text}"));
            }
        }
    }
}
