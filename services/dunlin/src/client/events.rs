//! Reading server-sent events.

use std::time::Duration;

use reqwest::Response;
use serde_json::Value;

use super::{ClientError, unreachable};

/// One event of the stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Where to go on behind it: `last-event-id` of another stream.
    pub id: String,
    pub data: Value,
}

/// The hub says something every 15 seconds; one that is silent for so long has gone.
const SILENCE: Duration = Duration::from_secs(45);

/// An open event stream.
pub struct EventStream {
    response: Response,
    base: String,
    parser: Parser,
}

impl EventStream {
    /// Once it says where it begins.
    pub(super) async fn begin(response: Response, base: String) -> Result<Self, ClientError> {
        let mut stream = Self { response, base, parser: Parser::default() };
        // The first block is an id alone.
        while stream.parser.block().is_none() {
            if !stream.more().await? {
                let reason = "it has ended the stream before it began".to_owned();
                return Err(ClientError::Unreachable { base: stream.base, reason });
            }
        }
        Ok(stream)
    }

    /// Where to go on behind what `next` and `buffered` have returned.
    pub fn position(&self) -> &str {
        &self.parser.position
    }

    /// The next event; `None` when the hub has ended the stream.
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        loop {
            if let Some(event) = self.buffered() {
                return Ok(Some(event));
            }
            if !self.more().await? {
                return Ok(None);
            }
        }
    }

    /// The next event, if it has come already.
    pub fn buffered(&mut self) -> Option<Event> {
        while let Some(block) = self.parser.block() {
            if block.is_some() {
                return block;
            }
        }
        None
    }

    /// Reads on; false at the end.
    async fn more(&mut self) -> Result<bool, ClientError> {
        let Ok(chunk) = tokio::time::timeout(SILENCE, self.response.chunk()).await else {
            let reason = format!("it was silent for {} seconds", SILENCE.as_secs());
            return Err(ClientError::Unreachable { base: self.base.clone(), reason });
        };
        let chunk = chunk.map_err(|error| unreachable(&self.base, &error))?;
        self.parser.unread.extend_from_slice(chunk.as_deref().unwrap_or_default());
        Ok(chunk.is_some())
    }
}

#[derive(Default)]
struct Parser {
    unread: Vec<u8>,
    /// What of `unread` holds no line break.
    searched: usize,
    id: String,
    data: String,
    /// The last id of a whole block.
    position: String,
}

impl Parser {
    /// The next whole block of what was fed, and the event that is in it. Comments and fields we do
    /// not use are passed over.
    fn block(&mut self) -> Option<Option<Event>> {
        while let Some(at) = self.unread[self.searched..].iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.unread.drain(..=self.searched + at).collect();
            self.searched = 0;
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\n', '\r']);
            if line.is_empty() {
                let (id, data) = (std::mem::take(&mut self.id), std::mem::take(&mut self.data));
                if !id.is_empty() {
                    self.position.clone_from(&id);
                }
                return Some(serde_json::from_str(&data).ok().map(|data| Event { id, data }));
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
        let text = ":\n\nid: 0:6,1:0\n\nid: 0:7,1:0\ndata: {\"a\":\"ä\"}\n\n: beat\n\nevent: x\r\nid:0:7,1:1\r\n\
                    data:1\r\n\r\nid: 0:9";
        let want = [
            (None, ""),
            (None, "0:6,1:0"),
            (Some(json!({"a": "ä"})), "0:7,1:0"),
            (None, "0:7,1:0"),
            (Some(json!(1)), "0:7,1:1"),
        ];
        let want = want
            .map(|(data, at)| (data.map(|data| Event { id: at.to_owned(), data }), at.to_owned()));
        for size in 1..=text.len() {
            let mut parser = Parser::default();
            let mut got = Vec::new();
            for chunk in text.as_bytes().chunks(size) {
                parser.unread.extend_from_slice(chunk);
                while let Some(block) = parser.block() {
                    got.push((block, parser.position.clone()));
                }
            }
            assert_eq!(got, want, "in pieces of {size}");
        }
    }
}
