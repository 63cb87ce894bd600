//! The body of a telemetry message in a history: who reads the log knows which one it is, and
//! whether it is as it was sent.
//!
//! `epoch:sequence:sum:` and filler up to the size. The sum is over the device's id and all the
//! rest, so that a message under another device's name is altered, too.

use crc32fast::Hasher;

/// Appends a body of this many bytes, or as many as the stamp has.
pub fn write(out: &mut Vec<u8>, device: &str, epoch: u32, sequence: u64, size: usize) {
    let start = out.len();
    out.extend_from_slice(format!("{epoch}:{sequence}:").as_bytes());
    let rest = (start + size).saturating_sub(out.len() + 9);
    let filler = b"0123456789abcdef".iter().cycle().take(rest);
    let mut hasher = Hasher::new();
    hasher.update(device.as_bytes());
    hasher.update(&out[start..]);
    let at = out.len();
    out.extend_from_slice(b"--------:");
    out.extend(filler);
    hasher.update(&out[at + 9..]);
    let sum = format!("{:08x}", hasher.finalize());
    out[at..at + 8].copy_from_slice(sum.as_bytes());
}

/// A message of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub epoch: u32,
    pub sequence: u64,
    /// It is as it was sent.
    pub intact: bool,
}

/// `None`: nothing of ours.
pub fn read(device: &str, body: &[u8]) -> Option<Stamp> {
    let mut parts = body.splitn(4, |byte| *byte == b':');
    let mut part = || parts.next().and_then(|part| std::str::from_utf8(part).ok());
    let (epoch, sequence, sum) = (part()?, part()?, part()?);
    let filler = parts.next()?;
    let numbers = &body[..epoch.len() + sequence.len() + 2];
    let mut hasher = Hasher::new();
    hasher.update(device.as_bytes());
    hasher.update(numbers);
    hasher.update(filler);
    let intact = format!("{:08x}", hasher.finalize()) == sum;
    Some(Stamp { epoch: epoch.parse().ok()?, sequence: sequence.parse().ok()?, intact })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(size: usize) -> Vec<u8> {
        let mut body = b"before".to_vec();
        write(&mut body, "d-1", 3, 17, size);
        body.split_off(6)
    }

    #[test]
    fn a_body_says_which_it_is() {
        for size in [0, 13, 14, 15, 256] {
            let body = body(size);
            assert_eq!(body.len(), size.max(14));
            let want = Stamp { epoch: 3, sequence: 17, intact: true };
            assert_eq!(read("d-1", &body), Some(want), "{size}");
            let other = Stamp { intact: false, ..want };
            assert_eq!(read("d-2", &body), Some(other), "another device's");
        }
    }

    #[test]
    fn whatever_is_changed_is_seen() {
        let good = body(40);
        for at in 0..good.len() {
            let mut body = good.clone();
            body[at] ^= 1;
            assert!(read("d-1", &body).is_none_or(|stamp| !stamp.intact), "byte {at}");
        }
        assert!(read("d-1", &good[..39]).is_some_and(|stamp| !stamp.intact), "cut");
        for foreign in ["", "hello", "1:2", "1:2:0a0b0c0d", "a:b:c:d"] {
            assert_eq!(read("d-1", foreign.as_bytes()), None, "{foreign}");
        }
    }
}
