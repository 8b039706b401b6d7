//! JSON Schema: does the newer schema accept all that the older one accepts?
//!
//! Two schemas are walked together, each seen as its [`View`]. A change that only widens is no difference; every
//! other is reported with the path at which it is. The rule that surprises: an object that allows any further
//! property (an open content model) has already allowed the property that is added, with any value, so adding one
//! narrows it; an object that allows none may not lose a property.

mod view;

use std::collections::{BTreeSet, HashSet};

use regex::Regex;

use super::super::canonical::json_schema::JsonSchema;
use super::super::json::Json;
use super::super::limits::{COMPARISON_DEPTH_MAX, COMPARISONS_MAX, DIFFERENCES_MAX};
use super::Sides;
use view::{Criterion, Kind, Operand, View};

/// Why `reader` does not accept what `writer` accepts, as Confluent's registry names it.
#[must_use]
pub fn differences(reader: &JsonSchema, writer: &JsonSchema, sides: Sides) -> Vec<String> {
    let found = compare(reader, writer);
    found.iter().take(DIFFERENCES_MAX).map(|difference| difference.message(sides)).collect()
}

fn compare(reader: &JsonSchema, writer: &JsonSchema) -> Vec<Difference> {
    let mut walk = Walk {
        old: writer,
        new: reader,
        path: Vec::new(),
        found: Vec::new(),
        seen: HashSet::new(),
        trail: Vec::new(),
        depth: 0,
        left: COMPARISONS_MAX,
    };
    walk.compare(&Operand::At(writer.root()), &Operand::At(reader.root()));
    if walk.left == 0 {
        walk.add("TOO_LARGE", None);
    }
    walk.found
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Difference {
    kind: &'static str,
    path: String,
}

impl Difference {
    fn message(&self, Sides { reader, writer }: Sides) -> String {
        let Self { kind, path } = self;
        let what = match *kind {
            "TYPE_CHANGED"
            | "TYPE_NARROWED"
            | "COMBINED_TYPE_CHANGED"
            | "COMBINED_TYPE_SUBSCHEMAS_CHANGED"
            | "ENUM_ARRAY_CHANGED" => {
                format!("A type at path '{path}' is different between the {reader} schema and the {writer} schema")
            }
            "PROPERTY_ADDED_TO_OPEN_CONTENT_MODEL" | "ITEM_ADDED_TO_OPEN_CONTENT_MODEL" => format!(
                "The {reader} schema has a property or item at path '{path}' that is missing in the {writer} schema, which has an open content model"
            ),
            "REQUIRED_PROPERTY_ADDED_TO_UNOPEN_CONTENT_MODEL" => format!(
                "The {reader} schema has a required property at path '{path}' that is missing in the {writer} schema"
            ),
            "PROPERTY_REMOVED_FROM_CLOSED_CONTENT_MODEL" | "ITEM_REMOVED_FROM_CLOSED_CONTENT_MODEL" => format!(
                "The {reader} schema has a closed content model and lacks a property or item at path '{path}' that the {writer} schema has"
            ),
            kind if kind.ends_with("_BY_PARTIALLY_OPEN_CONTENT_MODEL") => format!(
                "A property or item at path '{path}' in one of the {reader} and {writer} schemas is not covered by the partially open content model of the other"
            ),
            kind if kind.ends_with("_INCREASED") || kind == "MULTIPLE_OF_EXPANDED" => {
                format!(
                    "The value at path '{path}' in the {reader} schema is more than its value in the {writer} schema"
                )
            }
            kind if kind.ends_with("_DECREASED") => {
                format!(
                    "The value at path '{path}' in the {reader} schema is less than its value in the {writer} schema"
                )
            }
            kind if kind.ends_with("_NARROWED") => {
                format!("The {reader} schema allows less at path '{path}' than the {writer} schema")
            }
            kind if kind.ends_with("_EXTENDED") => {
                format!("The {reader} schema demands more at path '{path}' than the {writer} schema")
            }
            kind if kind.ends_with("_CHANGED") => {
                format!("The value at path '{path}' is different between the {reader} and {writer} schema")
            }
            kind if kind.ends_with("_ADDED") || kind.ends_with("_REMOVED") => {
                format!("The keyword at path '{path}' in the {reader} schema narrows what the {writer} schema allows")
            }
            _ => format!("The {reader} and {writer} schemas are too large or too deep to compare"),
        };
        format!("{{errorType:\"{kind}\", description:\"{what}\"}}")
    }
}

struct Walk<'a> {
    old: &'a JsonSchema,
    new: &'a JsonSchema,
    path: Vec<String>,
    found: Vec<Difference>,
    /// Pairs of places that are being compared or were.
    seen: HashSet<(usize, usize)>,
    /// What is in `seen`, in order: an attempt takes its own out again.
    trail: Vec<(usize, usize)>,
    /// Comparisons that may still be made; none when it went too deep.
    left: usize,
    depth: usize,
}

