//! What the agent in the guest said of what was provoked there.

use super::{PROVOKED, findings};
use crate::rig::expected::{STORIES, root_of};
use crate::rig::kept::{self, Left};
use crate::rig::replay::{alive, differences, replayed, said};

/// Scenario: four stories, three of which need cgroup v2 and one a clock that may be set, with one agent as it is without
/// flags.
/// Guarantees: of each, root, chain and what decided are as the table says, and there is no other incident; the recording,
/// replayed, says the same.
#[test]
fn the_stories_are_told() {
    let Some(findings) = findings("stories::the_stories_are_told") else { return };
    let record = findings.folder.join("record");
    let mut rest = alive(said(&findings.text("incidents")));
    let mut wrong = differences(&rest, &replayed(&record));
    let mut table = String::from("\nstory guest                 result\n");
    for name in PROVOKED {
        let story = STORIES.iter().find(|story| story.script == name).unwrap();
        let is_of_story = |root: &str| story.roots.contains(&root);
        let (told, others) = rest.into_iter().partition(|incident| is_of_story(&root_of(incident)));
        rest = others;
        let complaints = story.complaints(&told);
        if complaints.is_empty() && kept::is_wanted() {
            let units = findings.outcomes(name).iter().map(|line| line.field("unit").to_owned()).collect();
            let file = format!("live-guest-{name}.jsonl");
            let (by, events, record) = (story.provoked_by(), findings.all(), &*record);
            kept::keep(&Left { file, by, events, names: &units, record, told: &told });
        }
        let roots: Vec<_> =
            told.iter().map(|one| format!("{} ({})", root_of(one), one.root_cause.confidence)).collect();
        table += &format!("{:<5} {name:<21} {}\n", story.id, roots.join(", "));
        wrong.extend(complaints.into_iter().map(|what| format!("{name}: {what}")));
    }
    wrong.extend(rest.iter().map(|incident| format!("besides: {}: {incident:#?}", root_of(incident))));
    crate::rig::measured("guest::stories::the_stories_are_told", &table);
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}
