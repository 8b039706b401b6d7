//! Random histories of a simple writer, followed step by step: what is followed is what the bucket has.
