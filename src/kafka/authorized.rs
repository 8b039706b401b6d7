//! Which operations a client may do, for answers that name them (KIP-430). Without an authorizer every client may do
//! everything, and answers say so, as Kafka's do: some switch features off when the answer is missing.

/// The value of an answer that was not asked for it.
pub const NOT_ASKED: i32 = i32::MIN;

/// Kafka's numbers of operations (`AclOperation`).
const READ: u8 = 3;
const WRITE: u8 = 4;
const CREATE: u8 = 5;
const DELETE: u8 = 6;
const ALTER: u8 = 7;
const DESCRIBE: u8 = 8;
const CLUSTER_ACTION: u8 = 9;
const DESCRIBE_CONFIGS: u8 = 10;
const ALTER_CONFIGS: u8 = 11;
const IDEMPOTENT_WRITE: u8 = 12;

/// On a topic (`AclEntry.supportedOperations`).
pub const ON_TOPIC: i32 = bits(&[READ, WRITE, CREATE, DESCRIBE, DELETE, ALTER, DESCRIBE_CONFIGS, ALTER_CONFIGS]);
pub const ON_GROUP: i32 = bits(&[READ, DESCRIBE, DELETE, DESCRIBE_CONFIGS, ALTER_CONFIGS]);
pub const ON_CLUSTER: i32 =
    bits(&[CREATE, CLUSTER_ACTION, DESCRIBE_CONFIGS, ALTER_CONFIGS, IDEMPOTENT_WRITE, ALTER, DESCRIBE]);

/// `operations` if they are asked for.
#[must_use]
pub const fn if_asked(asked: bool, operations: i32) -> i32 {
    if asked { operations } else { NOT_ASKED }
}

const fn bits(operations: &[u8]) -> i32 {
    let (mut field, mut n) = (0, 0);
    while n < operations.len() {
        field |= 1 << operations[n];
        n += 1;
    }
    field
}
