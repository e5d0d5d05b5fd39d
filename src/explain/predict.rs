//! What comes next: what resources run out, and what Kubernetes and systemd do about what failed.
//!
//! Invariants:
//! - A trend speaks only with enough history, near its limit, since the last restart, while it still rises,
//!   and as an interval. A plateau, a sawtooth below the limit and a warm-up say nothing.
//! - Pure: the same series gives the same answer. A prediction must also have been made a few points earlier,
//!   so that one odd point makes none.

use std::collections::BTreeMap;

use super::component::Component;
use super::incident::Prediction;
use super::trends::{points, resource};
use super::verdict::Scene;
use super::words;
use crate::detect::certificates::SOON_S;
use crate::detect::{Fact, FactKind, KeyKind, Subject, Value};

const SECOND_NS: u64 = 1_000_000_000;

/// Points that a trend needs since the last restart.
const POINTS_MIN: usize = 8;

/// History that a trend needs; file systems need more, since they are filled and emptied in bursts.
const HISTORY_NS_MIN: u64 = 60 * SECOND_NS;
const DISK_HISTORY_NS_MIN: u64 = 600 * SECOND_NS;

/// A trend reaches no further than this many times its own history.
const REACH: u64 = 4;

/// Part of the limit from which a trend is anybody's worry, per cent; from the lower one only if the limit is
/// near in time.
const LEVEL_MIN: u64 = 70;
const LEVEL_NEAR_MIN: u64 = 55;
const NEAR_NS: u64 = 180 * SECOND_NS;

/// Memory that is mostly of one rise is what a program fills when it starts, until that has taken this long. It stops at
/// what the program needs, and a limit is commonly set a quarter above that: below this part of the limit, per cent, such a
/// rise cannot be told from a leak.
const FILL_NS: u64 = 600 * SECOND_NS;
const FILL_LEVEL: u64 = 85;

/// A fall by this part of the value, per cent, is a restart or a clean-up.
const FALL: u64 = 25;

/// The last third and the last eighth must rise at least this part as fast as the whole.
const STILL_RISING: f64 = 0.4;

/// Points that slopes are taken from: more say no more.
const SLOPE_POINTS: usize = 48;

/// When a limit is reached.
#[derive(Debug, Clone, PartialEq)]
pub struct Forecast {
    /// Whose.
    pub subject: Subject,
    /// Of what.
    pub resource: String,
    /// What happens then.
    pub kind: FactKind,
    /// The last value, and the limit.
    pub level: (u64, u64),
    /// The time of the last value.
    pub at_ns: u64,
    /// Not before, likely not after; seconds from `at_ns`.
    pub eta_s: [u64; 2],
    /// From 0 to 1.
    pub probability: f64,
    /// What it rests on.
    pub basis: String,
}

/// What happens when a resource runs out.
fn kind_of(resource: &str, subject: &Subject) -> Option<FactKind> {
    Some(match resource {
        "memory" if subject.kind == "node" => FactKind::NodeMemoryExhausted,
        "memory" => FactKind::MemoryLimitHit,
        "disk" => FactKind::DiskFull,
        "inodes" => FactKind::InodesExhausted,
        "tasks" => FactKind::PidsLimitHit,
        "open_files" => FactKind::FdExhausted,
        "conntrack" => FactKind::ConntrackFull,
        "certificate" => FactKind::CertificateExpired,
        _ => return None,
    })
}

/// When the limit of a series is reached, if anybody can say.
#[must_use]
pub fn forecast(trend: &Fact) -> Option<Forecast> {
    let resource = resource(trend)?;
    let kind = kind_of(resource, &trend.subject)?;
    let limit = match trend.detail.get("limit") {
        Some(Value::Number(limit)) => u64::try_from(*limit).ok().filter(|limit| *limit > 0)?,
        _ => return None,
    };
    if resource == "certificate" {
        return certificate_end(trend, limit);
    }
    let needs = Needs {
        history_ns: if matches!(resource, "disk" | "inodes") { DISK_HISTORY_NS_MIN } else { HISTORY_NS_MIN },
        // Other limits are far above what anybody needs, and a host's memory is nobody's to fill at the start.
        may_fill: kind == FactKind::MemoryLimitHit,
    };
    let points = points(trend);
    let held = points.len().saturating_sub((points.len() / 8).max(2));
    // It must have been so a moment ago, too.
    fit(&points[..held], limit, Needs { may_fill: false, ..needs })?;
    let fit = fit(points, limit, needs)?;
    let (first, last) = (points.first()?, points.last()?);
    Some(Forecast {
        subject: trend.subject.clone(),
        resource: resource.into(),
        kind,
        level: (last.1, limit),
        at_ns: last.0,
        eta_s: fit.eta_s,
        probability: fit.probability,
        basis: format!(
            "{} of {}, from {} values of the last {}",
            amount(resource, last.1),
            amount(resource, limit),
            points.len(),
            span(last.0.saturating_sub(first.0) / SECOND_NS),
        ),
    })
}

