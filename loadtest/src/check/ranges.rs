//! Sets of numbers that come nearly in order, as ranges.
//!
//! By hand: the crates for it (rangemap, range-set-blaze) keep a tree node of some 280 bytes for
//! what is one range nearly always, and there are several sets for each connection.

use std::collections::BTreeMap;

/// First and last number of a range.
type Range = (u64, u64);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    /// The highest range: it is the one that grows.
    top: Option<Range>,
    /// Those below it, first number to last. None touches another, or `top`.
    below: BTreeMap<u64, u64>,
}

impl Ranges {
    /// Whether it was not there before.
    pub fn insert(&mut self, number: u64) -> bool {
        let Some((first, last)) = &mut self.top else {
            self.top = Some((number, number));
            return true;
        };
        if *last < number {
            if *last + 1 == number {
                *last = number;
            } else {
                self.below.insert(*first, *last);
                self.top = Some((number, number));
            }
            return true;
        }
        if *first <= number {
            return false;
        }
        let before = self.below.range(..=number).next_back();
        let before = before.map(|(first, last)| (*first, *last));
        if before.is_some_and(|(_, last)| number <= last) {
            return false;
        }
        let start = match before {
            Some((start, last)) if last + 1 == number => start,
            _ => number,
        };
        if number + 1 == *first {
            *first = start;
            self.below.remove(&start);
        } else {
            let end = self.below.remove(&(number + 1)).unwrap_or(number);
            self.below.insert(start, end);
        }
        true
    }

    pub fn contains(&self, number: u64) -> bool {
        let within = |(first, last): Range| first <= number && number <= last;
        let below = self.below.range(..=number).next_back();
        self.top.is_some_and(within) || below.is_some_and(|(first, last)| within((*first, *last)))
    }

    pub fn highest(&self) -> Option<u64> {
        self.top.map(|(_, last)| last)
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = Range> {
        self.below.iter().map(|(first, last)| (*first, *last)).chain(self.top)
    }

    pub fn is_empty(&self) -> bool {
        self.top.is_none()
    }

    /// How many numbers there are.
    pub fn count(&self) -> u64 {
        self.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// How many ranges that are not within the struct itself.
    pub fn outside(&self) -> usize {
        self.below.len()
    }

    /// What is in this one and in none of the others.
    pub fn minus(&self, others: &[&Self]) -> Self {
        let mut left = self.clone();
        for other in others {
            left = left.without(other);
        }
        left
    }

    fn without(&self, other: &Self) -> Self {
        let mut left = Self::default();
        let mut holes = other.iter().peekable();
        for (mut first, last) in self.iter() {
            while holes.next_if(|(_, end)| *end < first).is_some() {}
            // A hole may reach into the next range: it stays to be looked at.
            let mut whole = true;
            while let Some((start, end)) = holes.peek().copied().filter(|(start, _)| *start <= last)
            {
                if first < start {
                    left.push((first, start - 1));
                }
                if end >= last {
                    whole = false;
                    break;
                }
                first = end + 1;
                holes.next();
            }
            if whole {
                left.push((first, last));
            }
        }
        left
    }

    /// What is in both.
    pub fn and(&self, other: &Self) -> Self {
        self.without(&self.without(other))
    }

    /// What is in any of them.
    pub fn or(&self, others: &[&Self]) -> Self {
        let mut all: Vec<Range> = self.iter().collect();
        all.extend(others.iter().flat_map(|other| other.iter()));
        all.sort_unstable();
        let mut union = Self::default();
        for (first, last) in all {
            match &mut union.top {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => union.push((first, last)),
            }
        }
        union
    }

    /// Behind all that is there, and not touching it.
    fn push(&mut self, range: Range) {
        if let Some((first, last)) = self.top.replace(range) {
            self.below.insert(first, last);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use fastrand::Rng;

    use super::*;

    fn of(numbers: &BTreeSet<u64>) -> Ranges {
        let mut ranges = Ranges::default();
        for number in numbers {
            ranges.insert(*number);
        }
        ranges
    }

    #[track_caller]
    fn agree(ranges: &Ranges, model: &BTreeSet<u64>) {
        let numbers: Vec<_> = ranges.iter().flat_map(|(first, last)| first..=last).collect();
        assert!(numbers.iter().eq(model), "{numbers:?} {model:?}");
        assert_eq!(*ranges, of(model), "one shape for one set");
        assert_eq!(ranges.count(), model.len() as u64);
        assert_eq!(ranges.highest(), model.last().copied());
        assert_eq!(ranges.is_empty(), model.is_empty());
        assert!((0..70).all(|number| ranges.contains(number) == model.contains(&number)));
    }

    #[test]
    fn it_is_a_set() {
        let seed = fastrand::u64(..);
        let mut random = Rng::with_seed(seed);
        for round in 0..2_000 {
            let (most, density) = (random.u64(1..64), random.usize(0..80));
            let mut sets = [(); 2].map(|()| (Ranges::default(), BTreeSet::new()));
            for (ranges, model) in &mut sets {
                for _ in 0..density {
                    let number = random.u64(0..most);
                    assert_eq!(ranges.insert(number), model.insert(number), "seed {seed}");
                    agree(ranges, model);
                }
            }
            let [(a, in_a), (b, in_b)] = sets;
            let note = format!("seed {seed}, round {round}");
            assert!(a.outside() <= in_a.len(), "{note}");
            agree(&a.minus(&[&b]), &(&in_a - &in_b));
            agree(&a.and(&b), &(&in_a & &in_b));
            agree(&a.or(&[&b]), &(&in_a | &in_b));
        }
    }

    #[test]
    fn the_last_number_of_all_is_one_too() {
        let mut ranges = Ranges::default();
        assert!(ranges.insert(u64::MAX) && ranges.insert(u64::MAX - 1) && ranges.insert(0));
        assert!(!ranges.insert(u64::MAX));
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [(0, 0), (u64::MAX - 1, u64::MAX)]);
        assert_eq!(ranges.minus(&[&ranges]), Ranges::default());
        assert_eq!(ranges.or(&[&ranges]), ranges);
    }

    #[test]
    fn what_comes_in_order_takes_no_room() {
        let mut ranges = Ranges::default();
        for number in 0..100_000 {
            // A window of acknowledgements, each pair the wrong way round.
            ranges.insert(number ^ 1);
            assert!(ranges.outside() <= 1);
        }
    }
}
