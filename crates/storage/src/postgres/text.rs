//! Strings as Postgres can hold them.
//!
//! Its text has every character but U+0000. That one, and U+0001 which escapes it, are stored as
//! two: equality, order and prefixes stay what they were, and all other text is stored as it is.
//! What a query compares with a stored string goes through [`escape`] too. JSON needs none of it:
//! it writes both as six ASCII characters.

use std::borrow::Cow;

pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(['\0', '\u{1}']) {
        return text.into();
    }
    text.replace('\u{1}', "\u{1}\u{2}").replace('\0', "\u{1}\u{1}").into()
}

pub(crate) fn escape_some(text: Option<&String>) -> Option<Cow<'_, str>> {
    text.map(|text| escape(text))
}

pub(crate) fn unescape(text: String) -> String {
    if !text.contains('\u{1}') {
        return text;
    }
    text.replace("\u{1}\u{1}", "\0").replace("\u{1}\u{2}", "\u{1}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "[\0\u{1}\u{2}a]{0,6}|.{0,6}";

    proptest! {
        #[test]
        fn text_is_read_back_and_keeps_its_order(one in TEXT, other in TEXT) {
            prop_assert!(!escape(&one).contains('\0'));
            prop_assert_eq!(unescape(escape(&one).into_owned()), one.clone());
            prop_assert_eq!(escape(&one).cmp(&escape(&other)), one.cmp(&other));
            prop_assert_eq!(escape(&one).starts_with(&*escape(&other)), one.starts_with(&other));
        }
    }
}
