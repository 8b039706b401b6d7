//! Brokers over loopback: real sockets and executors.
