//! Pages of a list, in the form of IoT Hub's queries: the page size in `x-ms-max-item-count`, the
//! place to go on from in `x-ms-continuation`. Who knows neither sees the first page, as IoT Hub has
//! it.

use std::collections::HashMap;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dunlin_model::{ErrorCode, Identity};
use dunlin_proto::v1;

use crate::error::ApiError;

const MAX_ITEM_COUNT: HeaderName = HeaderName::from_static("x-ms-max-item-count");
pub(super) const CONTINUATION: HeaderName = HeaderName::from_static("x-ms-continuation");

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::ArgumentInvalid, message)
}

/// `top` and `x-ms-max-item-count` both say how many devices a page has: the smaller counts.
pub(super) fn asked(
    query: &HashMap<String, String>,
    headers: &HeaderMap,
) -> Result<v1::ListDevicesRequest, ApiError> {
    let top = query.get("top").map(|text| count("the query parameter top", text)).transpose()?;
    let size = text(headers, &MAX_ITEM_COUNT)?;
    let size = size.map(|text| count("the header x-ms-max-item-count", text)).transpose()?;
    let after = match text(headers, &CONTINUATION)? {
        Some(token) => last_of(token).ok_or_else(|| {
            invalid("x-ms-continuation is not one that a former page was answered with")
        })?,
        None => String::new(),
    };
    // The registry reads 0 as a full page, as the hub does with whatever no page can hold.
    let top = [top, size].into_iter().flatten().filter(|top| *top > 0).min().unwrap_or(0);
    Ok(v1::ListDevicesRequest { top, after })
}

/// How to go on after the device `last`.
pub(super) fn continuation(last: &str) -> HeaderValue {
    HeaderValue::try_from(STANDARD.encode(last)).expect("base64 is ASCII")
}

fn last_of(token: &str) -> Option<String> {
    let last = String::from_utf8(STANDARD.decode(token).ok()?).ok()?;
    Identity::device(&last).is_ok().then_some(last)
}

fn count(what: &str, text: &str) -> Result<u32, ApiError> {
    let count: i64 = text.parse().map_err(|_| invalid(format!("{what} is not a number")))?;
    Ok(u32::try_from(count).unwrap_or(0))
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, ApiError> {
    let value = headers.get(name).map(HeaderValue::to_str).transpose();
    value.map_err(|_| invalid(format!("the header {name} is not ASCII text")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_asked_for_by_query_and_headers() {
        #[track_caller]
        fn check(
            top: Option<&str>,
            size: Option<&str>,
            token: Option<&[u8]>,
            want: Option<(u32, &str)>,
        ) {
            let query = top.map(|top| ("top".to_owned(), top.to_owned())).into_iter().collect();
            let mut headers = HeaderMap::new();
            if let Some(size) = size {
                headers.insert(MAX_ITEM_COUNT, size.parse().expect("a value"));
            }
            if let Some(token) = token {
                headers.insert(CONTINUATION, HeaderValue::from_bytes(token).expect("a value"));
            }
            let got = asked(&query, &headers).map_err(|error| error.0.code);
            let want = want.map(|(top, after)| v1::ListDevicesRequest { top, after: after.into() });
            assert_eq!(got, want.ok_or(ErrorCode::ArgumentInvalid));
        }
        check(None, None, None, Some((0, "")));
        check(Some("7"), None, None, Some((7, "")));
        check(None, Some("7"), None, Some((7, "")));
        check(Some("7"), Some("3"), None, Some((3, "")));
        check(Some("3"), Some("7"), None, Some((3, "")));
        for none in ["0", "-1", "9999999999"] {
            check(Some(none), None, None, Some((0, "")));
            check(Some(none), Some("5"), None, Some((5, "")));
            check(Some("5"), Some(none), None, Some((5, "")));
        }
        check(Some("x"), None, None, None);
        check(None, Some("x"), None, None);
        let longest = "#".repeat(128);
        for id in ["d", "A-z:0.+%_#*?!(),=@;$'", &longest] {
            check(None, None, Some(continuation(id).as_bytes()), Some((0, id)));
        }
        let garbage: [&[u8]; 7] = [b"", b"?", b"ZA", b"/w==", b"YS9i", b"YSBi", b"\xff"];
        for token in garbage {
            check(None, None, Some(token), None);
        }
    }
}
