//! How a path is written: for programs as `sha256sum` does, for people so that no name can upset a terminal.

use std::io::Write;
use std::path::Path;

/// The line that `sha256sum` prints, newline included.
///
/// A name with a backslash, a newline or a carriage return is escaped, and a backslash in front of the line says so.
pub(crate) fn format(digest: &[u8], path: &Path) -> Vec<u8> {
    let name = path.as_os_str().as_encoded_bytes();
    let mut line = Vec::with_capacity(2 * digest.len() + name.len() + 4);
    if name.iter().any(|byte| b"\\\n\r".contains(byte)) {
        line.push(b'\\');
    }
    for byte in digest {
        write!(line, "{byte:02x}").expect("writing to a vector cannot fail");
    }
    line.extend(b"  ");
    for byte in name {
        match byte {
            b'\\' => line.extend(br"\\"),
            b'\n' => line.extend(br"\n"),
            b'\r' => line.extend(br"\r"),
            _ => line.push(*byte),
        }
    }
    line.push(b'\n');
    line
}

/// The name in a message: control characters are spelled out.
pub(crate) fn legible(name: &str) -> String {
    let spell = |c: char| {
        if c.is_control() { c.escape_default().to_string() } else { c.to_string() }
    };
    name.chars().map(spell).collect()
}
