//! Protobuf: a `.proto` file, or the base64 of its descriptor, with the files it imports.
//!
//! Kept twice: as written, which is what is printed, and compiled, in which every type is found. Imports are schemas of
//! the registry under the names by which they are imported, and the files that come with Protobuf and with Confluent's
//! registry ([`super::builtin`]). Parsing is `protox`'s; it calls itself for what is nested, so the nesting
//! of a text is measured before.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use prost_types::{DescriptorProto, FileDescriptorProto};
use protox::Compiler;
use protox::file::{File, FileResolver, GoogleFileResolver};
use protox::prost_reflect::{DescriptorPool, FileDescriptor};

use super::super::limits::SCHEMA_DEPTH_MAX;
use super::builtin;
use super::{ParseError, Resolved};

/// A file and what it imports.
#[derive(Clone, Debug)]
pub struct ProtobufSchema {
    pub(super) written: FileDescriptorProto,
    compiled: FileDescriptorProto,
    /// Compiled, imports of imports too.
    imports: Vec<FileDescriptorProto>,
}

/// A name that a file has which was sent without one.
const UNNAMED: &str = "default.proto";

impl ProtobufSchema {
    /// # Errors
    /// The text is neither a file nor a descriptor, breaks a rule of Protobuf, or imports what is not there.
    pub fn parse(text: &str, references: &[Resolved]) -> Result<Self, ParseError> {
        let written = read(text)?;
        let mut files = vec![(UNNAMED.to_owned(), File::from_file_descriptor_proto(written.clone()))];
        for Resolved { name, text } in references {
            files.push((
                name.clone(),
                File::from_file_descriptor_proto(FileDescriptorProto { name: Some(name.clone()), ..read(text)? }),
            ));
        }
        let refused = |why: protox::Error| ParseError::new(why.to_string());
        let mut compiler = Compiler::with_file_resolver(Registered { files, google: GoogleFileResolver::new() });
        compiler.include_imports(true).open_file(UNNAMED).map_err(refused)?;
        let mut imports = compiler.file_descriptor_set().file;
        let Some(at) = imports.iter().position(|file| file.name() == UNNAMED) else {
            return Err(ParseError::new("the compiler gave no descriptor"));
        };
        let compiled = imports.remove(at);
        Ok(Self { written, compiled, imports })
    }

    #[must_use]
    pub const fn compiled(&self) -> &FileDescriptorProto {
        &self.compiled
    }

    /// Files that it imports, and theirs.
    #[must_use]
    pub fn imports(&self) -> &[FileDescriptorProto] {
        &self.imports
    }

    /// The file as readers of its values need it, with what it imports.
    ///
    /// # Errors
    /// A rule of Protobuf is broken that compiling does not look at.
    pub fn descriptor(&self) -> Result<FileDescriptor, ParseError> {
        let refused = |why: &dyn std::fmt::Display| ParseError::new(why.to_string());
        let mut pool = DescriptorPool::new();
        let files = self.imports.iter().chain([&self.compiled]).cloned();
        pool.add_file_descriptor_protos(files).map_err(|why| refused(&why))?;
        pool.get_file_by_name(UNNAMED).ok_or_else(|| refused(&"the compiler gave no descriptor"))
    }

    /// Base64 of the compiled descriptor, entries of maps included.
    #[must_use]
    pub fn serialized(&self) -> String {
        STANDARD.encode(self.compiled.encode_to_vec())
    }
}

/// Files of the registry before those that come with it.
struct Registered {
    files: Vec<(String, File)>,
    google: GoogleFileResolver,
}

impl FileResolver for Registered {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        if let Some((_, file)) = self.files.iter().find(|(known, _)| known == name) {
            return Ok(File::from_file_descriptor_proto(file.file_descriptor_proto().clone()));
        }
        match builtin::source(name) {
            Some(source) => File::from_source(name, source),
            None => self.google.open_file(name),
        }
    }
}

fn read(text: &str) -> Result<FileDescriptorProto, ParseError> {
    if nesting(text) > SCHEMA_DEPTH_MAX {
        return Err(ParseError::new(format!("the file nests deeper than {SCHEMA_DEPTH_MAX} levels")));
    }
    let parsed = protox_parse::parse(UNNAMED, text).or_else(|why| {
        let descriptor = STANDARD.decode(text.trim()).ok().and_then(|bytes| FileDescriptorProto::decode(&*bytes).ok());
        descriptor.map(without_name).ok_or_else(|| ParseError::new(why.to_string()))
    })?;
    if parsed.message_type.iter().any(|message| nests_deeper(message, SCHEMA_DEPTH_MAX)) {
        return Err(ParseError::new(format!("messages nest deeper than {SCHEMA_DEPTH_MAX} levels")));
    }
    Ok(parsed)
}

