//! Lines of JSON as people and servers write them.

use std::io::Cursor;

use super::*;
use crate::event::Event;

fn read_all(text: &str) -> Result<Recording, LoadError> {
    let path = PathBuf::from("x.jsonl");
    let mut recording = Recording::default();
    read(vec![(&path, Cursor::new(text.to_owned()))], &mut recording)?;
    Ok(recording)
}

/// Scenario: an event by hand, one with the owner as an object, and one as the server answers it.
/// Guarantees: slots, text, owner and name are what was written; times are on the axis of the boot.
#[test]
fn lines_become_events() {
    let text = r#"
        {"host":"n1","boot":"2026-11-24T17:00:00Z"}
        // a comment
        {"time":"2026-11-24T18:00:00.5Z","kind":"process_exit","pid":812,"entity":"/system.slice/db.service","slots":{"exit_code":1,"comm":"postgres"}}
        {"time":"2026-11-24T18:00:01Z","kind":"tcp_listen","entity":{"type":"container","name":"c0ffee"},"slots":{"address":"10.0.0.1","port":80,"listening":1}},
        {"id":"00ff:journald:3:77","time":"2026-11-24T18:00:02Z","kind":"log_record","source":"journald","text":"UNIT=db.service\nMESSAGE=it broke"}
        {"time":"2026-11-24T18:00:03Z","kind":"unit_state","text":{"ACTIVE_STATE":"failed","UNIT":"db.service"}}
    "#;
    let recording = read_all(text).expect("four events");
    assert_eq!(recording.host, "n1");
    let [exit, listen, log, state] = &recording.moments[..] else { panic!("{:?}", recording.moments) };
    let event = Event::parse(&exit.words).expect("an event");
    assert_eq!(exit.time_ns(), 3_600_500_000_000);
    assert_eq!((event.header().tgid, event.slots()[0]), (812, 1));
    assert_eq!(crate::event::chars(event.slot("comm").expect("a slot")), "postgres");
    assert_eq!((exit.owner.kind, exit.owner.unit.as_str()), (EntityKind::Unit, "db.service"));
    assert_eq!(listen.owner.container_id, "c0ffee");
    assert_eq!(log.id, EventId { source: Source::Journald, producer: 3, sequence: 77 });
    assert_eq!((log.owner.kind, log.owner.name.as_str()), (EntityKind::Unit, "db.service"));
    assert_eq!(state.id.source, Source::Systemd);
    assert_eq!(state.owner.key, log.owner.key);
    assert!(Event::parse(&state.words).expect("an event").text().starts_with(b"UNIT="));
}

/// Scenario: lines with one mistake each.
/// Guarantees: the line and the field are named.
#[test]
fn mistakes_are_named() {
    for (line, part) in [
        ("nonsense", "neither a recording nor JSON"),
        ("{}", "kind: is missing"),
        (r#"{"kind":"process_exit"}"#, "time: is a time"),
        (r#"{"kind":"x","time":"2026-11-24T18:00:00Z"}"#, "there is no \"x\""),
        (r#"{"kind":"process_exit","time":"2026-11-24T18:00:00Z","slots":{"code":1}}"#, "slots.code"),
        (
            r#"{"kind":"process_exit","time":"2026-11-24T18:00:00Z","slots":{"exit_code":-1}}"#,
            "slots.exit_code",
        ),
        (r#"{"kind":"process_exit","time":"2026-11-24T18:00:00Z","text":"x"}"#, "has none"),
        (r#"{"kind":"unit_state","time":"2026-11-24T18:00:00Z","text":{"UNTI":"x"}}"#, "text.UNTI"),
        (
            r#"{"kind":"process_exit","time":"2026-11-24T18:00:00Z","entity":"db.service"}"#,
            "path of a cgroup",
        ),
        (r#"{"kind":"process_exit","time":"yesterday"}"#, "time: is a time"),
    ] {
        let error = read_all(&format!("\n{line}")).expect_err(line).to_string();
        assert!(error.starts_with("x.jsonl:2: ") && error.contains(part), "{line}: {error}");
    }
}
