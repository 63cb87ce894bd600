//! Bodies and properties of simulated telemetry.

use super::SimulateArgs;
use crate::cli::failure::Failure;
use crate::cli::input;
use crate::client::encoded;

/// What each message is made of.
pub(super) struct Messages {
    data: Option<String>,
    size: usize,
    /// Encoded, as topics carry them, with a `&` behind.
    properties: String,
    /// So that two runs share no message id.
    run: String,
}

impl Messages {
    pub(super) fn new(arguments: &SimulateArgs) -> Result<Self, Failure> {
        let mut properties = input::properties(arguments.props.as_deref().unwrap_or_default())?;
        let content_type = match &arguments.data {
            Some(_) => arguments.content_type.as_deref(),
            None => Some("application/json"),
        };
        if let Some(content_type) = content_type {
            properties.push_str(&format!("$.ct={}&$.ce=utf-8&", encoded(content_type)));
        }
        let run = dunlin_auth::Key::generate().to_base64();
        let run = run.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
        let (data, size) = (arguments.data.clone(), arguments.size.unwrap_or(0));
        Ok(Self { data, size, properties, run })
    }

    pub(super) fn topic(&self, device: &str, number: u64) -> String {
        let (properties, run) = (&self.properties, &self.run);
        format!("devices/{device}/messages/events/{properties}$.mid={run}-{number}")
    }

    pub(super) fn body(&self, device: &str, number: u64) -> String {
        if let Some(data) = &self.data {
            return data.clone();
        }
        // Readings that go up and down, the same in every run.
        let temperature = 20.0 + 5.0 * (number as f64 / 10.0).sin();
        let humidity = 60.0 + 20.0 * (number as f64 / 25.0).cos();
        let body = format!(
            r#"{{"device":{},"number":{number},"temperature":{temperature:.2},"humidity":{humidity:.2}"#,
            serde_json::Value::from(device),
        );
        let bare = body.len() + 1;
        if self.size <= bare {
            return body + "}";
        }
        // JSON may have white space anywhere: the smallest sizes have no room for more.
        const MORE: &str = r#","padding":"""#;
        match (self.size - bare).checked_sub(MORE.len()) {
            Some(room) => format!(r#"{body},"padding":"{}"}}"#, "x".repeat(room)),
            None => format!("{body}{}}}", " ".repeat(self.size - bare)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_json_of_the_size_asked_for() {
        for size in 0..300 {
            let messages =
                Messages { data: None, size, properties: String::new(), run: String::new() };
            let body = messages.body("d\"1", 7);
            let value: serde_json::Value = serde_json::from_str(&body).expect("JSON");
            assert_eq!((&value["device"], &value["number"]), (&"d\"1".into(), &7.into()));
            let bare = messages.body("d\"1", 7).trim_end().len().min(68);
            assert!(body.len() == size || size < bare, "{size}: {}", body.len());
        }
    }
}
