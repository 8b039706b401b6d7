//! Random Avro schemas, values of them, and damage.

use serde_json::{Value as Json, json};

use crate::columns::fixture::Random;

/// Random schemas and values from a seed.
pub(in super::super) struct Generator {
    random: Random,
    names: usize,
}

impl Generator {
    pub(in super::super) fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), names: 0 }
    }

    /// The next schema has the names of the first one.
    pub(super) fn forget_names(&mut self) {
        self.names = 0;
    }

    fn next(&mut self) -> u64 {
        self.random.next()
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        self.random.below(end)
    }

    /// Mostly a record; now and then anything.
    pub(in super::super) fn schema(&mut self) -> Json {
        if self.below(8) == 0 { self.any(3) } else { self.record(3) }
    }

    fn name(&mut self) -> String {
        self.names += 1;
        format!("n{}", self.names)
    }

    pub(super) fn record(&mut self, depth: usize) -> Json {
        let name = self.name();
        let fields: Vec<Json> =
            (0..self.below(6)).map(|_| json!({"name": self.name(), "type": self.any(depth - 1)})).collect();
        json!({"type": "record", "name": name, "fields": fields})
    }

    fn any(&mut self, depth: usize) -> Json {
        let kinds = if depth == 0 { 22 } else { 28 };
        match self.below(kinds) {
            22 => self.record(depth),
            23 => json!({"type": "array", "items": self.any(depth - 1)}),
            24 => json!({"type": "map", "values": self.any(depth - 1)}),
            25 => json!(["null", self.not_union(depth)]),
            26 | 27 => self.union(depth),
            leaf => self.leaf(leaf),
        }
    }

    fn not_union(&mut self, depth: usize) -> Json {
        loop {
            let kind = self.any(depth);
            if !kind.is_array() && kind != "null" {
                return kind;
            }
        }
    }

    /// No two branches with one name.
    fn union(&mut self, depth: usize) -> Json {
        let mut branches: Vec<Json> = Vec::new();
        for _ in 0..self.below(5) + 1 {
            let branch = if self.below(4) == 0 { json!("null") } else { self.not_union(depth - 1) };
            let name = |kind: &Json| {
                kind.as_str().or(kind["name"].as_str()).or(kind["type"].as_str()).expect("a name").to_owned()
            };
            // The reference takes two types of decimals for the same branch.
            let logical = |kind: &Json| kind["logicalType"].as_str().map(ToOwned::to_owned);
            let is_other = |other: &Json| {
                name(other) != name(&branch) && (logical(other) != logical(&branch) || logical(other).is_none())
            };
            if branches.iter().all(is_other) {
                branches.push(branch);
            }
        }
        Json::Array(branches)
    }

    fn leaf(&mut self, kind: usize) -> Json {
        let logical = |base: &str, word: &str| json!({"type": base, "logicalType": word});
        match kind {
            0 => json!("null"),
            1 => json!("boolean"),
            2 => json!("int"),
            3 => json!("long"),
            4 => json!("float"),
            5 => json!("double"),
            6 => json!("bytes"),
            7 => json!("string"),
            8 => json!({"type": "enum", "name": self.name(), "symbols": ["A", "BB", "CCC"]}),
            9 => json!({"type": "fixed", "name": self.name(), "size": self.below(20) + 1}),
            10 => logical("int", "date"),
            11 => logical("int", "time-millis"),
            12 => logical("long", "time-micros"),
            13 => logical("long", "timestamp-millis"),
            14 => logical("long", "timestamp-micros"),
            15 => logical("long", "timestamp-nanos"),
            16 => logical("long", "local-timestamp-millis"),
            17 => logical("long", "local-timestamp-micros"),
            18 => logical("string", "uuid"),
            19 => {
                let precision = self.below(38) + 1;
                let scale = self.below(precision + 1);
                json!({"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale})
            }
            20 => json!({"type": "fixed", "name": self.name(), "size": 9, "logicalType": "decimal",
                "precision": 20, "scale": 2}),
            _ => json!({"type": "fixed", "name": self.name(), "size": 12, "logicalType": "duration"}),
        }
    }

    /// A value that is a row: no date beyond the years, no key twice.
    pub(in super::super) fn value(&mut self, schema: &Json) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(schema, &mut out);
        out
    }

    fn write(&mut self, schema: &Json, out: &mut Vec<u8>) {
        let word = match schema {
            Json::Array(branches) => {
                let at = self.below(branches.len());
                long(at as i64, out);
                return self.write(&branches[at], out);
            }
            Json::String(word) => word.as_str(),
            schema => schema["logicalType"].as_str().or(schema["type"].as_str()).expect("a type"),
        };
        match word {
            "null" => {}
            "boolean" => out.push((self.next() % 2) as u8),
            "int" => {
                let bits = self.below(32);
                long(i64::from((self.next() as i32) >> bits), out);
            }
            "long" | "timestamp-nanos" => {
                let bits = self.below(64);
                long((self.next() as i64) >> bits, out);
            }
            "float" => out.extend_from_slice(&(self.next() as u32).to_le_bytes()),
            "double" => out.extend_from_slice(&self.next().to_le_bytes()),
            "bytes" => {
                let bytes: Vec<u8> = (0..self.below(20)).map(|_| self.next() as u8).collect();
                sized(&bytes, out);
            }
            "string" => {
                let text: String = (0..self.below(20)).map(|_| ['a', 'ß', '€', '🦀', 'z'][self.below(5)]).collect();
                sized(text.as_bytes(), out);
            }
            "enum" => long(self.below(3) as i64, out),
            "fixed" | "duration" => {
                out.extend((0..schema["size"].as_u64().expect("size")).map(|_| self.next() as u8));
            }
            "date" => long(self.below(3_652_059) as i64 - 719_162, out),
            "time-millis" => long(self.below(86_400_000) as i64, out),
            "time-micros" => long(self.below(86_400_000_000) as i64, out),
            "timestamp-millis" | "local-timestamp-millis" => long(self.below(1 << 45) as i64 - (1 << 44), out),
            "timestamp-micros" | "local-timestamp-micros" => long(self.below(1 << 55) as i64 - (1 << 54), out),
            "uuid" => {
                let id = uuid::Uuid::from_u64_pair(self.next(), self.next()).to_string();
                sized(id.as_bytes(), out);
            }
            "decimal" => {
                let precision = schema["precision"].as_u64().expect("precision") as u32;
                let wide = (u128::from(self.next()) << 64 | u128::from(self.next())) % 10_u128.pow(precision);
                let number = if self.below(2) == 0 { wide as i128 } else { -(wide as i128) };
                match schema["size"].as_u64() {
                    Some(size) => out.extend_from_slice(&number.to_be_bytes()[16 - size as usize..]),
                    None => sized(&number.to_be_bytes(), out),
                }
            }
            "record" => {
                for field in schema["fields"].as_array().expect("fields") {
                    self.write(&field["type"], out);
                }
            }
            "array" => self.blocks(out, |this, _, out| this.write(&schema["items"], out)),
            "map" => self.blocks(out, |this, at, out| {
                sized(format!("k{at}").as_bytes(), out);
                this.write(&schema["values"], out);
            }),
            word => unreachable!("no type {word}"),
        }
    }

    /// Items in one or more blocks, of which some say their size.
    fn blocks(&mut self, out: &mut Vec<u8>, mut item: impl FnMut(&mut Self, usize, &mut Vec<u8>)) {
        let mut at = 0;
        for _ in 0..self.below(3) {
            let count = self.below(4) + 1;
            let mut block = Vec::new();
            for _ in 0..count {
                item(self, at, &mut block);
                at += 1;
            }
            if self.below(2) == 0 {
                long(-(count as i64), out);
                long(block.len() as i64, out);
            } else {
                long(count as i64, out);
            }
            out.extend_from_slice(&block);
        }
        long(0, out);
    }

    pub(in super::super) fn damage(&mut self, value: Vec<u8>) -> Vec<u8> {
        self.random.damage(value, &[0, 1, 2, 0x7f, 0x80, 0xff])
    }
}

pub(in super::super) fn long(value: i64, out: &mut Vec<u8>) {
    let mut zigzag = ((value << 1) ^ (value >> 63)) as u64;
    while zigzag >= 0x80 {
        out.push(zigzag as u8 | 0x80);
        zigzag >>= 7;
    }
    out.push(zigzag as u8);
}

pub(in super::super) fn sized(bytes: &[u8], out: &mut Vec<u8>) {
    long(bytes.len() as i64, out);
    out.extend_from_slice(bytes);
}
