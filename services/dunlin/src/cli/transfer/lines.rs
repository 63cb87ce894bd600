//! The file between two stores: lines of JSON. The first says what it is, each further one is a row
//! of a table, the last one holds the counts and the SHA-256 of all before it.

use std::io::{self, BufRead, Read, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dunlin_storage::transfer::{Kind, Row, Table, Value};
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

use super::Counts;

/// Raised when an older `import` could not read what is written.
const VERSION: u64 = 1;
/// Far more than the longest row takes: a twin at all its limits, written twice as JSON.
const LINE: u64 = 16 << 20;

/// Why a file is not taken. Lines are counted from 1.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadFile {
    #[error("it is no export of a hub: `dunlin export` writes one")]
    NoExport,
    #[error(
        "it is of version {0}, this dunlin reads {VERSION}: import it with the one that wrote it"
    )]
    Version(u64),
    #[error("line {line}: {why}")]
    Line { line: u64, why: String },
    #[error("it ends in line {0}, before all was told: it was cut short; export again")]
    Short(u64),
    #[error("it is damaged: what it holds is not what was written; copy it, or export, again")]
    Damaged,
    #[error("cannot read it")]
    Read(#[source] io::Error),
}

#[derive(Serialize, Deserialize)]
struct Header {
    #[serde(rename = "dunlin-export")]
    version: u64,
    /// The dunlin that wrote it, for people.
    by: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct End {
    end: Counts,
    sha256: String,
}

pub(super) struct Writer<W> {
    to: W,
    digest: Context,
    counts: Counts,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(to: W) -> io::Result<Self> {
        let mut writer = Self { to, digest: Context::new(&SHA256), counts: Counts::default() };
        let header = Header { version: VERSION, by: env!("CARGO_PKG_VERSION").to_owned() };
        writer.line(&json!(header))?;
        Ok(writer)
    }

    pub(super) fn row(&mut self, row: &Row) -> io::Result<()> {
        self.counts.add(row);
        self.line(&write(row))
    }

    /// Writes the last line; what was written so far is worth nothing without it.
    pub(super) fn end(mut self) -> io::Result<(W, Counts)> {
        let end = End { end: self.counts, sha256: sum(self.digest.clone()) };
        self.line(&json!(end))?;
        self.to.flush()?;
        Ok((self.to, self.counts))
    }

    fn line(&mut self, line: &Json) -> io::Result<()> {
        let line = format!("{line}\n");
        self.digest.update(line.as_bytes());
        self.to.write_all(line.as_bytes())
    }
}

pub(super) struct Reader<R> {
    from: R,
    digest: Context,
    counts: Counts,
    lines: u64,
    line: Vec<u8>,
}

impl<R: BufRead> Reader<R> {
    /// Reads the first line.
    pub(super) fn new(from: R) -> Result<Self, BadFile> {
        let (digest, counts) = (Context::new(&SHA256), Counts::default());
        let mut reader = Self { from, digest, counts, lines: 0, line: Vec::new() };
        match reader.next_line() {
            Ok(()) => {}
            Err(BadFile::Read(error)) => return Err(BadFile::Read(error)),
            Err(_) => return Err(BadFile::NoExport),
        }
        let header: Header = serde_json::from_slice(&reader.line).map_err(|_| BadFile::NoExport)?;
        if header.version != VERSION {
            return Err(BadFile::Version(header.version));
        }
        reader.digest.update(&reader.line);
        Ok(reader)
    }

    /// The next row; `None`: that was all, and the file is whole.
    pub(super) fn row(&mut self) -> Result<Option<Row>, BadFile> {
        self.next_line()?;
        if self.line.starts_with(b"{\"end\":") {
            return self.check_end().map(|()| None);
        }
        self.digest.update(&self.line);
        let read = serde_json::from_slice(&self.line).map_err(|error| error.to_string());
        let row = read.and_then(read_row).map_err(|why| self.bad(why))?;
        self.counts.add(&row);
        Ok(Some(row))
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// Where the last row stands.
    pub(super) fn lines(&self) -> u64 {
        self.lines
    }

    fn check_end(&mut self) -> Result<(), BadFile> {
        let end: End = serde_json::from_slice(&self.line).map_err(|e| self.bad(e.to_string()))?;
        if end.end != self.counts || end.sha256 != sum(self.digest.clone()) {
            return Err(BadFile::Damaged);
        }
        match self.from.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(self.bad("there is more behind the end".to_owned())),
            Err(error) => Err(BadFile::Read(error)),
        }
    }

    fn next_line(&mut self) -> Result<(), BadFile> {
        self.line.clear();
        self.lines += 1;
        let mut bounded = (&mut self.from).take(LINE);
        let length = bounded.read_until(b'\n', &mut self.line).map_err(BadFile::Read)?;
        match self.line.last() {
            Some(b'\n') => Ok(()),
            _ if length as u64 == LINE => {
                Err(self.bad(format!("no row is longer than {LINE} bytes")))
            }
            _ => Err(BadFile::Short(self.lines)),
        }
    }