impl<'a> Walk<'a> {
    fn add(&mut self, kind: &'static str, step: Option<&str>) {
        let path: Vec<&str> = self.path.iter().map(String::as_str).chain(step).collect();
        self.found.push(Difference { kind, path: format!("#/{}", path.join("/")) });
    }

    fn inside(&mut self, step: &str, of: impl FnOnce(&mut Self)) {
        self.path.push(step.to_owned());
        of(self);
        self.path.pop();
    }

    /// The differences between two schemas, without reporting them.
    fn attempt(&mut self, old: &Operand<'a>, new: &Operand<'a>) -> Vec<Difference> {
        let found = std::mem::take(&mut self.found);
        let mark = self.trail.len();
        self.compare(old, new);
        for pair in self.trail.drain(mark..) {
            self.seen.remove(&pair);
        }
        std::mem::replace(&mut self.found, found)
    }

    fn fits(&mut self, old: &Operand<'a>, new: &Operand<'a>) -> bool {
        self.attempt(old, new).is_empty()
    }

    fn compare(&mut self, old: &Operand<'a>, new: &Operand<'a>) {
        if self.depth >= COMPARISON_DEPTH_MAX || self.found.len() > DIFFERENCES_MAX {
            self.left = 0;
        }
        self.depth += 1;
        self.compare_once(old, new);
        self.depth -= 1;
    }

    fn compare_once(&mut self, old: &Operand<'a>, new: &Operand<'a>) {
        let Some(left) = self.left.checked_sub(1) else { return };
        self.left = left;
        if let (Operand::At(old), Operand::At(new)) = (old, new) {
            let place = |at: view::At<'_>| std::ptr::from_ref(at.json) as usize;
            let pair = (place(view::landed(self.old, *old)), place(view::landed(self.new, *new)));
            if !self.seen.insert(pair) {
                return;
            }
            self.trail.push(pair);
        }
        let (old, new) = (view::of(self.old, old), view::of(self.new, new));
        if self.over_combined(&old, &new) {
            return;
        }
        match (&old, &new) {
            (View::Typed(from, before), View::Typed(to, after)) if from.is_like(*to) => {
                self.typed((*from, *before), (*to, *after));
            }
            (View::Enum(from), View::Enum(to)) => {
                let (grows, shrinks) = (from.iter().all(|v| to.contains(v)), to.iter().all(|v| from.contains(v)));
                match (grows, shrinks) {
                    (true, _) => {}
                    (false, true) => self.add("ENUM_ARRAY_NARROWED", Some("enum")),
                    (false, false) => self.add("ENUM_ARRAY_CHANGED", Some("enum")),
                }
            }
            (View::Const(from), View::Const(to)) => {
                if from != to {
                    self.add("ENUM_ARRAY_CHANGED", Some("const"));
                }
            }
            (View::Not(from), View::Not(to)) => {
                // What is excluded may only shrink. Sides are changed here, so both walks go the other way round.
                let mut other = Walk {
                    old: self.new,
                    new: self.old,
                    path: Vec::new(),
                    found: Vec::new(),
                    seen: HashSet::new(),
                    trail: Vec::new(),
                    depth: self.depth,
                    left: self.left,
                };
                let shrinks = other.fits(&Operand::At(*to), &Operand::At(*from));
                self.left = other.left;
                if !shrinks {
                    self.add("NOT_TYPE_EXTENDED", Some("not"));
                }
            }
            (View::Combined(from, before), View::Combined(to, after)) => self.combined((*from, before), (*to, after)),
            (View::Conditional(from), View::Conditional(to)) => {
                if from.json != to.json {
                    self.add("TYPE_CHANGED", None);
                }
            }
            (View::Empty, View::Empty) | (View::False, _) | (_, View::Empty) => {}
            _ => self.add("TYPE_CHANGED", None),
        }
    }

