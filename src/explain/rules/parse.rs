//! Reads rule files: TOML with `[[rule]]`, `[[mute]]`, `[[root]]`, `[[culprit]]` and `[[shows]]` tables.
//!
//! Invariants:
//! - Every error names file, line and column, what is wrong, and what would be right.
//! - Nothing is guessed: an unknown key of the file, kind, key kind or word is an error.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::{
    CAUSE_WINDOW_NS_MAX, CONTEXT_WINDOW_NS_MAX, Condition, Culprit, Evidence, Mute, Need, Part, RULES_MAX,
    RootWords, Rule, RuleSet, Shows, Side, key_kind,
};
use crate::detect::{FACT_KINDS, FactKind, KeyKind, Role, is_detail};
use crate::event::Source;
use crate::explain::rules::Action;

/// What is wrong with a rule file. Stop: correct the file; a running agent keeps the rules that it has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct RuleError {
    /// The file.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for RuleError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    rule: Vec<RawRule>,
    #[serde(default)]
    mute: Vec<RawMute>,
    #[serde(default)]
    root: Vec<RawRoot>,
    #[serde(default)]
    culprit: Vec<RawCulprit>,
    #[serde(default)]
    shows: Vec<RawShows>,
}

type Text = Spanned<String>;

#[derive(Deserialize)]
#[serde(untagged)]
enum Words {
    One(String),
    Many(Vec<String>),
}