    fn bad(&self, why: String) -> BadFile {
        BadFile::Line { line: self.lines, why }
    }
}

fn sum(digest: Context) -> String {
    STANDARD.encode(digest.finish())
}

/// `{"table": {"column": value}}`, bytes as base64, nothing where there is none.
fn write(row: &Row) -> Json {
    let columns = row.table().columns.iter().zip(row.values());
    let columns = columns.filter_map(|(column, value)| {
        let value = match value {
            Value::Null => return None,
            Value::Text(text) => text.as_str().into(),
            Value::Bytes(bytes) => STANDARD.encode(bytes).into(),
            Value::Number(number) => (*number).into(),
            Value::Flag(flag) => (*flag).into(),
        };
        Some((column.name.to_owned(), value))
    });
    json!({ row.table().name: columns.collect::<Map<_, _>>() })
}

/// The error says what is wrong, and nothing of what a column holds.
fn read_row(line: Map<String, Json>) -> Result<Row, String> {
    let mut line = line.into_iter();
    let (Some((name, Json::Object(mut columns))), None) = (line.next(), line.next()) else {
        return Err("it is no row of a table".to_owned());
    };
    let table = Table::named(&name).ok_or("it is a row of a table that is not known")?;
    let mut values = Vec::with_capacity(table.columns.len());
    for column in table.columns {
        let value = match (column.kind, columns.remove(column.name)) {
            (_, None) => Some(Value::Null),
            (Kind::Text(_), Some(Json::String(text))) => Some(Value::Text(text)),
            (Kind::Bytes, Some(Json::String(text))) => STANDARD.decode(text).ok().map(Value::Bytes),
            (Kind::Number, Some(Json::Number(number))) => number.as_i64().map(Value::Number),
            (Kind::Flag, Some(Json::Bool(flag))) => Some(Value::Flag(flag)),
            _ => None,
        };
        values.push(value.ok_or_else(|| format!("{name}.{} cannot hold that", column.name))?);
    }
    match columns.keys().next() {
        Some(_) => Err(format!("{name} has a column that is not known")),
        None => Row::new(table, values).map_err(|bad| bad.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use dunlin_storage::transfer::conformance::sample;

    use super::*;

    fn file() -> (Vec<u8>, Vec<Row>) {
        let rows = sample(3);
        let mut writer = Writer::new(Vec::new()).expect("begun");
        rows.iter().for_each(|row| writer.row(row).expect("written"));
        let (file, counts) = writer.end().expect("ended");
        assert_eq!((counts.devices, counts.modules, counts.commands), (3, 1, 3));
        assert_eq!((counts.feedback, counts.settings, counts.rows), (2, 2, rows.len() as u64));
        (file, rows)
    }

    fn read(file: &[u8]) -> Result<Vec<Row>, BadFile> {
        let mut reader = Reader::new(file)?;
        let mut rows = Vec::new();
        while let Some(row) = reader.row()? {
            rows.push(row);
        }
        Ok(rows)
    }

    #[track_caller]
    fn refused(file: &[u8], says: &str) {
        let why = read(file).expect_err("refused").to_string();
        assert!(why.contains(says), "{why}");
    }

    #[test]
    fn what_is_written_is_read() {
        let (file, rows) = file();
        assert_eq!(read(&file).expect("good"), rows);
    }

    #[test]
    fn wherever_it_is_cut_it_is_refused() {
        let (file, _) = file();
        for length in 0..file.len() {
            read(&file[..length]).expect_err("cut short");
        }
        refused(&[&file[..], b"\n"].concat(), "behind the end");
    }

    #[test]
    fn whichever_bit_is_flipped_it_is_refused() {
        let (file, _) = file();
        // The name of the program in the first line among them; not what only people read.
        for at in 0..file.len() {
            let mut flipped = file.clone();
            flipped[at] ^= 1 << (at % 8);
            read(&flipped).expect_err("damaged");
        }
    }

    #[test]
    fn a_line_that_is_missing_twice_or_elsewhere_is_found() {
        let (file, _) = file();
        let lines: Vec<_> = file.split_inclusive(|byte| *byte == b'\n').collect();
        for at in 1..lines.len() - 1 {
            let (before, after) = lines.split_at(at);
            refused(&[before, &after[1..]].concat().concat(), "damaged");
            refused(&[before, &after[..1], after].concat().concat(), "damaged");
        }
        let mut swapped = lines.clone();
        swapped.swap(5, 6);
        refused(&swapped.concat(), "damaged");
    }

    #[test]
    fn what_is_no_export_is_refused() {
        let first = "{\"dunlin-export\":1,\"by\":\"0\"}\n";
        for garbage in ["", "\n", "garbage\n", "[]\n", "{}\n", "{\"dunlin-export\":\"1\"}\n"] {
            refused(garbage.as_bytes(), "no export");
        }
        refused(&vec![b'x'; LINE as usize + 1], "no export");
        refused(b"{\"dunlin-export\":2,\"by\":\"9.0\"}\n", "version 2");
        for (line, says) in [
            ("garbage", "line 2"),
            ("{\"setting\":1}", "no row of a table"),
            ("{\"setting\":{},\"twin\":{}}", "no row of a table"),
            ("{\"schema_version\":{}}", "not known"),
            ("{\"setting\":{\"name\":\"a\"}}", "setting.value"),
            ("{\"setting\":{\"name\":\"a\",\"value\":\"?\"}}", "setting.value"),
            (
                "{\"setting\":{\"name\":\"a\",\"value\":\"\",\"more\":1}}",
                "column that is not known",
            ),
            ("{\"sequence\":{\"name\":\"a\",\"value\":1e99}}", "sequence.value"),
            ("{\"sequence\":{\"name\":\"a\",\"value\":9223372036854775808}}", "sequence.value"),
            ("{\"end\":{}}", "line 2"),
        ] {
            refused(format!("{first}{line}\n").as_bytes(), says);
        }
        let deep = "[".repeat(100_000);
        refused(format!("{first}{{\"setting\":{deep}\n").as_bytes(), "line 2");
        let long = [first.as_bytes(), &vec![b'x'; LINE as usize]].concat();
        refused(&long, "no row is longer");
    }
}
