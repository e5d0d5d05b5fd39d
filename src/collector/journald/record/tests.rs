//! Tests of the events that entries make.

use super::*;
use crate::event::{Event, HEADER_WORDS, NAMED, named_key};

const FULL: Wishes = Wishes { text: JournalText::Full, mask_secrets: true };

const BOOT: [u8; 16] = [1; 16];

fn cursor(seqnum: u64) -> Cursor {
    Cursor {
        seqnum_id: [9; 16],
        seqnum,
        boot_id: BOOT,
        monotonic_us: 100_000_000,
        realtime_us: 1_000_100_000_000,
        xor_hash: 5,
    }
}

fn maker() -> Maker {
    let second = 1_000_000_000;
    let clocks =
        Clocks { boot_id: BOOT, boot_unix_ns: 1_000_000 * second, asleep_ns: 0, now_ns: 101 * second };
    Maker { clocks, ..Maker::new(BOOT) }
}

/// Makes the event of an entry and shows it to `look`.
fn made(fields: &[(&'static str, &str)], wishes: Wishes, look: impl FnOnce(Made, Event<'_>)) {
    let mut maker = maker();
    let made = maker.entry(&cursor(42), &Said::of(fields), wishes).expect("not the agent's own");
    look(made, Event::parse(maker.event.finish()).expect("an event"));
}

fn fields_of(event: &Event<'_>) -> Vec<String> {
    event.fields().map(|(name, value)| format!("{name}={value}")).collect()
}

/// Scenario: an ordinary entry of a service.
/// Guarantees: number, time, owner, run, process, slots and fields are those of the entry; it is not urgent.
#[test]
fn an_entry_becomes_a_record() {
    let invocation = "0123456789abcdef0123456789abcdef";
    let entry = [
        ("MESSAGE", "listening on 80"),
        ("PRIORITY", "6"),
        ("_PID", "7"),
        ("_UID", "33"),
        ("_COMM", "nginx"),
        ("_EXE", "/usr/sbin/nginx"),
        ("_TRANSPORT", "stdout"),
        ("SYSLOG_IDENTIFIER", "nginx"),
        ("_SYSTEMD_CGROUP", "/system.slice/nginx.service"),
        ("_SYSTEMD_UNIT", "nginx.service"),
        ("_SYSTEMD_INVOCATION_ID", invocation),
        ("TRACEPARENT", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ];
    made(&entry, FULL, |made, event| {
        assert_eq!((made.lane, made.lost, made.is_old), (Lane::Bulk, None, false));
        let header = event.header();
        assert_eq!((header.time_ns, header.tgid, header.flags), (100_000_000_000, 7, 0));
        assert_eq!(header.cgroup, named_key(fields::UNIT, "nginx.service"));
        assert_eq!(event.info().kind, Kind::LogRecord);
        let number = |name| event.slot(name).expect("a slot")[0];
        assert_eq!((number("number"), number("priority"), number("uid")), (42, 6, 33));
        assert_eq!(number("realtime_us"), 1_000_100_000_000);
        assert_eq!(event.slot("invocation_id"), Some(&[0x0123_4567_89ab_cdef; 2][..]));
        assert_eq!(
            fields_of(&event),
            [
                "UNIT=nginx.service",
                "IDENTIFIER=nginx",
                "TRANSPORT=stdout",
                "COMM=nginx",
                "EXE=/usr/sbin/nginx",
                "TRACE_ID=0af7651916cd43dd8448eb211c80319c",
                "SPAN_ID=b7ad6b7169203331",
                "MESSAGE=listening on 80",
            ]
        );
    });
}

/// Scenario: what the manager says of a failed unit.
/// Guarantees: it is urgent, about the unit, and has what diagnosis needs.
#[test]
fn a_failure_keeps_its_details() {
    let entry = [
        ("MESSAGE", "a.service: Failed with result 'exit-code'."),
        ("PRIORITY", "4"),
        ("MESSAGE_ID", "d9b373ed55a64feb8242e02dbe79a49c"),
        ("UNIT", "a.service"),
        ("UNIT_RESULT", "exit-code"),
        ("_PID", "1"),
        ("_COMM", "systemd"),
        ("_UID", "0"),
    ];
    made(&entry, Wishes { text: JournalText::Pattern, ..FULL }, |made, event| {
        assert_eq!(made.lane, Lane::Urgent);
        assert_eq!(event.header().tgid, 0);
        assert_eq!(
            fields_of(&event),
            [
                "UNIT=a.service",
                "MEANING=unit_failed",
                "UNIT_RESULT=exit-code",
                "MESSAGE=a.service: Failed with result 'exit-code'.",
            ]
        );
    });
}

/// Scenario: the kernel's line about a container's memory, and one about no cgroup.
/// Guarantees: typed fields; the first is the container's, the second the node's with its process as a field.
#[test]
fn kernel_lines_have_typed_fields() {
    let kernel = |message| {
        [("MESSAGE", message), ("PRIORITY", "6"), ("_TRANSPORT", "kernel"), ("SYSLOG_FACILITY", "0")]
    };
    let oom = "oom-kill:constraint=CONSTRAINT_MEMCG,a=b,oom_memcg=/system.slice/a.service,\
        task_memcg=/system.slice/a.service,task=py,pid=7,uid=33";
    made(&kernel(oom), FULL, |made, event| {
        assert_eq!(made.lane, Lane::Urgent);
        assert_eq!((event.header().tgid, event.slot("uid").expect("a slot")[0]), (7, 33));
        let fields = fields_of(&event);
        assert_eq!(
            fields[..6],
            [
                "UNIT=a.service",
                "MEANING=oom_kill",
                "CONSTRAINT=memcg",
                "LIMIT_CGROUP=/system.slice/a.service",
                "CGROUP=/system.slice/a.service",
                "COMM=py",
            ]
        );
    });
    made(&kernel("c[77]: segfault at 0 ip 0 sp 0 error 6 in c[1+1]"), FULL, |_, event| {
        assert_eq!((event.header().cgroup, event.header().tgid), (0, 0));
        assert_eq!(fields_of(&event)[..3], ["MEANING=segfault", "PID=77", "COMM=c"]);
    });
}

/// Scenario: journald dropped entries of a service; it missed messages of the kernel.
/// Guarantees: both are gaps with their cause and size, the first of the service.
#[test]
fn drop_records_are_gaps() {
    let dropped = [
        ("MESSAGE", "Suppressed 12 messages from a.service"),
        ("MESSAGE_ID", "a596d6fe7bfa4994828e72309e95d61e"),
        ("N_DROPPED", "13"),
        ("OBJECT_SYSTEMD_UNIT", "a.service"),
        ("_TRANSPORT", "driver"),
    ];
    made(&dropped, FULL, |made, event| {
        assert_eq!((made.lane, made.lost), (Lane::Urgent, Some(13)));
        assert_eq!((event.info().kind, event.slots()), (Kind::LogGap, &[42, 13][..]));
        assert_eq!(
            fields_of(&event)[..3],
            ["UNIT=a.service", "MEANING=messages_dropped", "CAUSE=rate_limit"]
        );
    });
    let without_number = [dropped[0], dropped[1], dropped[4]];
    made(&without_number, FULL, |made, _| assert_eq!(made.lost, Some(12)));
    let missed = [
        ("MESSAGE", "Missed 30 kernel messages"),
        ("MESSAGE_ID", "e9bf28e6e834481bb6f48f548ad13606"),
        ("_TRANSPORT", "driver"),
    ];
    made(&missed, FULL, |made, event| {
        assert_eq!((made.lost, event.header().cgroup), (Some(30), 0));
        assert_eq!(event.fields().get(fields::CAUSE), "kernel_missed");
    });
    let forged = [dropped[0], dropped[1], dropped[2], ("_TRANSPORT", "journal"), ("_UID", "33")];
    made(&forged, FULL, |made, _| assert_eq!(made.lost, None));
}

/// Scenario: a message with a password, under each setting; a very long one; one that is no UTF-8; none.
/// Guarantees: the secret is masked unless the settings say otherwise; a pattern has no message; a cut says so.
#[test]
fn messages_are_as_the_settings_want() {
    let entry = [("MESSAGE", "user 7 password=hunter2"), ("_SYSTEMD_UNIT", "a.service")];
    let wish = |text, mask_secrets| Wishes { text, mask_secrets };
    for (wishes, expected) in [
        (wish(JournalText::Full, true), "MESSAGE=user 7 password=***"),
        (wish(JournalText::Full, false), "MESSAGE=user 7 password=hunter2"),
        (wish(JournalText::Pattern, true), "PATTERN=user # password=hunter#"),
    ] {
        let expected = expected.replace("hunter#", "#");
        made(&entry, wishes, |_, event| assert_eq!(fields_of(&event).last(), Some(&expected)));
    }
    let long = "\u{e4}".repeat(40_000);
    made(&[("MESSAGE", &long), ("_PID", "3")], FULL, |_, event| {
        assert_eq!(event.header().flags, crate::event::TEXT_CUT);
        assert!(event.text().len() <= TEXT_BYTES_MAX && event.words().len() > HEADER_WORDS + 300);
    });
    let mut maker = maker();
    let bytes = [(&b"MESSAGE"[..], &b"a\xffb\0c"[..])];
    maker.entry(&cursor(1), &Said::new(bytes.into_iter()), FULL).expect("an event");
    let event = Event::parse(maker.event.finish()).expect("an event");
    assert_eq!(event.fields().get(fields::MESSAGE), "a\u{fffd}b\0c");
    made(&[], FULL, |made, event| {
        assert_eq!((made.lane, event.slot("priority").expect("a slot")[0]), (Lane::Bulk, 6));
        assert_eq!((event.text(), event.header().cgroup & NAMED), (&b""[..], 0));
    });
}

/// Scenario: the agent's own entry; errors of any program; entries of long ago.
/// Guarantees: the first makes nothing, the second is urgent, the third says that it is old.
#[test]
fn own_urgent_and_old_entries() {
    let pid = std::process::id().to_string();
    let mut maker = maker();
    let own = [("MESSAGE", "x"), ("_PID", &*pid)];
    assert_eq!(maker.entry(&cursor(1), &Said::of(&own), FULL), None);
    made(&[("PRIORITY", "3")], FULL, |made, _| assert_eq!(made.lane, Lane::Urgent));
    let old = Cursor { monotonic_us: 50_000_000, ..cursor(1) };
    let made = maker.entry(&old, &Said::of(&[]), FULL).expect("an event");
    assert!(made.is_old);
    assert_eq!(maker.event.header().flags, COARSE_TIME);
    let other_boot = Cursor { boot_id: [3; 16], realtime_us: 900_000_000_000, ..cursor(1) };
    maker.entry(&other_boot, &Said::of(&[]), FULL).expect("an event");
    assert!(crate::event::is_before_boot(maker.event.header().time_ns));
}

/// Scenario: gaps that the reader met, one of unknown size, two within a microsecond.
/// Guarantees: each has its cause and a number of its own.
#[test]
fn gaps_of_the_reader_are_numbered() {
    let mut maker = maker();
    let mut numbers = std::collections::BTreeSet::new();
    for lost in [Some(3), None, Some(1)] {
        let made = maker.gap("journal_vacuumed", lost, "/var/log/journal/x");
        assert_eq!(made.lost, Some(lost.unwrap_or(0)));
        let event = Event::parse(maker.event.finish()).expect("an event");
        numbers.insert(event.slots()[0]);
        assert_eq!(event.slots()[1], lost.unwrap_or(0));
        assert_eq!(event.fields().get(fields::CAUSE), "journal_vacuumed");
    }
    assert_eq!(numbers.len(), 3);
}