    /// A schema beside a combination: it may be one of several that are accepted, or all that were demanded.
    fn over_combined(&mut self, old: &View<'a>, new: &View<'a>) -> bool {
        let part = |view: &View<'a>| Operand::Part(Box::new(view.clone()));
        match (old, new) {
            (View::Combined(..), View::Combined(..)) => false,
            (_, View::Combined(criterion, subs)) if subs.len() == 1 || *criterion != Criterion::All => {
                subs.iter().any(|sub| self.fits(&part(old), sub))
            }
            (View::Combined(criterion, subs), _) if subs.len() == 1 || *criterion == Criterion::All => {
                subs.iter().any(|sub| self.fits(sub, &part(new)))
            }
            // All of the older alternatives are accepted.
            (View::Combined(_, subs), _) => !subs.is_empty() && subs.iter().all(|sub| self.fits(sub, &part(new))),
            _ => false,
        }
    }

    fn combined(&mut self, old: (Criterion, &[Operand<'a>]), new: (Criterion, &[Operand<'a>])) {
        let ((from, before), (to, after)) = (old, new);
        if from != to && to != Criterion::Any && before.len() > 1 && after.len() > 1 {
            return self.add("COMBINED_TYPE_CHANGED", None);
        }
        match (to, before.len().cmp(&after.len())) {
            (Criterion::All, std::cmp::Ordering::Less) => self.add("PRODUCT_TYPE_EXTENDED", Some(to.keyword())),
            (Criterion::Any | Criterion::One, std::cmp::Ordering::Greater) => {
                self.add("SUM_TYPE_NARROWED", Some(to.keyword()));
            }
            _ => {}
        }
        let fitting: Vec<Vec<usize>> = before
            .iter()
            .map(|old| (0..after.len()).filter(|n| after.get(*n).is_some_and(|new| self.fits(old, new))).collect())
            .collect();
        if matching(&fitting, after.len()) < before.len().min(after.len()) {
            self.add("COMBINED_TYPE_SUBSCHEMAS_CHANGED", Some(to.keyword()));
        }
    }

    fn typed(&mut self, old: (Kind, view::At<'a>), new: (Kind, view::At<'a>)) {
        let ((from, before), (to, after)) = (old, new);
        let (old, new) = (before.json, after.json);
        match to {
            Kind::String => {
                self.upper("maxLength", "MAX_LENGTH", old, new);
                self.lower("minLength", "MIN_LENGTH", old, new);
                match (old.get("pattern"), new.get("pattern")) {
                    (None, Some(_)) => self.add("PATTERN_ADDED", Some("pattern")),
                    (Some(old), Some(new)) if old != new => self.add("PATTERN_CHANGED", Some("pattern")),
                    _ => {}
                }
            }
            Kind::Number | Kind::Integer => {
                self.upper("maximum", "MAXIMUM", old, new);
                self.lower("minimum", "MINIMUM", old, new);
                self.upper("exclusiveMaximum", "EXCLUSIVE_MAXIMUM", old, new);
                self.lower("exclusiveMinimum", "EXCLUSIVE_MINIMUM", old, new);
                self.multiple(old, new);
                if (from, to) == (Kind::Number, Kind::Integer) {
                    self.add("TYPE_NARROWED", None);
                }
            }
            Kind::Boolean | Kind::Null => {}
            Kind::Object => self.objects(before, after),
            Kind::Array => self.arrays(before, after),
        }
    }