/// A certificate ends when it says; nothing before its last weeks.
fn certificate_end(trend: &Fact, end_s: u64) -> Option<Forecast> {
    let &(at_ns, now_s) = points(trend).last()?;
    let left = end_s.checked_sub(now_s).filter(|left| (1..=SOON_S).contains(left))?;
    Some(Forecast {
        subject: trend.subject.clone(),
        resource: "certificate".into(),
        kind: FactKind::CertificateExpired,
        level: (now_s, end_s),
        at_ns,
        eta_s: [left, left + 1],
        probability: 0.99,
        basis: "its notAfter".into(),
    })
}

/// What a resource asks of its trend.
#[derive(Clone, Copy)]
struct Needs {
    history_ns: u64,
    /// Whether it may be filled once, to a part that was reckoned with.
    may_fill: bool,
}

struct Fit {
    eta_s: [u64; 2],
    probability: f64,
}

fn fit(points: &[(u64, u64)], limit: u64, needs: Needs) -> Option<Fit> {
    let run = since_restart(points, limit)?;
    let (first, last) = (run.first()?, run.last()?);
    let history = last.0.saturating_sub(first.0);
    if run.len() < POINTS_MIN || history < needs.history_ns || last.1 >= limit {
        return None;
    }
    let whole = slopes(run)?;
    let late = slopes(&run[run.len() - run.len() / 3 - 1..])?;
    let newest = slopes(&run[run.len() - (run.len() / 8).max(4)..])?;
    if whole.middle <= 0.0 || late.middle.min(newest.middle) < whole.middle * STILL_RISING {
        return None;
    }
    let left = as_f64(limit - last.1);
    let fast = whole.high.max(late.middle);
    let slow = whole.low.min(late.middle).max(whole.middle * 0.25);
    let soonest = left / fast * 0.9;
    let latest = left / slow * 1.1;
    let middle_ns = left / late.middle.min(whole.middle);
    if middle_ns > as_f64(history.saturating_mul(REACH)) {
        return None;
    }
    let is_above = |part: u64| u128::from(last.1) * 100 >= u128::from(limit) * u128::from(part);
    if !(is_above(LEVEL_MIN) || is_above(LEVEL_NEAR_MIN) && latest <= as_f64(NEAR_NS)) {
        return None;
    }
    let is_fill = needs.may_fill && history < FILL_NS && last.1.saturating_sub(first.1) >= last.1 / 2;
    if is_fill && !is_above(FILL_LEVEL) {
        return None;
    }
    // How straight it is: how far the quarters of the slopes are apart, against the middle.
    let straight = (1.0 - (whole.high - whole.low) / (2.0 * whole.middle)).clamp(0.0, 1.0);
    let probability = super::impact::share(0.5 + 0.45 * straight);
    Some(Fit { eta_s: [seconds(soonest), seconds(latest).max(seconds(soonest) + 1)], probability })
}

/// The points since the last restart; nothing if the series is a sawtooth whose teeth stay below the limit.
fn since_restart(points: &[(u64, u64)], limit: u64) -> Option<&[(u64, u64)]> {
    let mut begin = 0;
    let mut peaks = Vec::new();
    let mut peak = 0;
    for (place, pair) in points.windows(2).enumerate() {
        let [(_, before), (_, after)] = pair else { continue };
        peak = peak.max(*before);
        let fall = before.saturating_sub(*after);
        if u128::from(fall) * 100 > u128::from(*before) * u128::from(FALL) {
            peaks.push(peak);
            peak = 0;
            begin = place + 1;
        }
    }
    let last = points.last()?.1;
    // It came down by itself before, from at least this height: it has to climb well beyond to be news.
    let highest = peaks.iter().max().copied().unwrap_or(0);
    let is_tooth = highest < limit - limit / 20 && last <= highest.saturating_add(highest / 10);
    (peaks.is_empty() || !is_tooth).then(|| &points[begin..])
}

struct Slopes {
    low: f64,
    middle: f64,
    high: f64,
}

