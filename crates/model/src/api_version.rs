//! The `api-version` that IoT Hub's HTTPS paths want in their query.

use jiff::civil::{Date, date};

use crate::error::{ErrorCode, HubError};

/// The first version of the API that had today's shapes.
const OLDEST: Date = date(2016, 2, 3);

/// `YYYY-MM-DD[-preview]`. Later versions than we know are taken: what they add, they ask for.
pub fn check(version: Option<&str>) -> Result<(), HubError> {
    let refused = |message: &str| Err(HubError::new(ErrorCode::InvalidProtocolVersion, message));
    let Some(version) = version else {
        return refused("the query parameter api-version is missing");
    };
    let date = version.strip_suffix("-preview").unwrap_or(version);
    match date.parse::<Date>() {
        Ok(day) if date.len() == 10 && day >= OLDEST => Ok(()),
        _ => refused("api-version is not YYYY-MM-DD[-preview] of 2016-02-03 or later"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_versions_are_dates() {
        for good in ["2016-02-03", "2016-09-30-preview", "2021-04-12", "2030-01-01"] {
            assert!(check(Some(good)).is_ok(), "{good}");
        }
        for bad in [
            "2016-02-02",
            "2015-08-15-preview",
            "",
            "latest",
            "2021-4-12",
            "2021-13-01",
            "2021-04-12T00:00",
            "20210412",
        ] {
            assert!(check(Some(bad)).is_err(), "{bad}");
        }
        assert!(check(None).is_err());
    }
}
