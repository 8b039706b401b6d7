//! Following a source in a simulated world, while it archives.
