//! Bounds that hold before Cedar's parser sees a text: it and its tree walk expressions by recursion, so what
//! is too deep for the stack would end the process.

/// Most brackets open at a time.
const DEPTH: usize = 24;
/// Longest policy in bytes, strings and comments left out; what nests without brackets needs bytes to do so.
const LENGTH: usize = 2048;

/// Whether no policy of the text is too long or too deep.
pub(crate) fn is_shallow(text: &str) -> bool {
    let (mut depth, mut length) = (0_usize, 0);
    let mut bytes = text.bytes().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => skip_string(&mut bytes),
            b'/' if bytes.peek() == Some(&b'/') => {
                while bytes.next_if(|b| !matches!(b, b'\n' | b'\r')).is_some() {}
            }
            b';' => {
                (depth, length) = (0, 0);
                continue;
            }
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        length += usize::from(!byte.is_ascii_whitespace());
        if depth > DEPTH || length > LENGTH {
            return false;
        }
    }
    true
}

fn skip_string(bytes: &mut impl Iterator<Item = u8>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => drop(bytes.next()),
            _ => {}
        }
    }
}
