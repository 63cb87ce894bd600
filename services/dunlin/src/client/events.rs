//! Reading server-sent events.

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

/// An open event stream.
pub struct EventStream {
    response: Response,
    base: String,
    parser: Parser,
}

impl EventStream {
    pub(super) fn new(response: Response, base: String) -> Self {
        Self { response, base, parser: Parser::default() }
    }

    /// The next event; `None` when the hub has ended the stream.
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        loop {
            if let Some(event) = self.parser.next() {
                return Ok(Some(event));
            }
            match self.response.chunk().await {
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