    /// A keyword that may rise or go.
    fn upper(&mut self, keyword: &'static str, name: &str, old: &Json, new: &Json) {
        match (number(old, keyword), number(new, keyword)) {
            (None, Some(_)) => self.add(kind(name, "_ADDED"), Some(keyword)),
            (Some(old), Some(new)) if new < old => self.add(kind(name, "_DECREASED"), Some(keyword)),
            _ => {}
        }
    }

    /// A keyword that may fall or go.
    fn lower(&mut self, keyword: &'static str, name: &str, old: &Json, new: &Json) {
        match (number(old, keyword), number(new, keyword)) {
            (None, Some(_)) => self.add(kind(name, "_ADDED"), Some(keyword)),
            (Some(old), Some(new)) if new > old => self.add(kind(name, "_INCREASED"), Some(keyword)),
            _ => {}
        }
    }

    fn multiple(&mut self, old: &Json, new: &Json) {
        let is_multiple = |of: f64, by: f64| by != 0.0 && (of / by).fract() == 0.0;
        match (number(old, "multipleOf"), number(new, "multipleOf")) {
            (None, Some(_)) => self.add("MULTIPLE_OF_ADDED", Some("multipleOf")),
            (Some(old), Some(new)) if is_multiple(old, new) => {}
            (Some(old), Some(new)) if is_multiple(new, old) => self.add("MULTIPLE_OF_EXPANDED", Some("multipleOf")),
            (Some(_), Some(_)) => self.add("MULTIPLE_OF_CHANGED", Some("multipleOf")),
            _ => {}
        }
    }

    fn objects(&mut self, old: view::At<'a>, new: view::At<'a>) {
        let (before, after) = (view::members(old.json, "properties"), view::members(new.json, "properties"));
        let (required_before, required_after) = (view::required(old.json), view::required(new.json));
        let has_default = |name: &str| after.iter().any(|(n, schema)| n == name && schema.get("default").is_some());
        self.inside("required", |walk| {
            for (name, _) in before.iter().filter(|(name, _)| after.iter().any(|(other, _)| other == name)) {
                let added = required_after.contains(name.as_str()) && !required_before.contains(name.as_str());
                if added && !has_default(name) {
                    walk.add("REQUIRED_ATTRIBUTE_ADDED", Some(name));
                }
            }
        });
        self.inside("properties", |walk| {
            for (name, schema) in before {
                let kept = after.iter().find(|(other, _)| other == name);
                walk.inside(name, |walk| match kept {
                    Some((_, kept)) => walk.compare(&Operand::At(old.at(schema)), &Operand::At(new.at(kept))),
                    None => walk.removed("PROPERTY", old.at(schema), new, view::content(new, name)),
                });
            }
            let added = after.iter().filter(|(name, _)| !before.iter().any(|(other, _)| other == name));
            for (name, schema) in added {
                let content = view::content(old, name);
                let is_open = matches!(content, view::Content::Open);
                walk.inside(name, |walk| {
                    walk.added("PROPERTY", new.at(schema), content);
                    if !is_open && required_after.contains(name.as_str()) && schema.get("default").is_none() {
                        walk.add("REQUIRED_PROPERTY_ADDED_TO_UNOPEN_CONTENT_MODEL", None);
                    }
                });
            }
        });
        self.dependencies(old, new);
        let rest = (view::rest(old, "additionalProperties"), view::rest(new, "additionalProperties"));
        self.inside("additionalProperties", |walk| walk.rest("ADDITIONAL_PROPERTIES", rest));
        self.upper("maxProperties", "MAX_PROPERTIES", old.json, new.json);
        self.lower("minProperties", "MIN_PROPERTIES", old.json, new.json);
    }

    /// A property or item that only the older schema has; `content` is what the newer one allows there.
    fn removed(&mut self, what: &str, old: view::At<'a>, _: view::At<'a>, content: view::Content<'a>) {
        match content {
            view::Content::Open => {}
            view::Content::Partial(schema) => {
                let found = self.attempt(&Operand::At(old), &Operand::At(schema));
                if !found.is_empty() {
                    self.found.extend(found);
                    self.add(kind(what, "_REMOVED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL"), None);
                }
            }
            view::Content::Closed => {
                if !matches!(view::of(self.old, &Operand::At(old)), View::False) {
                    self.add(kind(what, "_REMOVED_FROM_CLOSED_CONTENT_MODEL"), None);
                }
            }
        }
    }

