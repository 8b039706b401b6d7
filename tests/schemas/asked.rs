//! Requests to a registry's port.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

/// A status and a body.
#[derive(Debug)]
pub struct Answered {
    pub status: u16,
    pub body: Value,
}

/// `None`: nothing answers.
pub fn get(addr: &str, path: &str) -> Option<Answered> {
    ask(addr, "GET", path, "")
}

/// Registers an Avro schema.
pub fn register(addr: &str, subject: &str, text: &str) -> Option<Answered> {
    ask(addr, "POST", &format!("/subjects/{subject}/versions"), &json!({ "schema": text }).to_string())
}

fn ask(addr: &str, method: &str, path: &str, body: &str) -> Option<Answered> {
    let mut stream = TcpStream::connect(addr).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\nContent-Length: {length}\r\n");
    write!(stream, "{head}Content-Type: application/json\r\n\r\n{body}").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    let body = answer.split_once("\r\n\r\n")?.1;
    Some(Answered { status, body: serde_json::from_str(body).unwrap_or(Value::Null) })
}