/// A descriptor names the file it was made from; here it is the file that is registered. Places in its source are
/// left out.
fn without_name(descriptor: FileDescriptorProto) -> FileDescriptorProto {
    FileDescriptorProto { name: Some(UNNAMED.to_owned()), source_code_info: None, ..descriptor }
}

fn nests_deeper(message: &DescriptorProto, levels: usize) -> bool {
    levels == 0 || message.nested_type.iter().any(|nested| nests_deeper(nested, levels - 1))
}

/// The most brackets that are open at one place outside strings and comments.
fn nesting(text: &str) -> usize {
    let (mut depth, mut most) = (0_usize, 0);
    let mut bytes = text.bytes().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'[' | b'(' | b'<' => {
                depth += 1;
                most = most.max(depth);
            }
            b'}' | b']' | b')' | b'>' => depth = depth.saturating_sub(1),
            quote @ (b'"' | b'\'') => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'\\' => drop(bytes.next()),
                        b'\n' => break,
                        byte if byte == quote => break,
                        _ => {}
                    }
                }
            }
            b'/' if bytes.peek() == Some(&b'/') => drop(bytes.by_ref().find(|byte| *byte == b'\n')),
            b'/' if bytes.peek() == Some(&b'*') => {
                let mut last = 0;
                bytes.next();
                for byte in bytes.by_ref() {
                    if (last, byte) == (b'*', b'/') {
                        break;
                    }
                    last = byte;
                }
            }
            _ => {}
        }
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_protobuf_forbids_is_refused() {
        for bad in [
            "",
            "message",
            "syntax = \"proto3\"; message A { string a = 1; string b = 1; }",
            "syntax = \"proto3\"; message A { Missing a = 1; }",
            "syntax = \"proto3\"; import \"nowhere.proto\";",
            "syntax = \"proto3\"; message A {} message A {}",
            "syntax = \"proto3\"; enum E { A = 1; }",
        ] {
            // An empty file is legal.
            assert_eq!(ProtobufSchema::parse(bad, &[]).is_err(), !bad.is_empty(), "{bad}");
        }
        let deep = format!("syntax = \"proto3\"; {}{}", "message A {".repeat(5000), "}".repeat(5000));
        assert!(ProtobufSchema::parse(&deep, &[]).expect_err("too deep").0.contains("nests deeper"));
    }

    #[test]
    fn brackets_in_strings_and_comments_do_not_nest() {
        assert_eq!(nesting("a { b [ ( ) ] }"), 3);
        assert_eq!(nesting("\"{{{\" '[[\\'[' // {{{\n /* {{ * { */ {"), 1);
    }

    /// redpanda#5771.
    #[test]
    fn files_of_the_registry_itself_are_there() {
        let text = "syntax = \"proto3\"; import \"confluent/type/decimal.proto\"; import \"google/type/money.proto\"; import \"google/protobuf/timestamp.proto\"; import \"confluent/meta.proto\"; message A { confluent.type.Decimal d = 1; google.type.Money m = 2; google.protobuf.Timestamp t = 3; string s = 4 [(confluent.field_meta).doc = \"x\"]; }";
        let schema = ProtobufSchema::parse(text, &[]).expect("compiles");
        assert!(schema.imports().iter().any(|file| file.name() == "confluent/type/decimal.proto"));
        let file = schema.descriptor().expect("a descriptor");
        let fields: Vec<_> = file.messages().flat_map(|message| message.fields().collect::<Vec<_>>()).collect();
        let found = fields.iter().filter_map(|field| Some(field.kind().as_message()?.full_name().to_owned()));
        let wanted = ["confluent.type.Decimal", "google.type.Money", "google.protobuf.Timestamp"];
        assert_eq!(found.collect::<Vec<_>>(), wanted);
    }

    /// karapace#1060 and #1319.
    #[test]
    fn a_descriptor_in_base64_is_the_same_schema() {
        let text = "syntax = \"proto3\"; package p; message A { map<string, int32> m = 1; }";
        let schema = ProtobufSchema::parse(text, &[]).expect("compiles");
        let bytes = STANDARD.decode(schema.serialized()).expect("base64");
        let descriptor = FileDescriptorProto::decode(&*bytes).expect("a descriptor");
        let entry = descriptor.message_type.first().and_then(|message| message.nested_type.first());
        assert_eq!(entry.and_then(|entry| entry.options.as_ref()).map(|options| options.map_entry()), Some(true));
        let again = ProtobufSchema::parse(&schema.serialized(), &[]).expect("a descriptor is a schema");
        assert_eq!(
            super::super::protobuf_print::print(&again, false),
            super::super::protobuf_print::print(&schema, false)
        );
    }
}
