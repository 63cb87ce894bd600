//! Reading server-sent events.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::Response;
use serde_json::Value;

use super::{ClientError, unreachable};

/// One event of the stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// `partition:offset`, for `after`.
    pub id: String,
    pub data: Value,
}

/// The hub says something every 15 seconds; one that is silent for so long has gone.
const SILENCE: Duration = Duration::from_secs(45);

/// An open event stream.
pub struct EventStream {
    response: Response,
    base: String,
    opened: Timestamp,
    parser: Parser,
}

impl EventStream {
    pub(super) fn new(response: Response, base: String) -> Self {
        let date = response.headers().get("date").and_then(|date| date.to_str().ok());
        let opened = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok());
        let opened = opened.map_or_else(Timestamp::now, |date| date.timestamp());
        Self { response, base, opened, parser: Parser::default() }
    }

    /// When it was opened by the hub's clock, in whole seconds: rather too early than too late.
    pub fn opened(&self) -> Timestamp {
        self.opened
    }

    /// The next event; `None` when the hub has ended the stream.
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        loop {
            if let Some(event) = self.parser.next() {
                return Ok(Some(event));
            }
            let Ok(chunk) = tokio::time::timeout(SILENCE, self.response.chunk()).await else {
                let reason = format!("it was silent for {} seconds", SILENCE.as_secs());
                return Err(ClientError::Unreachable { base: self.base.clone(), reason });
            };
            match chunk {
                Ok(Some(chunk)) => self.parser.unread.extend_from_slice(&chunk),
                Ok(None) => return Ok(None),
                Err(error) => return Err(unreachable(&self.base, &error)),
            }
        }
    }
}

#[derive(Default)]
struct Parser {
    unread: Vec<u8>,
    /// What of `unread` holds no line break.
    searched: usize,
    id: String,
    data: String,
}

impl Parser {
    /// The next whole event of what was fed. Comments and fields we do not use are passed over.
    fn next(&mut self) -> Option<Event> {
        while let Some(at) = self.unread[self.searched..].iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.unread.drain(..=self.searched + at).collect();
            self.searched = 0;
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\n', '\r']);
            if line.is_empty() {
                let (id, data) = (std::mem::take(&mut self.id), std::mem::take(&mut self.data));
                if let Ok(data) = serde_json::from_str(&data) {
                    return Some(Event { id, data });
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "id" => value.clone_into(&mut self.id),
                "data" => self.data.push_str(value),
                _ => {}
            }
        }
        self.searched = self.unread.len();
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_are_whole_however_they_arrive() {
        let text =
            ":\n\nid: 0:7\ndata: {\"a\":\"ä\"}\n\n: beat\n\nevent: x\r\nid:1:0\r\ndata:1\r\n\r\n";
        let want = [
            Event { id: "0:7".into(), data: json!({"a": "ä"}) },
            Event { id: "1:0".into(), data: json!(1) },
        ];
        for size in 1..=text.len() {
            let mut parser = Parser::default();
            let mut got = Vec::new();
            for chunk in text.as_bytes().chunks(size) {
                parser.unread.extend_from_slice(chunk);
                while let Some(event) = parser.next() {
                    got.push(event);
                }
            }
            assert_eq!(got, want, "in pieces of {size}");
        }
    }
}
