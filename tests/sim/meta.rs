//! The simulator itself: a seed is a run.

use crate::run::run;

#[test]
fn the_same_seed_twice_is_the_same_run() {
    for seed in [3, 14] {
        let (once, again) = (run(seed, false), run(seed, false));
        let differ = once.iter().zip(&again).position(|(a, b)| a != b);
        let at = differ.unwrap_or(0);
        assert!(
            once == again,
            "seed {seed} differs at {at} of {} and {}: {:?} and {:?}",
            once.len(),
            again.len(),
            once.get(at),
            again.get(at)
        );
        assert!(once.len() > 10, "seed {seed} does something");
    }
}