    /// One that only the newer schema has; `content` is what the older one allows there.
    fn added(&mut self, what: &str, new: view::At<'a>, content: view::Content<'a>) {
        match content {
            view::Content::Open => {
                if !matches!(view::of(self.new, &Operand::At(new)), View::Empty) {
                    self.add(kind(what, "_ADDED_TO_OPEN_CONTENT_MODEL"), None);
                }
            }
            view::Content::Partial(schema) => {
                let found = self.attempt(&Operand::At(schema), &Operand::At(new));
                if !found.is_empty() {
                    self.found.extend(found);
                    self.add(kind(what, "_ADDED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL"), None);
                }
            }
            view::Content::Closed => {}
        }
    }

    /// What an object or array allows besides what it names.
    fn rest(&mut self, name: &str, (old, new): (view::Content<'a>, view::Content<'a>)) {
        use view::Content::{Closed, Open, Partial};
        match (old, new) {
            (Open | Partial(_), Closed) => self.add(kind(name, "_REMOVED"), None),
            (Open, Partial(_)) => self.add(kind(name, "_NARROWED"), None),
            (Partial(old), Partial(new)) => self.compare(&Operand::At(old), &Operand::At(new)),
            (Open | Partial(_) | Closed, Open) | (Closed, Closed | Partial(_)) => {}
        }
    }

    fn dependencies(&mut self, old: view::At<'a>, new: view::At<'a>) {
        self.inside("dependencies", |walk| {
            for (name, value) in view::dependencies(new.json) {
                let before = view::dependencies(old.json).into_iter().find(|(other, _)| *other == name);
                walk.inside(name, |walk| match (before.map(|(_, value)| value), value) {
                    (None, Json::Array(_)) => walk.add("DEPENDENCY_ARRAY_ADDED", None),
                    (None, _) => walk.add("DEPENDENCY_SCHEMA_ADDED", None),
                    (Some(Json::Array(from)), Json::Array(to)) => {
                        match (to.iter().all(|v| from.contains(v)), from.iter().all(|v| to.contains(v))) {
                            (true, _) => {}
                            (false, true) => walk.add("DEPENDENCY_ARRAY_EXTENDED", None),
                            (false, false) => walk.add("DEPENDENCY_ARRAY_CHANGED", None),
                        }
                    }
                    (Some(before), after) => walk.compare(&Operand::At(old.at(before)), &Operand::At(new.at(after))),
                });
            }
        });
    }

    fn arrays(&mut self, old: view::At<'a>, new: view::At<'a>) {
        let (before, after) = (view::tuple(old.json), view::tuple(new.json));
        if before.is_none() && after.is_none() {
            self.inside("items", |walk| match (old.json.get("items"), new.json.get("items")) {
                (None, Some(items)) => {
                    if !matches!(view::of(walk.new, &Operand::At(new.at(items))), View::Empty) {
                        walk.add("ADDITIONAL_ITEMS_NARROWED", None);
                    }
                }
                (Some(from), Some(to)) => walk.compare(&Operand::At(old.at(from)), &Operand::At(new.at(to))),
                (_, None) => {}
            });
        } else {
            // All items of an array without a tuple are its rest.
            let (before, after) = (before.unwrap_or(&[]), after.unwrap_or(&[]));
            let (rest_before, rest_after) = (view::items_rest(old), view::items_rest(new));
            self.inside("items", |walk| {
                for n in 0..before.len().max(after.len()) {
                    walk.inside(&n.to_string(), |walk| match (before.get(n), after.get(n)) {
                        (Some(from), Some(to)) => walk.compare(&Operand::At(old.at(from)), &Operand::At(new.at(to))),
                        (Some(from), None) => walk.removed("ITEM", old.at(from), new, rest_after),
                        (None, Some(to)) => walk.added("ITEM", new.at(to), rest_before),
                        (None, None) => {}
                    });
                }
            });
            self.inside("additionalItems", |walk| walk.rest("ADDITIONAL_ITEMS", (rest_before, rest_after)));
        }
        self.upper("maxItems", "MAX_ITEMS", old.json, new.json);
        self.lower("minItems", "MIN_ITEMS", old.json, new.json);
        let unique = |json: &Json| json.get("uniqueItems").and_then(Json::as_bool).unwrap_or_default();
        if unique(new.json) && !unique(old.json) {
            self.add("UNIQUE_ITEMS_ADDED", Some("uniqueItems"));
        }
    }
}

