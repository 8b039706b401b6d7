//! [`BadValue`]: why a value is not a row.

/// Why a value is not a row. `at` is the byte before which it was seen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{fault} (byte {at})")]
pub struct BadValue {
    pub at: usize,
    pub fault: Fault,
}

/// What is wrong with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("the value ends too early")]
    Short,
    #[error("{0} bytes follow the value")]
    Long(usize),
    #[error("a number has more than 64 bits")]
    Varint,
    #[error("an int has more than 32 bits")]
    Int,
    #[error("a length is negative or too large")]
    Length,
    #[error("a boolean is {0}")]
    Boolean(u8),
    #[error("a string is not UTF-8")]
    Utf8,
    #[error("a union has no branch {0}")]
    Branch(i64),
    #[error("an enum has no symbol {0}")]
    Symbol(i64),
    #[error("a block has another size than it says")]
    Block,
    #[error("a map has a key twice")]
    Key,
    #[error("a decimal has more digits than its type allows, or none")]
    Decimal,
    #[error("a UUID cannot be read")]
    Uuid,
    #[error("a date or time is outside of the years 1 to 9999, or of a day")]
    Time,
    /// Also where the caller's limit has no room for it: the caller knows which.
    #[error("its columns take more than the {0} bytes allowed")]
    Large(usize),
    /// Not the value's fault: the columns have 2 GiB of text or 2^31 items and have to be written first.
    #[error("a column is full")]
    Full,
    #[error("it is not JSON")]
    Syntax,
    #[error("it is nested too deep")]
    Deep,
    #[error("{0} is expected here")]
    Type(&'static str),
    #[error("a field has no number, or a wire type that there is not")]
    Tag,
    #[error("field {0} is not written as its type is")]
    Wire(u32),
    #[error("a group does not end, or ends where none began")]
    Group,
    #[error("field {0} is required and missing")]
    Required(u32),
    #[error("a duration is longer than 10,000 years, or its parts have two signs")]
    Duration,
    /// A long that no double equals, or a number of JSON beyond 64 bits.
    #[error("a number is out of the range of its column")]
    Range,
}

impl Fault {
    /// Whether the bytes are not a value of the schema; else they are, but no row.
    #[must_use]
    pub fn is_malformed(self) -> bool {
        !matches!(
            self,
            Self::Key
                | Self::Range
                | Self::Decimal
                | Self::Uuid
                | Self::Time
                | Self::Duration
                | Self::Large(_)
                | Self::Full
        )
    }
}
