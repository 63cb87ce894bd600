//! HOT PATH: which partition a key goes to: Kafka's default partitioner, as Java clients have it.

/// The partition of a key: the same in both shapes, so that a log can be moved to Kafka.
pub fn partition_of(key: &[u8], partitions: u32) -> u32 {
    // Kafka's `toPositive`: drops the sign, which is not the absolute value.
    (murmur2(key) & 0x7fff_ffff) % partitions
}

fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    // Kafka hashes arrays, whose length is 32 bits wide.
    let mut hash = SEED ^ data.len() as u32;
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        for (place, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * place);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn hashes_as_kafka_does() {
        for (key, want) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), want, "{key}");
        }
    }

    #[test]
    fn partitions_are_in_range_and_all_used() {
        let mut used = [false; 7];
        for n in 0..200 {
            used[partition_of(format!("device-{n}").as_bytes(), 7) as usize] = true;
        }
        assert!(used.iter().all(|used| *used));
        assert_eq!(partition_of(b"foobar", 4), ((-790_332_482_i32) & 0x7fff_ffff) as u32 % 4);
    }
}
