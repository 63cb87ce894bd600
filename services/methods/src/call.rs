//! What a call may ask for, and what a device may answer.

use std::ops::RangeInclusive;
use std::time::Duration;

use dunlin_model::{ErrorCode, HubError, Identity, limits};
use dunlin_proto::v1;
use serde::de::IgnoredAny;

use crate::Config;

/// A call that may be made.
#[derive(Debug)]
pub(crate) struct Call {
    pub id: Identity,
    pub method: String,
    /// JSON.
    pub payload: String,
    pub response: Duration,
    pub connect: Duration,
}

impl Call {
    pub(crate) fn read(wire: v1::InvokeMethodRequest, config: &Config) -> Result<Self, HubError> {
        let id = Identity::parse(&wire.id)?;
        name(&wire.method)?;
        let response = match wire.response_timeout {
            // The Node SDK sends 0 where the caller gave nothing.
            None | Some(0) => limits::METHOD_RESPONSE_SECONDS_DEFAULT.into(),
            Some(seconds) => seconds,
        };
        let allowed = *limits::METHOD_RESPONSE_SECONDS.start()..=config.max_response_seconds;
        let response = seconds("responseTimeoutInSeconds", response, allowed)?;
        let connect = wire.connect_timeout.unwrap_or(0);
        let connect = seconds("connectTimeoutInSeconds", connect, limits::METHOD_CONNECT_SECONDS)?;
        let payload = payload(wire.payload, config.payload_bytes)?;
        Ok(Self { id, method: wire.method, payload, response, connect })
    }
}

/// The documented alphabet, but for `#` and `+`: no MQTT topic name may hold them.
fn name(method: &str) -> Result<(), HubError> {
    if method.is_empty() || method.len() > limits::METHOD_NAME_CHARS {
        return Err(invalid(format!(
            "methodName has 1 to {} characters",
            limits::METHOD_NAME_CHARS
        )));
    }
    let refused = |c: &char| !c.is_ascii_graphic() || "$()<>@,;:\\\"/[]?={}#+".contains(*c);
    match method.chars().find(refused) {
        Some(c) => Err(invalid(format!(
            "methodName may hold ASCII letters, digits and ! % & ' * - . ^ _ ` | ~, not {c:?}"
        ))),
        None => Ok(()),
    }
}

fn seconds(what: &str, given: i64, allowed: RangeInclusive<u32>) -> Result<Duration, HubError> {
    match u32::try_from(given) {
        Ok(seconds) if allowed.contains(&seconds) => Ok(Duration::from_secs(seconds.into())),
        _ => {
            Err(invalid(format!("{what} must be within [{}; {}].", allowed.start(), allowed.end())))
        }
    }
}

/// A call without a payload is one with `null`: device SDKs parse what they get.
fn payload(text: String, most: usize) -> Result<String, HubError> {
    if text.len() > most {
        let message = format!("the payload has {} bytes, at most {most} are allowed", text.len());
        return Err(HubError::new(ErrorCode::MessageTooLarge, message));
    }
    if text.is_empty() {
        return Ok("null".to_owned());
    }
    json(&text).map_err(|error| invalid(format!("the payload is not JSON: {error}")))?;
    Ok(text)
}

/// The answer of a device as the caller gets it. The device's status is the caller's to judge.
pub(crate) fn answer(
    status: i64,
    payload: Vec<u8>,
    config: &Config,
) -> Result<v1::InvokeMethodResponse, HubError> {
    let bad = |why: String| {
        let message = format!("The device answered with status {status}, but {why}");
        HubError::new(ErrorCode::InvalidResponseWhileProxying, message)
    };
    let most = config.payload_bytes;
    if payload.len() > most {
        return Err(bad(format!("its payload has {} bytes, at most {most}", payload.len())));
    }
    if payload.is_empty() {
        return Ok(v1::InvokeMethodResponse { status, payload: "null".to_owned() });
    }
    let payload = String::from_utf8(payload).map_err(|_| bad("its payload is not UTF-8".into()))?;
    json(&payload).map_err(|error| bad(format!("its payload is not JSON: {error}")))?;
    Ok(v1::InvokeMethodResponse { status, payload })
}

