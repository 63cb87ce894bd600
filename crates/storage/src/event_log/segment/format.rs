//! HOT PATH: what the bytes of a segment file mean. All numbers are little-endian.
//!
//! A file is a segment header and blocks; a block is a header and the records that one batch
//! brought one partition. Each part has a checksum of its own.

use std::hash::{BuildHasher, RandomState};

use dunlin_model::event::{Event, Property};

use crate::event_log::Record;

/// Raised when older code could not read what newer code writes.
const VERSION: u32 = 1;
const SEGMENT_MAGIC: &[u8; 8] = b"dunlinEL";
pub(super) const BLOCK_MAGIC: [u8; 4] = *b"\xd0\x71\xbe\x0c";
pub(super) const BLOCK_HEADER: usize = 44;
/// Length, checksum, offset, time.
const RECORD_HEADER: usize = 24;

/// Opens each file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub number: u64,
    /// Goes into the checksums of block headers: no device can send bytes that pass for a block.
    pub salt: u64,
    /// Unix milliseconds.
    pub created: i64,
    /// By partition, an offset above all before this file: offsets outlive the records.
    pub next: Vec<u64>,
}

/// Why a file cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadSegment {
    Damaged,
    Version(u32),
}

impl SegmentHeader {
    pub(super) fn new(number: u64, created: i64, next: Vec<u64>) -> Self {
        // Seeded by the operating system anew.
        let salt = RandomState::new().hash_one(number);
        Self { number, salt, created, next }
    }

    pub(super) fn bytes(partitions: u32) -> u64 {
        48 + 8 * u64::from(partitions)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(SEGMENT_MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        // A checksum for the version alone: newer code may arrange the rest otherwise.
        out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
        out.extend_from_slice(&(self.next.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.salt.to_le_bytes());
        out.extend_from_slice(&self.created.to_le_bytes());
        for next in &self.next {
            out.extend_from_slice(&next.to_le_bytes());
        }
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8], partitions: u32) -> Result<Self, BadSegment> {
        let mut fields = Fields(bytes);
        let magic = fields.take(8).ok_or(BadSegment::Damaged)?;
        let version = fields.u32().ok_or(BadSegment::Damaged)?;
        let sound = fields.u32() == Some(crc32fast::hash(&bytes[..12]));
        if !sound || magic != SEGMENT_MAGIC {
            return Err(BadSegment::Damaged);
        }
        if version != VERSION {
            return Err(BadSegment::Version(version));
        }
        let length = Self::bytes(partitions) as usize;
        let (sum, crc) = bytes.split_at_checked(length - 4).ok_or(BadSegment::Damaged)?;
        if fields.u32() != Some(partitions) || Fields(crc).u32() != Some(crc32fast::hash(sum)) {
            return Err(BadSegment::Damaged);
        }
        let mut decode = || {
            Some(Self {
                number: fields.u64()?,
                salt: fields.u64()?,
                created: fields.u64()?.cast_signed(),
                next: (0..partitions).map(|_| fields.u64()).collect::<Option<_>>()?,
            })
        };
        decode().ok_or(BadSegment::Damaged)
    }
}

/// Opens the records that one batch brought one partition. Their offsets are dense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockHeader {
    pub partition: u32,
    pub base: u64,
    pub records: u32,
    /// Bytes that follow this header.
    pub body: u32,
    /// Up to where this file was durable before the block's batch: tells damage from a torn tail.
    pub durable_before: u64,
    pub max_time: i64,
}

impl BlockHeader {
    pub(super) fn next(&self) -> u64 {
        self.base + u64::from(self.records)
    }

    /// Bytes of the whole block.
    pub(super) fn bytes(&self) -> u64 {
        BLOCK_HEADER as u64 + u64::from(self.body)
    }