/// The quarters of the slopes between all pairs of points, in units per nanosecond.
fn slopes(points: &[(u64, u64)]) -> Option<Slopes> {
    let step = points.len().div_ceil(SLOPE_POINTS).max(1);
    // From the end on, so that the last point is always one of them.
    let taken: Vec<(u64, u64)> = points.iter().rev().step_by(step).copied().collect();
    let mut all = Vec::with_capacity(taken.len() * taken.len() / 2);
    for (place, later) in taken.iter().enumerate() {
        for earlier in taken.iter().skip(place + 1) {
            let time = later.0.saturating_sub(earlier.0);
            if time > 0 {
                all.push((as_f64(later.1) - as_f64(earlier.1)) / as_f64(time));
            }
        }
    }
    all.sort_by(f64::total_cmp);
    let at = |part: usize| all.get((all.len() * part / 4).min(all.len().saturating_sub(1))).copied();
    Some(Slopes { low: at(1)?, middle: at(2)?, high: at(3)? })
}

#[expect(clippy::cast_precision_loss, reason = "amounts and times are known to far fewer digits than that")]
fn as_f64(number: u64) -> f64 {
    number as f64
}

fn seconds(ns: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded just before")]
    let seconds = (ns / 1e9).clamp(0.0, 1e9) as u64;
    seconds
}

fn amount(resource: &str, value: u64) -> String {
    match resource {
        "memory" | "disk" => words::bytes(i64::try_from(value).unwrap_or(i64::MAX)),
        _ => value.to_string(),
    }
}

