//! Rust source read as text: code apart from comments and strings, and without the items that only tests compile.

/// `text` with the contents of comments, strings and characters blanked; lines stay where they are.
pub(crate) fn code(text: &str) -> String {
    split(text).0
}

/// The comments of `text`, everything else blanked; lines stay where they are.
pub(crate) fn comments(text: &str) -> String {
    split(text).1
}

/// [`code`] without items under `#[cfg(test)]`; lines stay where they are.
pub(crate) fn production(text: &str) -> String {
    let mut code = code(text);
    while let Some(start) = code.find("#[cfg(test)]") {
        let end = item_end(&code, start);
        let blank: String = code[start..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        code.replace_range(start..end, &blank);
    }
    code
}

/// Where the item ends whose attributes begin at `start`: behind its `;`, behind the `}` of its body, or behind the
/// comma of a field, variant or argument.
fn item_end(code: &str, start: usize) -> usize {
    let (mut depth, mut in_attribute) = (0_i32, false);
    for (at, c) in code[start..].char_indices().map(|(at, c)| (start + at, c)) {
        match c {
            '#' if depth == 0 => in_attribute = true,
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => {
                depth -= 1;
                if depth < 0 {
                    return at;
                }
                if depth == 0 && in_attribute && c == ']' {
                    in_attribute = false;
                } else if depth == 0 && c == '}' {
                    return at + 1;
                }
            }
            ';' | ',' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

/// Code and comments of `text`, each with everything else blanked.
fn split(text: &str) -> (String, String) {
    let (mut code, mut comments) = (String::with_capacity(text.len()), String::with_capacity(text.len()));
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let comment = comment_len(rest);
        let literal = literal_len(rest, code.chars().next_back());
        let len = if comment > 0 { comment } else { literal.max(c.len_utf8()) };
        for c in rest[..len].chars() {
            let blank = if c == '\n' { '\n' } else { ' ' };
            code.push(if comment > 0 || literal > 0 { blank } else { c });
            comments.push(if comment > 0 { c } else { blank });
        }
        rest = &rest[len..];
    }
    (code, comments)
}

/// Length of the comment that `text` begins with; 0 if it begins with none.
fn comment_len(text: &str) -> usize {
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if !text.starts_with("/*") {
        return 0;
    }
    text.find("*/").map_or(text.len(), |at| at + 2)
}

/// Length of the string, raw string or character that `text` begins with behind `before`; 0 if it begins with none.
fn literal_len(text: &str, before: Option<char>) -> usize {
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let prefix = if in_word { 0 } else { ["br", "r"].iter().find(|p| text.starts_with(**p)).map_or(0, |p| p.len()) };
    let hashes = text[prefix..].chars().take_while(|c| *c == '#').count();
    if prefix > 0 && text[prefix + hashes..].starts_with('"') {
        let end = format!("\"{}", "#".repeat(hashes));
        let body = prefix + hashes + 1;
        return text[body..].find(&end).map_or(text.len(), |at| body + at + end.len());
    }
    match text.chars().next() {
        Some('"') => quoted_len(text, '"'),
        // A lifetime has no closing quote behind its first character.
        Some('\'') if text.starts_with("'\\") || text.chars().nth(2) == Some('\'') => quoted_len(text, '\''),
        _ => 0,
    }
}

fn quoted_len(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

#[test]
fn only_what_tests_compile_is_left_out() {
    let text = r##"
use a::b; // crate::comment
#[cfg(test)]
#[path = "x.rs"]
mod tests;
struct S<'a> {
    #[cfg(test)]
    counted: Vec<u8>,
    kept: &'a str,
}
#[cfg(test)]
impl S<'_> {
    fn f() { let _ = ('{', "}", r#"}"#); }
}
fn after() -> &'static str { "crate::string" }
"##;
    let left: Vec<String> = production(text).split_whitespace().map(ToOwned::to_owned).collect();
    assert_eq!(left.join(" "), "use a::b; struct S<'a> { kept: &'a str, } fn after() -> &'static str { }");
    assert_eq!(comments(text).trim(), "// crate::comment");
    assert_eq!(production(text).lines().count(), text.lines().count());
}
