//! `If-Match` in, `ETag` out. SDKs quote, or do not; a star may be quoted too.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use dunlin_model::ErrorCode;

use crate::error::ApiError;

/// What a call is made to depend on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Absent,
    Any,
    Etag(String),
}

pub(crate) fn condition(headers: &HeaderMap) -> Result<Condition, ApiError> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(Condition::Absent) };
    let text = value
        .to_str()
        .map_err(|_| ApiError::new(ErrorCode::ArgumentInvalid, "If-Match is not ASCII text"))?;
    let bare = bare(text);
    Ok(if bare == "*" { Condition::Any } else { Condition::Etag(bare.to_owned()) })
}

/// An ETag without what may stand around it.
pub(crate) fn bare(text: &str) -> &str {
    let text = text.trim();
    // An unquoted ETag may itself begin like that.
    let weak = text.strip_prefix("W/").filter(|quoted| quoted.starts_with('"'));
    let text = weak.unwrap_or(text);
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text)
}

/// For the answer that shows what has this ETag.
pub(crate) fn header(etag: &str) -> Option<(HeaderName, HeaderValue)> {
    Some((header::ETAG, HeaderValue::from_str(&format!("\"{etag}\"")).ok()?))
}

impl Condition {
    /// For the registry, where no ETag means any.
    pub(crate) fn into_wire(self) -> Option<String> {
        match self {
            Self::Absent | Self::Any => None,
            Self::Etag(etag) => Some(etag),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_quoting_is_read() {
        #[track_caller]
        fn check(text: &str, want: Condition) {
            let headers =
                HeaderMap::from_iter([(header::IF_MATCH, text.parse().expect("a value"))]);
            assert_eq!(condition(&headers).expect("read"), want, "{text}");
        }
        assert_eq!(condition(&HeaderMap::new()).expect("read"), Condition::Absent);
        check("*", Condition::Any);
        check("\"*\"", Condition::Any);
        for text in ["MA==", "\"MA==\"", "W/\"MA==\"", " \"MA==\" "] {
            check(text, Condition::Etag("MA==".to_owned()));
        }
        check("\"", Condition::Etag("\"".to_owned()));
        check("", Condition::Etag(String::new()));
    }

    proptest! {
        #[test]
        fn an_etag_reads_back_from_every_quoting(etag in "[A-Za-z0-9+/]{1,24}={0,2}") {
            for text in [etag.clone(), format!("\"{etag}\""), format!("W/\"{etag}\"")] {
                prop_assert_eq!(bare(&text), &etag);
            }
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            prop_assert!(bare(&text).len() <= text.len());
        }
    }
}