/// A time as people say it.
#[must_use]
pub fn span(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// What to do before a resource runs out.
fn before(forecast: &Forecast, trend: Option<&Fact>) -> Vec<String> {
    let name = &forecast.subject.name;
    let is_unit = forecast.subject.kind == "unit";
    let key = |kind: KeyKind| trend?.keys.iter().find(|key| key.kind == kind).map(|key| key.value.clone());
    let mut actions = Vec::new();
    match forecast.resource.as_str() {
        "memory" if is_unit => {
            let limit = words::bytes(i64::try_from(forecast.level.1).unwrap_or(i64::MAX));
            actions
                .push(format!("raise the limit of {limit}: systemctl set-property {name} MemoryMax=<more>"));
            actions.push(format!("or restart it at a time of your choice: systemctl restart {name}"));
        }
        "memory" if forecast.subject.kind == "node" => {
            actions.push(
                "find who grows: systemd-cgtop -m -n 1; limit it with MemoryMax= or resources.limits.memory"
                    .into(),
            );
        }
        "memory" => {
            actions.push(format!("raise resources.limits.memory of {name}, or roll back what made it grow"))
        }
        "disk" => actions.push(format!(
            "make room on {name}: journalctl --vacuum-size=500M; du -xh {name} | sort -h | tail"
        )),
        "inodes" => actions.push(format!("find the most files: du --inodes -x {name} | sort -n | tail")),
        "tasks" if is_unit => {
            actions.push(format!("systemctl set-property {name} TasksMax=<more>, if it should fork so much"))
        }
        "open_files" if is_unit => {
            actions.push(format!("raise LimitNOFILE= of {name}; find the leak: ls -l /proc/<pid>/fd"))
        }
        "certificate" => actions.push(match key(KeyKind::Unit) {
            Some(unit) => format!("renew {name}, then: systemctl reload-or-restart {unit}"),
            None => format!("renew {name} and have its server read it again"),
        }),
        "conntrack" => actions.push("sysctl -w net.netfilter.nf_conntrack_max=<more>".into()),
        _ => {
            actions.push(format!("find out what uses the {} of {name}", forecast.resource.replace('_', " ")))
        }
    }
    if let Some(owner) = key(KeyKind::Owner) {
        actions.push(format!("it belongs to {owner}"));
    }
    actions
}

/// A forecast as it is told.
#[must_use]
pub fn told(scene: Scene<'_>, forecast: &Forecast, trend: Option<&Fact>) -> Prediction {
    Prediction {
        scenario: forecast.kind.name().into(),
        entity: forecast.subject.clone(),
        probability: forecast.probability,
        eta_s: forecast.eta_s,
        at: scene.wall(forecast.at_ns),
        basis: forecast.basis.clone(),
        actions: before(forecast, trend),
    }
}

/// Predictions that belong to an incident.
#[must_use]
pub fn for_incident(scene: Scene<'_>, component: &Component<'_>, members: &[usize]) -> Vec<Prediction> {
    let facts: Vec<&Fact> = members.iter().map(|&place| component.facts[place]).collect();
    let mut list = Vec::new();
    let mut subjects: Vec<&Subject> = facts.iter().map(|fact| &fact.subject).collect();
    subjects.sort();
    subjects.dedup();
    for subject in subjects {
        for trend in scene.trends.of(subject) {
            let known = |forecast: &Forecast| facts.iter().any(|fact| fact.kind == forecast.kind);
            if let Some(forecast) = forecast(trend).filter(|forecast| !known(forecast)) {
                list.push(told(scene, &forecast, Some(trend)));
            }
        }
    }
    let has = |kind: FactKind| facts.iter().any(|fact| fact.kind == kind);
    let last = |kind: FactKind| facts.iter().rev().find(|fact| fact.kind == kind).copied();
    if let Some(fact) = last(FactKind::NodeNotReady).filter(|_| !has(FactKind::Evicted)) {
        list.push(eviction(scene, fact, [295, 340], "tolerations of 300 s for an unready node"));
    } else if let Some(fact) = last(FactKind::KubeletDown).filter(|_| !has(FactKind::NodeNotReady)) {
        list.push(eviction(
            scene,
            fact,
            [335, 400],
            "40 s until the node is not ready, and tolerations of 300 s",
        ));
    }
    if let Some(fact) = last(FactKind::CrashLoop) {
        list.extend(back_off(scene, fact));
    }
    if !has(FactKind::StartLimitHit) {
        list.extend(restart_budget(scene, &facts));
    }
    list
}

fn eviction(scene: Scene<'_>, fact: &Fact, eta_s: [u64; 2], basis: &str) -> Prediction {
    let node = &fact.subject.name;
    Prediction {
        scenario: "evicted".into(),
        entity: fact.subject.clone(),
        probability: 0.9,
        eta_s,
        at: scene.wall(fact.from_ns),
        basis: basis.into(),
        actions: vec![
            "bring the kubelet back before: systemctl restart kubelet".into(),
            format!("or move the pods at a time of your choice: kubectl drain {node} --ignore-daemonsets"),
        ],
    }
}

/// The next start of a container that crash-loops, which will fail as the others did.
fn back_off(scene: Scene<'_>, fact: &Fact) -> Option<Prediction> {
    let number = |name: &str| match fact.detail.get(name) {
        Some(Value::Number(number)) => u64::try_from(*number).ok(),
        _ => None,
    };
    // 10 s, then twice as long each time, 5 min at most.
    let restarts = u32::try_from(number("restarts")?).unwrap_or(u32::MAX).saturating_sub(1).min(5);
    let backoff = number("backoff_s").unwrap_or_else(|| (10_u64 << restarts).min(300));
    let then = (backoff * 2).min(300);
    Some(Prediction {
        scenario: "container_restart".into(),
        entity: fact.subject.clone(),
        probability: 0.9,
        eta_s: [backoff, backoff + 30],
        at: scene.wall(fact.from_ns),
        basis: format!("the back-off of {backoff} s; the one behind it is {then} s"),
        actions: vec![
            "remove the cause first: each failed start doubles the time until the next, up to 5 min".into(),
        ],
    })
}

/// How many failures are left until systemd gives a unit up.
fn restart_budget(scene: Scene<'_>, facts: &[&Fact]) -> Option<Prediction> {
    let mut failures: BTreeMap<&Subject, Vec<u64>> = BTreeMap::new();
    for fact in facts.iter().filter(|fact| fact.kind == FactKind::ExitFailure && fact.subject.kind == "unit")
    {
        failures.entry(&fact.subject).or_default().push(fact.from_ns);
    }
    let (subject, times) = failures.into_iter().max_by_key(|(_, times)| times.len())?;
    let burst = scene.topology.limit(subject, "start_limit_burst")?;
    let interval_ns = scene.topology.limit(subject, "start_limit_interval_us")?.checked_mul(1_000)?;
    let last = *times.last()?;
    let recent: Vec<u64> = times.into_iter().filter(|at| at.saturating_add(interval_ns) > last).collect();
    let count = u64::try_from(recent.len()).ok()?;
    if count < 2 || burst == 0 || interval_ns == 0 {
        return None;
    }
    let left = burst.saturating_sub(count);
    let gap_ns = last.saturating_sub(*recent.first()?) / (count - 1);
    // At this pace the interval lets the oldest failures go before there are enough of them.
    if gap_ns.saturating_mul(burst) > interval_ns {
        return None;
    }
    let eta = gap_ns.saturating_mul(left) / SECOND_NS;
    Some(Prediction {
        scenario: "start_limit_hit".into(),
        entity: subject.clone(),
        probability: 0.85,
        eta_s: [eta * 8 / 10, eta * 15 / 10 + 1],
        at: scene.wall(last),
        basis: format!("{count} failures of {burst} within {}: {left} left", span(interval_ns / SECOND_NS)),
        actions: vec![
            format!("give it more time: RestartSec= or StartLimitBurst= of {}", subject.name),
            format!("after the repair: systemctl reset-failed {0} && systemctl start {0}", subject.name),
        ],
    })
}