fn number(json: &Json, keyword: &str) -> Option<f64> {
    json.get(keyword).and_then(Json::as_f64)
}

/// The names of differences are a closed set; this finds the one that two parts make.
fn kind(name: &str, ending: &str) -> &'static str {
    let wanted = format!("{name}{ending}");
    let known = KINDS.iter().find(|kind| **kind == wanted);
    debug_assert!(known.is_some(), "{wanted} is no difference");
    known.copied().unwrap_or("TYPE_CHANGED")
}

const KINDS: &[&str] = &[
    "MAX_LENGTH_ADDED",
    "MAX_LENGTH_DECREASED",
    "MIN_LENGTH_ADDED",
    "MIN_LENGTH_INCREASED",
    "MAXIMUM_ADDED",
    "MAXIMUM_DECREASED",
    "MINIMUM_ADDED",
    "MINIMUM_INCREASED",
    "EXCLUSIVE_MAXIMUM_ADDED",
    "EXCLUSIVE_MAXIMUM_DECREASED",
    "EXCLUSIVE_MINIMUM_ADDED",
    "EXCLUSIVE_MINIMUM_INCREASED",
    "MAX_PROPERTIES_ADDED",
    "MAX_PROPERTIES_DECREASED",
    "MIN_PROPERTIES_ADDED",
    "MIN_PROPERTIES_INCREASED",
    "MAX_ITEMS_ADDED",
    "MAX_ITEMS_DECREASED",
    "MIN_ITEMS_ADDED",
    "MIN_ITEMS_INCREASED",
    "ADDITIONAL_PROPERTIES_REMOVED",
    "ADDITIONAL_PROPERTIES_NARROWED",
    "ADDITIONAL_ITEMS_REMOVED",
    "ADDITIONAL_ITEMS_NARROWED",
    "PROPERTY_ADDED_TO_OPEN_CONTENT_MODEL",
    "PROPERTY_ADDED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL",
    "PROPERTY_REMOVED_FROM_CLOSED_CONTENT_MODEL",
    "PROPERTY_REMOVED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL",
    "ITEM_ADDED_TO_OPEN_CONTENT_MODEL",
    "ITEM_ADDED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL",
    "ITEM_REMOVED_FROM_CLOSED_CONTENT_MODEL",
    "ITEM_REMOVED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL",
];

/// The most pairs in which each side is used once (augmenting paths); `fitting` lists what each may be paired with.
fn matching(fitting: &[Vec<usize>], others: usize) -> usize {
    fn place(n: usize, fitting: &[Vec<usize>], taken: &mut [Option<usize>], tried: &mut BTreeSet<usize>) -> bool {
        for other in fitting.get(n).into_iter().flatten() {
            if !tried.insert(*other) {
                continue;
            }
            let holder = taken.get(*other).copied().flatten();
            if holder.is_none_or(|holder| place(holder, fitting, taken, tried)) {
                if let Some(slot) = taken.get_mut(*other) {
                    *slot = Some(n);
                }
                return true;
            }
        }
        false
    }
    let mut taken = vec![None; others];
    (0..fitting.len()).filter(|n| place(*n, fitting, &mut taken, &mut BTreeSet::new())).count()
}

/// Does an expression of JSON Schema find something in `text`? One that this library cannot read finds nothing.
fn finds(pattern: &str, text: &str) -> bool {
    Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(text))
}

#[cfg(test)]
mod tests;
