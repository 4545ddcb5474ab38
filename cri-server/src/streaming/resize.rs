//! The sizes of a client's terminal: JSON objects one behind the other, cut anywhere.

use rustix::termios::Winsize;
use serde::Deserialize;

/// Most bytes of one object.
const MAX: usize = 4096;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

/// Reads sizes.
#[derive(Default)]
pub struct Sizes {
    partial: Vec<u8>,
}

impl Sizes {
    /// The last of the sizes that end within these bytes; earlier ones are history. What is no size is skipped.
    pub fn newest(&mut self, bytes: &[u8]) -> Option<Winsize> {
        self.partial.extend_from_slice(bytes);
        let mut objects = serde_json::Deserializer::from_slice(&self.partial).into_iter::<Size>();
        let mut newest = None;
        let (mut used, mut broken) = (0, false);
        while let Some(object) = objects.next() {
            match object {
                Ok(size) => (newest, used) = (Some(size), objects.byte_offset()),
                // What is cut off is read again with what follows.
                Err(error) => {
                    broken = !error.is_eof();
                    break;
                }
            }
        }
        self.partial.drain(..used);
        if broken || self.partial.len() > MAX {
            self.partial.clear();
        }
        newest.map(|size| Winsize {
            ws_row: size.height,
            ws_col: size.width,
            ws_xpixel: 0,
            ws_ypixel: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_come_through_however_they_are_cut() {
        let mut sizes = Sizes::default();
        let mut feed = |text: &str| {
            sizes
                .newest(text.as_bytes())
                .map(|size| (size.ws_col, size.ws_row))
        };
        assert_eq!(feed("{\"Width\":80,"), None);
        assert_eq!(feed("\"Height\":24}\n"), Some((80, 24)));
        assert_eq!(
            feed("{\"Width\":1,\"Height\":2}{\"Width\":3,\"Height\":4}"),
            Some((3, 4)),
            "the newest"
        );
        assert_eq!(feed("{\"Width\":-1,\"Height\":2}"), None, "no size");
        assert_eq!(feed("garbage"), None);
        assert_eq!(feed(&"[".repeat(2 * MAX)), None);
        assert_eq!(feed("{\"Width\":5,\"Height\":6}"), Some((5, 6)), "it goes on");
    }
}
