//! How much of it a check holds, by what it puts into its maps and sets. An estimate on the high
//! side: the process's own memory says nothing of what could be let go.

use std::collections::HashMap;
use std::hash::Hash;

use super::ranges::Ranges;

/// Of a range that has a place in a tree, whose nodes are half full.
const RANGE: usize = 40;
/// Of a tree with a range in it.
const TREE: usize = 256;

#[derive(Default)]
pub struct Memory(usize);

impl Memory {
    pub fn bytes(&self) -> usize {
        self.0
    }

    pub fn add(&mut self, bytes: usize) {
        self.0 += bytes;
    }

    /// The value of the key; a new one has its default.
    pub fn entry<'m, K: Eq + Hash, V: Default>(
        &mut self,
        map: &'m mut HashMap<K, V>,
        key: K,
    ) -> &'m mut V {
        map.entry(key).or_insert_with(|| {
            // A map that grows has old and new place at one time.
            self.0 += 2 * size_of::<(K, V)>();
            V::default()
        })
    }

    /// Whether the number was not there before.
    pub fn insert(&mut self, set: &mut Ranges, number: u64) -> bool {
        let held = |set: &Ranges| match set.outside() {
            0 => 0,
            ranges => TREE + RANGE * ranges,
        };
        let before = held(set);
        let new = set.insert(number);
        self.0 = self.0 + held(set) - before;
        new
    }
}
