//! What a request names more than once. Kafka refuses such a change, or takes it once; it never makes it twice.

use std::collections::HashSet;
use std::hash::Hash;

/// The names that occur more than once.
pub fn repeated<T: Hash + Eq + Copy>(names: impl IntoIterator<Item = T>) -> HashSet<T> {
    let mut seen = HashSet::new();
    names.into_iter().filter(|name| !seen.insert(*name)).collect()
}

/// Items by topic, in the order in which each topic was first named: a request may name a topic several times.
pub fn by_topic<T: Hash + Eq + Clone, I>(topics: impl IntoIterator<Item = (T, Vec<I>)>) -> Vec<(T, Vec<I>)> {
    let mut places = std::collections::HashMap::new();
    let mut merged: Vec<(T, Vec<I>)> = Vec::new();
    for (topic, items) in topics {
        let place = *places.entry(topic.clone()).or_insert(merged.len());
        match merged.get_mut(place) {
            Some((_, held)) => held.extend(items),
            None => merged.push((topic, items)),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_occur_more_than_once_are_repeated() {
        assert_eq!(repeated(["a", "b", "a", "c", "a"]), HashSet::from(["a"]));
        assert!(repeated([1, 2, 3]).is_empty());
    }

    #[test]
    fn topics_named_several_times_are_merged_in_the_order_of_their_first_mention() {
        let topics = [("b", vec![1, 2]), ("a", vec![3]), ("b", vec![2, 4])];
        assert_eq!(by_topic(topics), [("b", vec![1, 2, 2, 4]), ("a", vec![3])]);
    }
}
