//! Who is lifted next: linked lists through the slots.
//!
//! Everybody is lifted a fixed time after the last time, so those who have been lifted equally often
//! are lifted in the order in which they came: a list each, and nothing to sort.

use std::time::Duration;

use tokio::time::Instant;

/// A call that starts in the lowest class is lifted into the next, into the highest, and there
/// ahead of those who have not aged.
const MOST_LIFTS: usize = 3;
const NOBODY: u32 = u32::MAX;

#[derive(Debug, Default)]
pub(super) struct Ages {
    links: Vec<Link>,
    lists: [List; MOST_LIFTS],
}

#[derive(Debug, Clone, Copy)]
struct Link {
    since: Option<Instant>,
    before: u32,
    after: u32,
    /// The list it is in.
    lifts: u32,
}

#[derive(Debug, Clone, Copy)]
struct List {
    first: u32,
    last: u32,
}

impl Default for List {
    fn default() -> Self {
        Self {
            first: NOBODY,
            last: NOBODY,
        }
    }
}

impl Ages {
    /// Adds a slot that waits `since`, which is no earlier than those of all before it.
    pub(super) fn insert(&mut self, slot: u32, since: Instant) {
        if slot as usize >= self.links.len() {
            let nobody = Link {
                since: None,
                before: NOBODY,
                after: NOBODY,
                lifts: 0,
            };
            self.links.resize(slot as usize + 1, nobody);
        }
        self.append(slot, since, 0);
    }

    /// Takes a slot out, if it is in.
    pub(super) fn remove(&mut self, slot: u32) {
        let Some(link) = self.links.get_mut(slot as usize) else {
            return;
        };
        if link.since.take().is_none() {
            return;
        }
        let (before, after) = (link.before, link.after);
        let Some(list) = self.lists.get_mut(link.lifts as usize) else {
            return;
        };
        match self.links.get_mut(before as usize) {
            Some(link) => link.after = after,
            None => list.first = after,
        }
        match self.links.get_mut(after as usize) {
            Some(link) => link.before = before,
            None => list.last = before,
        }
    }

    /// The next slot whose lift is due, and when it was; it is in line for its next one then, if
    /// `most` lifts are not reached.
    pub(super) fn next(
        &mut self,
        age_after: Duration,
        now: Instant,
        most: impl Fn(u32) -> u32,
    ) -> Option<(u32, Instant)> {
        let due = |lifts: u32, list: &List| {
            let since = self.links.get(list.first as usize)?.since?;
            let at = since.checked_add(age_after.saturating_mul(lifts + 1))?;
            (at <= now).then_some((at, lifts, list.first))
        };
        let lists = (0_u32..).zip(&self.lists);
        let (at, lifts, slot) = lists.filter_map(|(lifts, list)| due(lifts, list)).min()?;
        let since = self.links.get(slot as usize)?.since?;
        self.remove(slot);
        if lifts + 1 < most(slot) {
            self.append(slot, since, lifts + 1);
        }
        Some((slot, at))
    }

    fn append(&mut self, slot: u32, since: Instant, lifts: u32) {
        let Some(list) = self.lists.get_mut(lifts as usize) else {
            return;
        };
        let last = std::mem::replace(&mut list.last, slot);
        if list.first == NOBODY {
            list.first = slot;
        }
        if let Some(link) = self.links.get_mut(last as usize) {
            link.after = slot;
        }
        if let Some(link) = self.links.get_mut(slot as usize) {
            *link = Link {
                since: Some(since),
                before: last,
                after: NOBODY,
                lifts,
            };
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.links
            .iter()
            .filter(|link| link.since.is_some())
            .count()
    }
}
