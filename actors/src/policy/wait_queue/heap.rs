//! A heap from which any entry can be taken, not only the least.
//!
//! Entries name slots. Where each slot stands is noted beside the heap, so that taking one out costs
//! O(log n) and leaves nothing behind: a heap that is cleared of its dead only when they come up
//! grows without bound under those who leave early. Four children a node: half the levels of a
//! binary heap, and the keys of one level lie side by side.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

const CHILDREN: usize = 4;
/// A slot that stands in no heap.
const NOWHERE: u32 = u32::MAX;

/// Where each slot stands in the one heap that holds it; heaps that share no slot may share it.
#[derive(Debug, Default)]
pub(super) struct Places(Vec<u32>);

impl Places {
    /// One more than the largest slot that has ever had a place.
    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    fn put(&mut self, slot: u32, place: usize) {
        let slot = slot as usize;
        if slot >= self.0.len() {
            self.0.resize(slot + 1, NOWHERE);
        }
        if let Some(held) = self.0.get_mut(slot) {
            *held = u32::try_from(place).unwrap_or(NOWHERE);
        }
    }

    fn take(&mut self, slot: u32) -> Option<usize> {
        let held = self.0.get_mut(slot as usize)?;
        let place = std::mem::replace(held, NOWHERE);
        (place != NOWHERE).then_some(place as usize)
    }
}

/// Slots by key, the least first.
#[derive(Debug)]
pub(super) struct Heap<K>(Vec<(K, u32)>);

impl<K> Default for Heap<K> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Ord + Copy> Heap<K> {
    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn first(&self) -> Option<(K, u32)> {
        self.0.first().copied()
    }

    /// All slots, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (K, u32)> {
        self.0.iter().copied()
    }

    /// The slots in their order. Each step costs the logarithm of the steps so far.
    pub(super) fn in_order(&self) -> InOrder<'_, K> {
        let mut next = BinaryHeap::new();
        if let Some((key, _)) = self.first() {
            next.push(Reverse((key, 0)));
        }
        InOrder { heap: self, next }
    }

    /// Puts in a slot that is in no heap of these places.
    pub(super) fn insert(&mut self, places: &mut Places, key: K, slot: u32) {
        let end = self.0.len();
        self.0.push((key, slot));
        self.rise(places, end);
    }

    /// Takes a slot out; false if it is in no heap of these places.
    pub(super) fn remove(&mut self, places: &mut Places, slot: u32) -> bool {
        let Some(place) = places.take(slot) else {
            return false;
        };
        if place >= self.0.len() {
            return false;
        }
        self.0.swap_remove(place);
        if place < self.0.len() {
            self.sink(places, place);
        }
        true
    }

    /// Moves an entry up to where it belongs.
    fn rise(&mut self, places: &mut Places, mut at: usize) {
        let Some(&moved) = self.0.get(at) else {
            return;
        };
        while at > 0 {
            let parent = (at - 1) / CHILDREN;
            let Some(&above) = self.0.get(parent) else {
                break;
            };
            if above <= moved {
                break;
            }
            self.set(places, at, above);
            at = parent;
        }
        self.set(places, at, moved);
    }

    /// Moves an entry down to the leaves along the least children, then up to where it belongs: what
    /// stood last is a large one as a rule, and comparing it on the way down would be in vain.
    fn sink(&mut self, places: &mut Places, mut at: usize) {
        let Some(&moved) = self.0.get(at) else {
            return;
        };
        loop {
            let first = CHILDREN * at + 1;
            let end = (first + CHILDREN).min(self.0.len());
            let Some(children) = self.0.get(first..end) else {
                break;
            };
            let least = children.iter().enumerate().min_by_key(|(_, child)| **child);
            let Some((nth, &child)) = least else {
                break;
            };
            self.set(places, at, child);
            at = first + nth;
        }
        self.set(places, at, moved);
        self.rise(places, at);
    }

    fn set(&mut self, places: &mut Places, at: usize, entry: (K, u32)) {
        if let Some(held) = self.0.get_mut(at) {
            *held = entry;
        }
        places.put(entry.1, at);
    }
}

/// The slots of a heap in their order.
#[derive(Debug)]
pub(super) struct InOrder<'h, K> {
    heap: &'h Heap<K>,
    /// Those that may be next, by their index.
    next: BinaryHeap<Reverse<(K, usize)>>,
}

impl<K: Ord + Copy> Iterator for InOrder<'_, K> {
    type Item = (K, u32);

    fn next(&mut self) -> Option<(K, u32)> {
        let Reverse((_, at)) = self.next.pop()?;
        let first = CHILDREN * at + 1;
        for child in first..first + CHILDREN {
            if let Some(&(key, _)) = self.heap.0.get(child) {
                self.next.push(Reverse((key, child)));
            }
        }
        self.heap.0.get(at).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_heap_holds_what_a_sorted_set_holds(
            steps in prop::collection::vec((0_u32..40, 0_u64..20), 1..200),
        ) {
            let (mut heap, mut places) = (Heap::default(), Places::default());
            let mut model: BTreeSet<(u64, u32)> = BTreeSet::new();
            for (slot, key) in steps {
                let known = model.iter().find(|entry| entry.1 == slot).copied();
                prop_assert_eq!(heap.remove(&mut places, slot), known.is_some());
                match known {
                    Some(entry) => drop(model.remove(&entry)),
                    None => {
                        heap.insert(&mut places, key, slot);
                        model.insert((key, slot));
                    }
                }
                prop_assert_eq!(heap.len(), model.len());
                prop_assert_eq!(heap.first().map(|(key, _)| key), model.first().map(|e| e.0));
                let keys: Vec<u64> = heap.in_order().map(|(key, _)| key).collect();
                prop_assert_eq!(keys, model.iter().map(|e| e.0).collect::<Vec<_>>());
            }
        }
    }
}