/// Reads without building anything, at whatever depth: a payload goes on as it was written.
fn json(text: &str) -> Result<IgnoredAny, serde_json::Error> {
    serde_json::from_str(text)
}

fn invalid(message: String) -> HubError {
    HubError::new(ErrorCode::ArgumentInvalid, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> v1::InvokeMethodRequest {
        v1::InvokeMethodRequest {
            id: "d".to_owned(),
            method: "reboot".to_owned(),
            payload: "{}".to_owned(),
            response_timeout: None,
            connect_timeout: None,
        }
    }

    fn answered(status: i64, payload: Vec<u8>) -> Result<v1::InvokeMethodResponse, HubError> {
        answer(status, payload, &Config::default())
    }

    #[track_caller]
    fn check(
        change: impl FnOnce(&mut v1::InvokeMethodRequest),
        want: Result<(), (ErrorCode, &str)>,
    ) {
        let mut request = wire();
        change(&mut request);
        match (Call::read(request, &Config::default()), want) {
            (Ok(_), Ok(())) => {}
            (Err(error), Err((code, text))) => {
                assert_eq!(error.code, code, "{error}");
                assert!(error.message.contains(text), "{error}");
            }
            (got, want) => panic!("got {got:?}, wanted {want:?}"),
        }
    }

    const INVALID: ErrorCode = ErrorCode::ArgumentInvalid;

    #[test]
    fn names_have_the_documented_alphabet() {
        let alphabet: String =
            ('!'..='~').filter(|c| !"$()<>@,;:\\\"/[]?={}#+".contains(*c)).collect();
        let too_long = Err((INVALID, "1 to 128"));
        for (name, want) in [
            (alphabet.as_str(), Ok(())),
            ("thermostat1*getMaxMinReport", Ok(())),
            (&"x".repeat(128), Ok(())),
            (&"x".repeat(129), too_long),
            ("", too_long),
        ] {
            check(|request| request.method = name.to_owned(), want);
        }
        for c in "$()<>@,;:\\\"/[]?={}#+ \t\0\x7fä\u{feff}".chars() {
            let want = format!("not {c:?}");
            check(|request| request.method = format!("a{c}b"), Err((INVALID, &want)));
        }
    }

    #[test]
    fn timeouts_have_a_range_and_a_default() {
        let response = "responseTimeoutInSeconds must be within [5; 300].";
        let connect = "connectTimeoutInSeconds must be within [0; 300].";
        for good in [0, 5, 30, 300] {
            check(|request| request.response_timeout = Some(good), Ok(()));
        }
        for bad in [-1, 1, 4, 301, 1 << 32 | 30, i64::MAX, i64::MIN] {
            check(|request| request.response_timeout = Some(bad), Err((INVALID, response)));
        }
        for good in [0, 1, 300] {
            check(|request| request.connect_timeout = Some(good), Ok(()));
        }
        for bad in [-1, 301, 1 << 32, i64::MIN] {
            check(|request| request.connect_timeout = Some(bad), Err((INVALID, connect)));
        }
        let raised = |seconds| {
            let request = v1::InvokeMethodRequest { response_timeout: Some(seconds), ..wire() };
            let config = Config { max_response_seconds: 3_600, ..Config::default() };
            Call::read(request, &config).map(|call| call.response.as_secs())
        };
        assert_eq!(raised(3_600), Ok(3_600));
        assert_eq!(raised(0), Ok(30));
        let message = raised(3_601).expect_err("too long").message;
        assert_eq!(message, "responseTimeoutInSeconds must be within [5; 3600].");
    }

    #[test]
    fn ids_are_checked() {
        check(|request| request.id = "d/m".to_owned(), Ok(()));
        for bad in ["", "d/m/x", "a b"] {
            check(|request| request.id = bad.to_owned(), Err((INVALID, "id")));
        }
    }

    /// Texts that RFC 8259 allows, and those it does not.
    fn texts() -> Vec<(String, bool)> {
        let deep = |n: usize| [vec!["["; n], vec!["]"; n]].concat().concat();
        let row = |(text, good): (&str, bool)| (text.to_owned(), good);
        let mut texts: Vec<_> = [
            ("null", true),
            ("0", true),
            (r#""text""#, true),
            (" {\"a\" :\t[1 , 2.50e+10]}\r\n", true),
            (r#"{"a":1,"a":2}"#, true),
            ("1e400", true),
            ("12345678901234567890123456789", true),
            (r#""\ud83d\ude00 \u0000""#, true),
            (" ", false),
            ("nul", false),
            ("{'a':1}", false),
            ("{\"a\":1,}", false),
            ("[1]x", false),
            ("{}{}", false),
            ("{}\0", false),
            ("NaN", false),
            ("01", false),
            ("+1", false),
            ("1.", false),
            ("\u{feff}{}", false),
            ("\"\n\"", false),
            (r#""\x""#, false),
            (r#""unclosed"#, false),
        ]
        .map(row)
        .into();
        texts.push((deep(60_000), true));
        texts.push((deep(60_000) + "]", false));
        texts
    }

    #[test]
    fn payloads_are_json_and_stay_as_written() {
        for (text, good) in texts() {
            let request = v1::InvokeMethodRequest { payload: text.clone(), ..wire() };
            let sent = Call::read(request, &Config::default()).map(|call| call.payload);
            let answered = answered(200, text.clone().into_bytes()).map(|answer| answer.payload);
            if good {
                assert_eq!((sent, answered), (Ok(text.clone()), Ok(text)));
            } else {
                let sent = sent.expect_err(&text);
                assert!(sent.message.contains("not JSON"), "{sent}");
                assert_eq!(sent.code, INVALID);
                let answered = answered.expect_err(&text);
                assert!(answered.message.contains("status 200"), "{answered}");
                assert_eq!(answered.code, ErrorCode::InvalidResponseWhileProxying);
            }
        }
        let nothing = v1::InvokeMethodRequest { payload: String::new(), ..wire() };
        let call = Call::read(nothing, &Config::default());
        assert_eq!(call.expect("allowed").payload, "null");
    }

    #[test]
    fn payloads_have_128_kib_each_way() {
        let text = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
        check(|request| request.payload = text(131_072), Ok(()));
        let large = Err((ErrorCode::MessageTooLarge, "131073 bytes"));
        check(|request| request.payload = text(131_073), large);
        assert!(answered(200, text(131_072).into_bytes()).is_ok());
        let error = answered(200, text(131_073).into_bytes()).expect_err("too large");
        assert_eq!(error.code, ErrorCode::InvalidResponseWhileProxying);
        assert!(error.message.contains("131073"), "{error}");

        // As it was in 2017.
        let small = Config { payload_bytes: 8_192, ..Config::default() };
        for (bytes, fits) in [(8_192, true), (8_193, false)] {
            let request = v1::InvokeMethodRequest { payload: text(bytes), ..wire() };
            assert_eq!(Call::read(request, &small).is_ok(), fits);
            assert_eq!(answer(200, text(bytes).into_bytes(), &small).is_ok(), fits);
        }
    }

    #[test]
    fn any_status_is_passed_on_and_nothing_is_null() {
        for status in [i64::MIN, -1, 0, 200, 404, i64::MAX] {
            let answer = answered(status, Vec::new()).expect("fine");
            assert_eq!((answer.status, answer.payload.as_str()), (status, "null"));
        }
        let error = answered(500, vec![b'"', 0xff, b'"']).expect_err("not text");
        assert!(error.message.contains("status 500, but its payload is not UTF-8"), "{error}");
    }
}
