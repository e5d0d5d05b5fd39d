//! Layers against each other, and what a reload may change.

use std::io::Write;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::Switch;
use crate::event::Source;

fn environment(variables: &[(&str, &str)]) -> Environment {
    Environment::read(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
}

fn written(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("written");
    file
}

fn flag(name: &str, text: &str) -> (&'static Opt, String) {
    (Opt::by_flag(name).expect("a flag"), text.to_owned())
}

/// Scenario: one setting is given in one, two, three layers.
/// Guarantees: the flag goes before the variable, our variable before a shared one, any before the file.
#[test]
fn layers_have_an_order() {
    let file = written("otel_endpoint = 'file:1'");
    let mut args = Args { config: Some(file.path().into()), ..Args::default() };
    assert_eq!(load(&args).expect("valid").otel_endpoint, "file:1");
    args.environment = environment(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://generic:1")]);
    assert_eq!(load(&args).expect("valid").otel_endpoint, "http://generic:1");
    args.environment = environment(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://generic:1"),
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://metrics:1"),
    ]);
    assert_eq!(load(&args).expect("valid").otel_endpoint, "http://metrics:1");
    args.environment = environment(&[
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://metrics:1"),
        ("TAPIO_OTEL_ENDPOINT", "own:1"),
    ]);
    assert_eq!(load(&args).expect("valid").otel_endpoint, "own:1");
    args.flags = vec![flag("otel-endpoint", "flag:1"), flag("otel-endpoint", "flag:2")];
    assert_eq!(load(&args).expect("valid").otel_endpoint, "flag:2");
}

/// Scenario: variables of OpenTelemetry, with their units, and one that is empty.
/// Guarantees: they mean what they mean elsewhere.
#[test]
fn shared_variables_mean_what_they_mean() {
    let environment = environment(&[
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20eA%3D%3D"),
        ("OTEL_SERVICE_NAME", ""),
        ("OTEL_SDK_DISABLED", "TRUE"),
    ]);
    let settings = load(&Args { environment, ..Args::default() }).expect("valid");
    assert_eq!(settings.otel_timeout, Duration::from_millis(2500));
    assert_eq!(settings.otel_headers, [("authorization".into(), "Basic eA==".into())]);
    assert_eq!(settings.otel_service_name, "tapio-collector");
    assert!(settings.otel_disabled);
}

/// Scenario: a collector is on by default, on in the file, off by a flag.
/// Guarantees: the three are told apart.
#[test]
fn asked_for_by_name_is_told_from_default() {
    let file = written("enable_ebpf = true\nenable_k8s = false");
    let mut args = Args { config: Some(file.path().into()), ..Args::default() };
    args.flags = vec![flag("enable-systemd", "true")];
    let collectors = load(&args).expect("valid").collectors;
    assert_eq!(collectors[Source::Ebpf as usize], Switch::On);
    assert_eq!(collectors[Source::Kubernetes as usize], Switch::Off);
    assert_eq!(collectors[Source::Systemd as usize], Switch::On);
    assert_eq!(collectors[Source::Journald as usize], Switch::Default);
}

/// Scenario: a wrong value in each layer.
/// Guarantees: the message has the place, the value and what would be right; a secret is not repeated.
#[test]
fn errors_say_where_and_what() {
    let file = written("server = 'a:1'\nbuffer_size = 0\n");
    let args = Args { config: Some(file.path().into()), ..Args::default() };
    let error = load(&args).expect_err("0 is out of bounds").to_string();
    let expected = ":2:15: buffer_size: \"0\" must be a whole number from 1 to 65536";
    assert_eq!(error, format!("{}{expected}", file.path().display()));

    let args = Args { environment: environment(&[("TAPIO_LATENCY", "lo")]), ..Args::default() };
    let error = load(&args).expect_err("not a mode").to_string();
    assert_eq!(error, "environment variable TAPIO_LATENCY: \"lo\" must be normal or low");

    let secret = environment(&[("TAPIO_OTEL_HEADERS", "password")]);
    let error = load(&Args { environment: secret, ..Args::default() }).expect_err("no pair").to_string();
    assert!(!error.contains("password"), "{error}");

    let args = Args { config: Some("/does/not/exist".into()), ..Args::default() };
    let error = load(&args).expect_err("no file").to_string();
    assert!(error.starts_with("cannot read the configuration file /does/not/exist: No such file"), "{error}");
}

/// Scenario: a file changes a live setting, one that takes a restart and a secret; then it becomes invalid.
/// Guarantees: only the live one changes, all are named, no secret is shown; an invalid file changes nothing.
#[test]
fn a_reload_changes_what_it_can() {
    let file = written(
        "flush_interval = '2s'\nring_bytes = '32MiB'\notel_headers = 'token=hush'\nlatency = 'low'\n[filters]\nforks = false",
    );
    let args = Args { config: Some(file.path().into()), ..Args::default() };
    let old = Settings::default();
    let (new, changes) = reload(&old, &args).expect("valid");
    let expected = Settings { flush_interval: Duration::from_secs(2), ..old.clone() };
    let expected = Settings { latency: crate::config::Latency::Low, ..expected };
    assert_eq!(new, expected);
    let texts: Vec<String> = changes.iter().map(ToString::to_string).collect();
    let expected = [
        "flush-interval: \"1s\" -> \"2s\"",
        "ring-bytes: \"16MiB\" -> \"32MiB\"; takes a restart",
        "latency: \"normal\" -> \"low\"",
        "filter-forks: \"true\" -> \"false\"; takes a restart",
        "otel-headers: \"\" -> \"\"; takes a restart",
    ];
    assert_eq!(texts, expected);

    std::fs::write(file.path(), "flush_interval = 2").expect("written");
    let error = reload(&new, &args).expect_err("a number is no time");
    assert!(matches!(error, ConfigError::File { line: 1, column: 18, .. }), "{error}");
}

proptest! {
    /// Scenario: any bytes as a file.
    /// Guarantees: settings or an error, never a panic; a place within the file.
    #[test]
    fn any_file_is_answered(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Err(problem) = file::settings(&bytes) {
            prop_assert!(problem.at.line <= bytes.split(|&byte| byte == b'\n').count());
        }
    }

    /// Scenario: a known key with any printable value, in every layer.
    /// Guarantees: settings within bounds or an error.
    #[test]
    fn any_value_is_answered(index in 0..OPTIONS.len(), text in "[ -~]{0,20}") {
        let mut settings = Settings::default();
        if (OPTIONS[index].set)(&mut settings, &text).is_ok() {
            let again = (OPTIONS[index].get)(&settings);
            let mut twice = settings.clone();
            prop_assert_eq!((OPTIONS[index].set)(&mut twice, &again), Ok(()), "{} {:?}", OPTIONS[index].flag, again);
            prop_assert_eq!((OPTIONS[index].get)(&twice), again);
        }
    }
}