    pub(super) fn encode(&self, salt: u64) -> [u8; BLOCK_HEADER] {
        let mut out = [0; BLOCK_HEADER];
        out[0..4].copy_from_slice(&BLOCK_MAGIC);
        out[4..8].copy_from_slice(&self.partition.to_le_bytes());
        out[8..16].copy_from_slice(&self.base.to_le_bytes());
        out[16..20].copy_from_slice(&self.records.to_le_bytes());
        out[20..24].copy_from_slice(&self.body.to_le_bytes());
        out[24..32].copy_from_slice(&self.durable_before.to_le_bytes());
        out[32..40].copy_from_slice(&self.max_time.to_le_bytes());
        let crc = salted(salt, &out[..40]);
        out[40..44].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8], salt: u64) -> Option<Self> {
        let mut fields = Fields(bytes);
        let magic = fields.take(4)?;
        let header = Self {
            partition: fields.u32()?,
            base: fields.u64()?,
            records: fields.u32()?,
            body: fields.u32()?,
            durable_before: fields.u64()?,
            max_time: fields.u64()?.cast_signed(),
        };
        let crc = fields.u32()?;
        (magic == BLOCK_MAGIC && crc == salted(salt, &bytes[..40])).then_some(header)
    }
}

fn salted(salt: u64, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

/// HOT PATH: appends a record to a block's body.
pub(super) fn encode_record(out: &mut Vec<u8>, offset: u64, record: &Record<'_>) {
    let start = out.len();
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&offset.to_le_bytes());
    out.extend_from_slice(&record.enqueued.to_le_bytes());
    put_bytes(out, record.key);
    put_number(out, record.headers.len() as u64);
    for header in record.headers {
        put_bytes(out, header.name.as_bytes());
        // One more than the length: 0 is a header without a value.
        match header.value {
            None => out.push(0),
            Some(value) => {
                put_number(out, value.len() as u64 + 1);
                out.extend_from_slice(value.as_bytes());
            }
        }
    }
    put_bytes(out, record.body);
    let length = (out.len() - start - 8) as u32;
    let crc = crc32fast::hash(&out[start + 8..]);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Seven bits a byte, the lowest first; the highest bit says that more follow.
fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// A record whose checksum held, not yet taken apart.
pub(super) struct RawRecord<'a> {
    pub offset: u64,
    pub time: i64,
    /// Bytes on disk.
    pub bytes: usize,
    rest: &'a [u8],
}

impl RawRecord<'_> {
    pub(super) fn event(&self, partition: u32) -> Option<Event> {
        let mut fields = Fields(self.rest);
        let key = fields.bytes()?.to_vec();
        let count = fields.number()?;
        let mut headers = Vec::new();
        for _ in 0..count {
            let name = fields.text()?;
            let value = match fields.number()? {
                0 => None,
                more => Some(text(fields.take(usize::try_from(more - 1).ok()?)?)?),
            };
            headers.push(Property { name, value });
        }
        let body = fields.bytes()?.to_vec();
        Some(Event { partition, offset: self.offset, enqueued: self.time, key, headers, body })
    }
}

/// The records of a block's body, ending with `None` inside if one is damaged.
pub(super) fn records<'a>(
    header: &BlockHeader,
    body: &'a [u8],
) -> impl Iterator<Item = Option<RawRecord<'a>>> {
    let mut rest = Fields(body);
    let mut offsets = header.base..header.next();
    std::iter::from_fn(move || {
        let offset = offsets.next()?;
        let record = rest.record().filter(|record| record.offset == offset);
        if record.is_none() {
            offsets.start = offsets.end;
        }
        Some(record)
    })
}

fn text(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}

/// Reads from the front; `None` as soon as it would go beyond the end.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*bytes))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*bytes))
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = *self.take(1)?.first()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(usize::try_from(length).ok()?)
    }

    fn text(&mut self) -> Option<String> {
        text(self.bytes()?)
    }

    fn record(&mut self) -> Option<RawRecord<'a>> {
        let length = self.u32()? as usize;
        let crc = self.u32()?;
        let sum = self.take(length)?;
        if crc32fast::hash(sum) != crc {
            return None;
        }
        let mut fields = Fields(sum);
        let (offset, time) = (fields.u64()?, fields.u64()?.cast_signed());
        Some(RawRecord { offset, time, bytes: RECORD_HEADER - 16 + length, rest: fields.0 })
    }
}
