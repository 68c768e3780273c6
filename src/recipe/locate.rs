//! The line of a key in a YAML text.
//!
//! `serde_yaml` keeps no positions in its values, but it marks errors with theirs. So the text is read once more by a
//! visitor that walks to the wanted key and fails there; the line of that error is the line of the key.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

/// The line, counted from 1, of the key at this dotted path; `None` if it is not in the text (or behind an alias).
pub(super) fn line_of(text: &str, path: &str) -> Option<usize> {
    let names: Vec<&str> = path.split('.').collect();
    let deserializer = serde_yaml::Deserializer::from_str(text);
    match (Walk { names: &names }).deserialize(deserializer) {
        Ok(()) => None,
        Err(error) if error.to_string().contains(FOUND) => {
            error.location().map(|location| location.line())
        }
        Err(_) => None,
    }
}

const FOUND: &str = "wanted key";

/// Walks down the mappings named by `names`.
struct Walk<'a> {
    names: &'a [&'a str],
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((&name, rest)) = self.names.split_first() else {
            return Ok(());
        };
        while let Some(found) = map.next_key_seed(Name {
            name,
            last: rest.is_empty(),
        })? {
            if found {
                map.next_value_seed(Walk { names: rest })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// Compares a key; fails on purpose at the last one.
struct Name<'a> {
    name: &'a str,
    last: bool,
}

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<bool, E> {
        match (key == self.name, self.last) {
            (true, true) => Err(E::custom(FOUND)),
            (matches, _) => Ok(matches),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# comment\nmodel: x\ntrain:\n  steps: 5\n  lr: 1\nprobe: {every: 8,\n  burn: 0.1}\n3: three\n";

    #[test]
    fn lines_are_found_in_block_and_flow_style() {
        assert_eq!(line_of(TEXT, "model"), Some(2));
        assert_eq!(line_of(TEXT, "train"), Some(3));
        assert_eq!(line_of(TEXT, "train.lr"), Some(5));
        assert_eq!(line_of(TEXT, "probe.every"), Some(6));
        assert_eq!(line_of(TEXT, "probe.burn"), Some(7));
        assert_eq!(line_of(TEXT, "3"), Some(8));
    }

    #[test]
    fn an_absent_key_has_no_line() {
        assert_eq!(line_of(TEXT, "train.epochs"), None);
        assert_eq!(line_of(TEXT, "model.deeper"), None);
        assert_eq!(line_of("", "model"), None);
        assert_eq!(line_of("[1, 2]", "model"), None);
    }
}