impl Words {
    fn list(&self) -> &[String] {
        match self {
            Self::One(word) => std::slice::from_ref(word),
            Self::Many(words) => words,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    name: Text,
    part: Option<Text>,
    cause: Spanned<Words>,
    effect: Spanned<Words>,
    keys: Option<Spanned<Words>>,
    #[serde(default)]
    same_subject: bool,
    via: Option<Spanned<Words>>,
    #[serde(default)]
    same_run: bool,
    window: Text,
    slack: Option<Text>,
    confidence: Option<Spanned<f64>>,
    #[serde(default)]
    when: Vec<Text>,
    #[serde(default)]
    evidence: Vec<RawEvidence>,
    text: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEvidence {
    kind: Spanned<Words>,
    near: Option<Text>,
    keys: Spanned<Words>,
    window: Text,
    #[serde(default)]
    present: f64,
    #[serde(default)]
    absent: f64,
    #[serde(default)]
    required: bool,
    #[serde(default)]
    excluded: bool,
    source: Text,
    #[serde(default)]
    when: Vec<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMute {
    name: Text,
    kind: Spanned<Words>,
    when: Vec<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRoot {
    kind: Spanned<Words>,
    #[serde(default)]
    open: bool,
    named: Option<Text>,
    text: String,
    #[serde(default)]
    action: Vec<RawAction>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAction {
    #[serde(default)]
    when: Vec<Text>,
    text: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCulprit {
    name: Text,
    kind: Spanned<Words>,
    resource: String,
    keys: Spanned<Words>,
    #[serde(default)]
    when: Vec<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawShows {
    name: Text,
    kind: Spanned<Words>,
    detail: Vec<Text>,
}

/// A file while it is read.
struct File<'text> {
    name: &'text str,
    text: &'text str,
}

impl File<'_> {
    fn at(&self, span: &Range<usize>, message: impl Into<String>) -> RuleError {
        let before = self.text.get(..span.start.min(self.text.len())).unwrap_or("");
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        RuleError {
            file: self.name.into(),
            line: before.matches('\n').count() + 1,
            column: before.len() - line_start + 1,
            message: message.into(),
        }
    }

    fn kinds(&self, words: &Spanned<Words>) -> Result<Vec<FactKind>, RuleError> {
        let mut kinds = Vec::new();
        for word in words.get_ref().list() {
            if let Some(role) = word.strip_prefix("role:") {
                let wanted = match role {
                    "symptom" => Role::Symptom,
                    "cause" => Role::Cause,
                    _ => {
                        return Err(self
                            .at(&words.span(), format!("`{word}` is neither role:symptom nor role:cause")));
                    }
                };
                kinds.extend(FACT_KINDS.iter().filter(|info| info.role == wanted).map(|info| info.kind));
                continue;
            }
            kinds.push(FactKind::from_name(word).ok_or_else(|| {
                let near = nearest(word, FACT_KINDS.iter().map(|info| info.name));
                self.at(&words.span(), format!("unknown kind of fact `{word}`; did you mean `{near}`?"))
            })?);
        }
        if kinds.is_empty() {
            return Err(self.at(&words.span(), "at least one kind of fact is needed"));
        }
        Ok(kinds)
    }

    fn keys(&self, words: &Spanned<Words>) -> Result<Vec<KeyKind>, RuleError> {
        let mut keys = Vec::new();
        for word in words.get_ref().list() {
            keys.push(key_kind(word).ok_or_else(|| {
                let near = nearest(word, super::KEY_NAMES.iter().map(|&(name, _)| name));
                self.at(&words.span(), format!("unknown key `{word}`; did you mean `{near}`?"))
            })?);
        }
        // The strongest first: it names the edge.
        keys.sort_unstable();
        Ok(keys)
    }

    fn time(&self, text: &Text, longest_ns: u64) -> Result<u64, RuleError> {
        let time = humantime::parse_duration(text.get_ref()).map_err(|error| {
            self.at(&text.span(), format!("`{}` is no time, for example 30s: {error}", text.get_ref()))
        })?;
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        if ns > longest_ns {
            let longest = humantime::format_duration(Duration::from_nanos(longest_ns));
            let message = format!(
                "a window of {} is longer than facts are kept for this: {longest} at most",
                text.get_ref()
            );
            return Err(self.at(&text.span(), message));
        }
        Ok(ns)
    }

    fn when(&self, texts: &[Text], sides: &[(Side, &[FactKind])]) -> Result<Vec<Condition>, RuleError> {
        let mut conditions = Vec::new();
        for text in texts {
            let condition = Condition::parse(text.get_ref()).map_err(|why| self.at(&text.span(), why))?;
            let Some((_, kinds)) = sides.iter().find(|(side, _)| *side == condition.side) else {
                let known: Vec<String> =
                    sides.iter().map(|(side, _)| format!("{side:?}").to_lowercase()).collect();
                let message = format!(
                    "`{}` reads a fact that is not here; here are: {}",
                    text.get_ref(),
                    known.join(", ")
                );
                return Err(self.at(&text.span(), message));
            };
            if let Some(name) = condition.unknown_detail(kinds) {
                let message = format!("no fact of these kinds has the detail `{name}`");
                return Err(self.at(&text.span(), message));
            }
            conditions.push(condition);
        }
        Ok(conditions)
    }

    fn share(&self, number: &Spanned<f64>) -> Result<f64, RuleError> {
        let value = *number.get_ref();
        if (0.0..=1.0).contains(&value) {
            Ok(value)
        } else {
            Err(self.at(&number.span(), "a confidence is from 0 to 1"))
        }
    }

    fn rule(&self, raw: &RawRule) -> Result<Rule, RuleError> {
        let part = match raw.part.as_ref().map(|part| part.get_ref().as_str()) {
            None | Some("causes") => Part::Causes,
            Some("repeats") => Part::Repeats,
            Some("silences") => Part::Silences,
            Some("contributes") => Part::Contributes,
            Some("supports") => Part::Supports,
            Some(other) => {
                let span = raw.part.as_ref().map_or(0..0, Spanned::span);
                let message =
                    format!("`{other}` is none of causes, repeats, silences, contributes, supports");
                return Err(self.at(&span, message));
            }
        };
        let longest = if matches!(part, Part::Causes | Part::Repeats) {
            CAUSE_WINDOW_NS_MAX
        } else {
            CONTEXT_WINDOW_NS_MAX
        };
        let causes = self.kinds(&raw.cause)?;
        let effects = self.kinds(&raw.effect)?;
        let sides: [(Side, &[FactKind]); 4] = [
            (Side::Cause, &causes),
            (Side::Effect, &effects),
            (Side::Same, &causes),
            (Side::Differs, &causes),
        ];
        let when = self.when(&raw.when, &sides)?;
        let mut evidence = Vec::new();
        for piece in &raw.evidence {
            evidence.push(self.evidence(piece, longest)?);
        }
        let keys = raw.keys.as_ref().map_or(Ok(Vec::new()), |keys| self.keys(keys))?;
        let via = raw.via.as_ref().map(|via| via.get_ref().list().to_vec()).unwrap_or_default();
        if keys.is_empty() && via.is_empty() && !raw.same_subject {
            let message = "time alone licenses nothing: give `keys`, `via` or `same_subject = true`";
            return Err(self.at(&raw.name.span(), message));
        }
        let rule = Rule {
            name: raw.name.get_ref().clone(),
            part,
            keys,
            same_subject: raw.same_subject,
            via,
            same_run: raw.same_run,
            window_ns: self.time(&raw.window, longest)?,
            slack_ns: raw.slack.as_ref().map_or(Ok(0), |slack| self.time(slack, CAUSE_WINDOW_NS_MAX))?,
            confidence: raw.confidence.as_ref().map_or(Ok(1.0), |share| self.share(share))?,
            causes,
            effects,
            when,
            evidence,
            text: raw.text.clone(),
        };
        super::check::rule(&rule).map_err(|why| self.at(&raw.name.span(), why))?;
        Ok(rule)
    }

    fn evidence(&self, raw: &RawEvidence, longest: u64) -> Result<Evidence, RuleError> {
        let kinds = self.kinds(&raw.kind)?;
        let near = match raw.near.as_ref().map(|near| near.get_ref().as_str()) {
            None | Some("effect") => Side::Effect,
            Some("cause") => Side::Cause,
            Some(other) => {
                let span = raw.near.as_ref().map_or(0..0, Spanned::span);
                return Err(self.at(&span, format!("`{other}` is neither cause nor effect")));
            }
        };
        let source = Source::ALL
            .into_iter()
            .find(|source| source.name() == raw.source.get_ref())
            .ok_or_else(|| {
                let names = Source::ALL.map(Source::name).join(", ");
                self.at(
                    &raw.source.span(),
                    format!("unknown source `{}`; sources are {names}", raw.source.get_ref()),
                )
            })?;
        let need = match (raw.required, raw.excluded) {
            (false, false) => Need::Weighs,
            (true, false) => Need::Required,
            (false, true) => Need::Excluded,
            (true, true) => {
                return Err(self.at(&raw.kind.span(), "evidence is required or excluded, not both"));
            }
        };
        let sides: [(Side, &[FactKind]); 3] =
            [(Side::Fact, &kinds), (Side::Same, &kinds), (Side::Differs, &kinds)];
        let when = self.when(&raw.when, &sides)?;
        Ok(Evidence {
            near,
            keys: self.keys(&raw.keys)?,
            window_ns: self.time(&raw.window, longest)?,
            present: raw.present,
            absent: raw.absent,
            need,
            source,
            when,
            kinds,
        })
    }

    fn root(&self, raw: &RawRoot) -> Result<RootWords, RuleError> {
        let kinds = self.kinds(&raw.kind)?;
        let named = match &raw.named {
            None => None,
            Some(name) => Some(FactKind::from_name(name.get_ref()).ok_or_else(|| {
                let near = nearest(name.get_ref(), FACT_KINDS.iter().map(|info| info.name));
                let message = format!("unknown kind of fact `{}`; did you mean `{near}`?", name.get_ref());
                self.at(&name.span(), message)
            })?),
        };
        let mut actions = Vec::new();
        for action in &raw.action {
            let when = self.when(&action.when, &[(Side::Fact, &kinds)])?;
            actions.push(Action { when, text: action.text.clone() });
        }
        Ok(RootWords { kinds, open: raw.open, named, text: raw.text.clone(), actions })
    }

    fn shows(&self, raw: &RawShows) -> Result<Shows, RuleError> {
        let kinds = self.kinds(&raw.kind)?;
        let mut details = Vec::new();
        for detail in &raw.detail {
            let name = detail.get_ref();
            if !kinds.iter().any(|&kind| is_detail(kind, name)) {
                let message = format!("no fact of these kinds has the detail `{name}`");
                return Err(self.at(&detail.span(), message));
            }
            details.push(name.clone());
        }
        Ok(Shows { name: raw.name.get_ref().clone(), kinds, details })
    }
}

/// The files read so far.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub(super) rules: Vec<(Rule, RuleError)>,
    mutes: Vec<Mute>,
    roots: Vec<RootWords>,
    culprits: Vec<Culprit>,
    shows: Vec<Shows>,
}

/// Puts an entry in the place of the one of the same name, or at the end.
fn replace<Entry>(entries: &mut Vec<Entry>, entry: Entry, same: impl Fn(&Entry, &Entry) -> bool) {
    match entries.iter_mut().find(|old| same(old, &entry)) {
        Some(old) => *old = entry,
        None => entries.push(entry),
    }
}

impl Parts {
    pub(super) fn add(&mut self, name: &str, text: &str) -> Result<(), RuleError> {
        let file = File { name, text };
        let raw: RawFile = toml::from_str(text)
            .map_err(|error| file.at(&error.span().unwrap_or(0..0), error.message().trim()))?;
        let mut seen = std::collections::BTreeSet::new();
        for rule in &raw.rule {
            if !seen.insert(rule.name.get_ref().as_str()) {
                return Err(file
                    .at(&rule.name.span(), format!("a second rule `{}` in this file", rule.name.get_ref())));
            }
            // Where it stands, for what only the whole set shows.
            let place = file.at(&rule.name.span(), "");
            replace(&mut self.rules, (file.rule(rule)?, place), |a, b| a.0.name == b.0.name);
            if self.rules.len() > RULES_MAX {
                return Err(file.at(&rule.name.span(), format!("more than {RULES_MAX} rules")));
            }
        }
        for mute in &raw.mute {
            let kinds = file.kinds(&mute.kind)?;
            let when = file.when(&mute.when, &[(Side::Fact, &kinds)])?;
            let entry = Mute { name: mute.name.get_ref().clone(), kinds, when };
            replace(&mut self.mutes, entry, |a, b| a.name == b.name);
        }
        for root in &raw.root {
            let entry = file.root(root)?;
            // The last one for a kind counts.
            for old in &mut self.roots {
                old.kinds.retain(|kind| !entry.kinds.contains(kind));
            }
            self.roots.push(entry);
        }
        for culprit in &raw.culprit {
            let kinds = file.kinds(&culprit.kind)?;
            let when = file.when(&culprit.when, &[(Side::Fact, &kinds)])?;
            let entry = Culprit {
                name: culprit.name.get_ref().clone(),
                kinds,
                resource: culprit.resource.clone(),
                keys: file.keys(&culprit.keys)?,
                when,
            };
            replace(&mut self.culprits, entry, |a, b| a.name == b.name);
        }
        for shows in &raw.shows {
            replace(&mut self.shows, file.shows(shows)?, |a, b| a.name == b.name);
        }
        Ok(())
    }

    pub(super) fn into_set(self) -> RuleSet {
        let mut set = RuleSet {
            rules: self.rules.into_iter().map(|(rule, _)| rule).collect(),
            mutes: self.mutes,
            roots: self.roots,
            culprits: self.culprits,
            shows: self.shows,
            by_cause: Vec::new(),
            by_effect: Vec::new(),
            by_evidence: Vec::new(),
        };
        set.index();
        set
    }
}

/// The word of the list that is most like this one.
fn nearest<'list>(word: &str, list: impl Iterator<Item = &'list str>) -> &'list str {
    list.min_by_key(|known| distance(word.as_bytes(), known.as_bytes())).unwrap_or("")
}

/// How many letters to change, add or leave out.
fn distance(one: &[u8], other: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, letter) in one.iter().enumerate() {
        let mut diagonal = index;
        let mut left = index + 1;
        for (cell, against) in row.iter_mut().skip(1).zip(other) {
            let changed = diagonal + usize::from(letter != against);
            diagonal = *cell;
            left = changed.min(left + 1).min(diagonal + 1);
            *cell = left;
        }
        row[0] = index + 1;
    }
    row.last().copied().unwrap_or(0)
}
