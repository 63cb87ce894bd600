//! The strict reader: a table of what is refused where, and what numbers become.

use std::cmp::Ordering;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn read(text: &[u8]) -> Result<Value, String> {
    object(text, &Path::Root("r"), 3, &["$version"])
        .map(Value::Object)
        .map_err(|error| error.message)
}

#[test]
fn what_is_read_is_what_was_written() {
    #[track_caller]
    fn check(text: &str, want: Value) {
        assert_eq!(read(text.as_bytes()), Ok(want), "{text}");
    }
    check(" {} ", json!({}));
    check(r#"{"b":[1,{"c":null}],"a":true}"#, json!({"a": true, "b": [1, {"c": null}]}));
    check(r#"{"\u0061\n":"\ud83d\ude00"}"#, json!({"a\n": "😀"}));
    check(r#"{"$version":[[[[[1e999]]]]],"a":{"$version":1}}"#, json!({"a": {"$version": 1}}));
    check(r#"{"a":{"b":{"c":1}},"d":{}}"#, json!({"a": {"b": {"c": 1}}, "d": {}}));
    check(r#"{"a":{"b":{"c":{}}}}"#, json!({"a": {"b": {"c": {}}}}));
    check(r#"{"a":[[[1]]]}"#, json!({"a": [[[1]]]}));
}

#[test]
fn a_refusal_names_the_place() {
    #[track_caller]
    fn check(text: impl AsRef<[u8]>, want: &str) {
        let error = read(text.as_ref()).expect_err("refused");
        assert!(error.starts_with(want), "{error}");
    }
    check("", "r: not JSON: EOF");
    check("[]", "r: must be a JSON object");
    check("null", "r: must be a JSON object");
    check("{} {}", "r: not JSON: trailing");
    check("{\"a\":}", "r: not JSON: expected value at line 1 column 6");
    check("{\"a\":01}", "r: not JSON");
    check("{\"a\":\"\n\"}", "r: not JSON: control character");
    check(b"{\"a\":\"\xff\"}", "r: invalid utf-8 sequence of 1 bytes from index 6");
    check(r#"{"a":{"b":1,"b":1}}"#, "r.a.b: the key stands there twice");
    check(r#"{"a":1,"\u0061":2}"#, "r.a: the key stands there twice");
    check(r#"{"a":[0,{"b":"\u0000"}]}"#, "r.a[1].b: a string may not hold U+0000");
    check(r#"{"a\u0000":1}"#, "r.a\\0: a key may not hold U+0000");
    check(r#"{"a":"\ud800"}"#, "r.a: a string is not Unicode");
    check(r#"{"a":{"\ud800":1}}"#, "r.a: a key is not Unicode");
    check(r#"{"a":{"b":{"c":{"d":{}}}}}"#, "r.a.b.c.d: objects are nested too deep");
    check(r#"{"a":[[{"d":[]}]]}"#, "r.a[0][0].d: objects are nested too deep");
    check(format!(r#"{{"{}":1e999}}"#, "k".repeat(80)), &format!("r.{}…: ", "k".repeat(64)));
    let key = "é".repeat(64);
    let deep = format!("{}1e999{}", format!("{{\"{key}\":").repeat(20), "}".repeat(20));
    let error = object(deep.as_bytes(), &Path::Root("r"), 64, &[]).expect_err("refused").message;
    assert_eq!(
        error,
        format!("r{}.{}…: a number is beyond a double", format!(".{key}").repeat(15), &key[..94])
    );
    // Nothing recurses on the way to the refusal.
    check(format!("{{\"a\":{}", "[".repeat(1 << 20)), "r: not JSON");
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(1 << 20), "]".repeat(1 << 20));
    check(deep, "r.a[0][0][0]: objects are nested too deep");
}

#[test]
fn numbers_are_integers_or_doubles_by_how_they_are_written() {
    #[track_caller]
    fn check(number: &str, want: Option<&str>) {
        let got = read(format!("{{\"a\":{number}}}").as_bytes());
        let want = want.map(|number| format!("{{\"a\":{number}}}"));
        assert_eq!(got.ok().map(|value| value.to_string()), want, "{number}");
    }
    check("4503599627370495", Some("4503599627370495"));
    check("4503599627370496", None);
    check("-4503599627370496", Some("-4503599627370496"));
    check("-4503599627370497", None);
    check("9223372036854775808", None);
    check("18446744073709551616", None);
    check(&"9".repeat(400), None);
    check("-0", Some("0"));
    check("4503599627370496.0", Some("4503599627370496.0"));
    check("1e2", Some("100.0"));
    check("1e16", Some("1e+16"));
    check("10000000000000000", None);
    check("1e18", Some("1e+18"));
    check("1.8e19", Some("1.8e+19"));
    check("18000000000000000000", None);
    check("1E+400", None);
    check("-1e400", None);
    check("1e-400", Some("0.0"));
    check("-0.0", Some("0.0"));
    check("-1e-400", Some("0.0"));
    check("0.1", Some("0.1"));
    check("5e-324", Some("5e-324"));
    check("1.7976931348623157e308", Some("1.7976931348623157e+308"));
    // Halfway between two doubles: to the even one.
    check("9007199254740993.0", Some("9007199254740992.0"));
}

/// Sign, digits without zeros at either end, and the power of ten above them: exact.
fn decimal(text: &str) -> (Ordering, i64, String) {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let exponent: i64 = exponent.parse().expect("an exponent");
    let unsigned = mantissa.trim_start_matches('-');
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let digits = format!("{whole}{fraction}");
    let leading = digits.len() - digits.trim_start_matches('0').len();
    let power = exponent + i64::try_from(whole.len()).expect("short") - leading as i64;
    match digits.trim_matches('0') {
        "" => (Ordering::Equal, 0, String::new()),
        digits if mantissa.starts_with('-') => (Ordering::Less, power, digits.to_owned()),
        digits => (Ordering::Greater, power, digits.to_owned()),
    }
}

/// As PostgreSQL writes a number of a JSONB document: all digits, no exponent, and as many digits of
/// the fraction as it was given, less the exponent.
fn jsonb(text: &str) -> String {
    let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let exponent: i64 = exponent.parse().expect("an exponent");
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let (sign, whole) = whole.split_at(usize::from(whole.starts_with('-')));
    let after = fraction.len() as i64 - exponent;
    let mut digits = format!("{whole}{fraction}{}", "0".repeat((-after).max(0) as usize));
    let after = after.max(0) as usize;
    if digits.len() <= after {
        digits.insert_str(0, &"0".repeat(after + 1 - digits.len()));
    }
    let (whole, fraction) = digits.split_at(digits.len() - after);
    let dot = if fraction.is_empty() { "" } else { "." };
    format!("{sign}{whole}{dot}{fraction}")
}

#[test]
fn a_double_stays_one_in_a_store_that_writes_every_digit() {
    #[track_caller]
    fn check(number: &str, digits: &str) {
        assert_eq!(jsonb(number), digits);
        let read = stored(&format!(r#"{{"a":[{digits},{{"b":{digits}}}]}}"#)).expect("JSON");
        let want = format!(r#"{{"a":[{number},{{"b":{number}}}]}}"#);
        assert_eq!(Value::Object(read).to_string(), want);
    }
    check("4503599627370495", "4503599627370495");
    check("-4503599627370496", "-4503599627370496");
    check("4503599627370496.0", "4503599627370496.0");
    check("9007199254740992.0", "9007199254740992.0");
    check("1e+16", "10000000000000000");
    check("-1e+16", "-10000000000000000");
    check("1.2345678901234568e+16", "12345678901234568");
    check("1e+18", "1000000000000000000");
    check("-9.223372036854776e+18", "-9223372036854776000");
    check("1.8e+19", "18000000000000000000");
    check("1e+23", "100000000000000000000000");
    check("-1.5e-7", "-0.00000015");
    check("5e-324", &format!("0.{}5", "0".repeat(323)));
}

fn compare(a: &str, b: &str) -> Ordering {
    let (a, b) = (decimal(a), decimal(b));
    let magnitude = (a.1, &a.2).cmp(&(b.1, &b.2));
    a.0.cmp(&b.0).then(if a.0 == Ordering::Less { magnitude.reverse() } else { magnitude })
}

/// Doubles of every size, and integers near each other and near the ends.
fn numbers() -> impl Strategy<Value = String> {
    let (least, most) = INTEGERS.into_inner();
    prop_oneof![
        any::<f64>()
            .prop_filter("finite", |double| double.is_finite())
            .prop_map(|d| format!("{d:?}")),
        (-9i64..9).prop_map(|small| small.to_string()),
        (-9i64..9).prop_map(|small| format!("{small}.0")),
        (-99i64..99).prop_map(|small| format!("{small}e-1")),
        (0..5i64).prop_map(move |near| (most - near).to_string()),
        (0..5i64).prop_map(move |near| (least + near).to_string()),
        (0..5i64).prop_map(move |near| format!("{}.5", most - near)),
        "-?[1-9][0-9]{0,20}\\.[0-9]{1,20}(e-?[0-9]{1,2})?",
        "-?[1-9](\\.[0-9]{1,16})?e1[5-9]",
        prop::sample::select(&["1e16", "1e18", "1.8e19", "4503599627370496.0"])
            .prop_map(str::to_owned),
    ]
}

fn documents() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        "[^\\x00]{0,6}".prop_map(Value::String),
        numbers().prop_map(|text| {
            let read = read(format!("{{\"n\":{text}}}").as_bytes()).expect("a number");
            read["n"].clone()
        }),
    ];
    let nested = leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::btree_map("[^\\x00]{0,3}", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    });
    prop::collection::btree_map("[^\\x00]{0,3}", nested, 0..4)
        .prop_map(|members| Value::Object(members.into_iter().collect()))
}

proptest! {
    #[test]
    fn a_document_survives_being_written(document in documents()) {
        let text = document.to_string();
        prop_assert_eq!(read(text.as_bytes()), Ok(document.clone()), "{}", text);
        // As a store reads back what it wrote.
        let again: Value = serde_json::from_str(&text).expect("JSON");
        prop_assert_eq!(again.to_string(), text);
    }

    #[test]
    fn a_number_survives_a_store_that_writes_every_digit(number in numbers()) {
        let document = read(format!("{{\"n\":{number}}}").as_bytes()).expect("a number");
        let digits = jsonb(&document["n"].to_string());
        let again = stored(&format!("{{\"n\":{digits}}}")).expect("JSON");
        prop_assert_eq!(Value::Object(again), document, "{}", digits);
    }

    #[test]
    fn the_order_of_doubles_is_the_order_of_what_is_written(a in numbers(), b in numbers()) {
        let read = |text: &str| {
            let value = read(format!("{{\"n\":{text}}}").as_bytes()).expect("a number");
            (value["n"].as_f64().expect("a number"), value["n"].to_string())
        };
        let ((a, a_text), (b, b_text)) = (read(&a), read(&b));
        prop_assert_eq!(a.partial_cmp(&b), Some(compare(&a_text, &b_text)), "{} {}", a_text, b_text);
    }

    #[test]
    fn any_text_is_read_or_refused(text in prop::collection::vec(any::<u8>(), 0..40)) {
        let _ = read(&text);
    }
}
