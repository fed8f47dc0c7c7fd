//! One class: who of those that wait in it is next, fairly between tenants.
//!
//! Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM '96), with the earliest deadline first inside a
//! tenant. Each tenant has a start tag; the lowest is served, and what was served, over the tenant's
//! weight, is added to its tag. So two tenants that both wait all the time are served in the ratio of
//! their weights, to within one call of each, whatever sizes their calls have. Who begins to wait is
//! given the lowest tag of those that wait: its first call is behind one call of each that has that
//! tag already, however many somebody else has waiting. A tenant that stops waiting keeps a tag
//! that is above the lowest until the others have reached it, so coming and going gains nothing.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::sync::Arc;

use slab::Slab;
use tokio::time::Instant;

use super::entry::{Backlog, Tenant};
use super::heap::{Heap, Places};
use crate::policy::quota::Cost;

/// Tenants of a class with a tag of their own. Those beyond share that of calls of no tenant, so
/// that a flood of invented names makes neither memory nor newcomers that are always first.
const MOST_TENANTS: usize = 1_024;

/// Up to so many tenants are looked at one by one for a prediction; of more, the mean is.
const LOOKED_AT: usize = 32;

/// Tags count in these parts of a share, so that a division by a weight loses nothing that counts.
const TAG_PARTS: u128 = 1_000_000;

/// Those of all classes who wait in one.
#[derive(Debug, Default)]
pub(super) struct Class {
    tenants: Slab<Account>,
    by_name: HashMap<Arc<str>, u32>,
    /// Those with somebody waiting, by tag, then by when each got it.
    active: Heap<(u128, u64)>,
    places: Places,
    /// Those without, whose tag is still above the lowest.
    idle: BTreeSet<(u128, u32)>,
    /// The lowest tag, as of when somebody waited last.
    lowest: u128,
    /// Weights of the active.
    weights: u64,
    /// Sum of their tags × weights. It wraps: only differences from it are used.
    weighted_tags: u128,
    waiting: Backlog,
    activations: u64,
}

/// One tenant's place in a class.
#[derive(Debug)]
struct Account {
    name: Arc<str>,
    weight: u32,
    tag: u128,
    order: Heap<Due>,
    waiting: Backlog,
}

/// The order inside a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Due {
    pub(super) at: Instant,
    pub(super) sequence: u64,
}

/// What one call weighs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) cost: Cost,
    pub(super) share: u64,
}

impl Account {
    /// What the tag grows by when `share` is served; never nothing, so that every tag passes every
    /// other in the end.
    fn charge(&self, share: u64) -> u128 {
        (u128::from(share) * TAG_PARTS / u128::from(self.weight)).max(1)
    }

    const fn weighted_tag(&self) -> u128 {
        self.tag.wrapping_mul(self.weight as u128)
    }
}

impl Class {
    /// Adds a call. Says in which account it is.
    pub(super) fn insert(
        &mut self,
        calls: &mut Places,
        tenant: &Tenant,
        (slot, due): (u32, Due),
        load: Load,
    ) -> u32 {
        let id = self.account(tenant);
        self.waiting.add(load.cost, load.share);
        let Some(account) = self.tenants.get_mut(id as usize) else {
            return id;
        };
        let begins = account.order.is_empty();
        account.order.insert(calls, due, slot);
        account.waiting.add(load.cost, load.share);
        if begins {
            self.idle.remove(&(account.tag, id));
            account.tag = account.tag.max(self.lowest);
            self.activate(id);
        }
        id
    }

    /// Takes a call out; its tenant pays for it if it was `served`.
    pub(super) fn remove(
        &mut self,
        calls: &mut Places,
        (id, slot): (u32, u32),
        load: Load,
        served: bool,
    ) {
        let Some(account) = self.tenants.get_mut(id as usize) else {
            return;
        };
        if !account.order.remove(calls, slot) {
            return;
        }
        account.waiting.subtract(load.cost, load.share);
        self.waiting.subtract(load.cost, load.share);
        let ends = account.order.is_empty();
        if !served && !ends {
            return;
        }
        self.deactivate(id);
        if let Some(account) = self.tenants.get_mut(id as usize) {
            if served {
                account.tag = account.tag.saturating_add(account.charge(load.share));
            }
            if ends {
                self.idle.insert((account.tag, id));
            } else {
                self.activate(id);
            }
        }
        self.settle();
    }

    /// The slot that is served next.
    pub(super) fn first(&self) -> Option<u32> {
        let (_, id) = self.active.first()?;
        let (_, slot) = self.tenants.get(id as usize)?.order.first()?;
        Some(slot)
    }

    /// Everybody who waits here.
    pub(super) const fn waiting(&self) -> &Backlog {
        &self.waiting
    }

    /// Who waits here, and how many each.
    pub(super) fn tenants(&self) -> impl Iterator<Item = (&Arc<str>, usize)> {
        self.active.iter().filter_map(|(_, id)| {
            let account = self.tenants.get(id as usize)?;
            Some((&account.name, account.order.len()))
        })
    }

    /// The slots in the order in which they are served if nobody comes or leaves.
    pub(super) fn in_order(&self, calls: impl Fn(u32) -> u64) -> impl Iterator<Item = u32> {
        let mut cursors = HashMap::new();
        let mut next: BinaryHeap<_> = self.active.iter().map(Reverse).collect();
        let mut activations = self.activations;
        std::iter::from_fn(move || {
            let Reverse(((tag, _), id)) = next.pop()?;
            let account = self.tenants.get(id as usize)?;
            let (left, cursor) = cursors
                .entry(id)
                .or_insert_with(|| (account.order.len(), account.order.in_order()));
            let (_, slot) = cursor.next()?;
            *left -= 1;
            if *left > 0 {
                activations += 1;
                let tag = tag.saturating_add(account.charge(calls(slot)));
                next.push(Reverse(((tag, activations), id)));
            }
            Some(slot)
        })
    }

    /// Who of this class is served before the next call of this tenant, if nobody else comes.
    ///
    /// Its own calls are before it, though an early deadline may place it before them. Each other
    /// tenant is served until its tag passes the one that the call will have, or has nobody left.
    pub(super) fn ahead(&self, tenant: &Tenant) -> Backlog {
        let found = self.found(tenant);
        let account = found.and_then(|id| self.tenants.get(id as usize));
        let own = account.map_or_else(Backlog::default, |account| account.waiting);
        let others = self.waiting.without(&own);
        if others.len == 0 {
            return own;
        }
        let tag = account.map_or(self.lowest, |account| account.tag.max(self.lowest));
        let weight = account.map_or_else(|| tenant.weight(), |account| account.weight);
        let turn = tag.saturating_add(own.share * TAG_PARTS / u128::from(weight));
        let ahead = if self.active.len() <= LOOKED_AT {
            self.served_by(turn, found)
        } else {
            let own = account.filter(|account| !account.order.is_empty());
            others.part(self.served_on_average(turn, own, &others))
        };
        own.plus(&ahead)
    }

    /// What all but one are served before the lowest tag is past `turn`.
    fn served_by(&self, turn: u128, but: Option<u32>) -> Backlog {
        let mut served = Backlog::default();
        for ((tag, _), id) in self.active.iter() {
            let account = self.tenants.get(id as usize);
            let Some(account) = account.filter(|_| Some(id) != but && tag <= turn) else {
                continue;
            };
            let waiting = account.waiting;
            let whole = fraction(waiting.share, 1);
            let until = fraction(
                (turn - tag).saturating_mul(account.weight.into()),
                TAG_PARTS,
            );
            // What is begun with a tag at `turn` is served too: one more.
            let one = whole / fraction(waiting.len as u128, 1);
            served = served.plus(&waiting.part((until + one) / whole.max(1.0)));
        }
        served
    }

    /// The part of what the others have waiting that is served before the lowest tag is past `turn`,
    /// by their mean tag: they are taken to be spread evenly from the lowest on, and none to run
    /// out. So it is rather too much than too little.
    fn served_on_average(&self, turn: u128, own: Option<&Account>, others: &Backlog) -> f64 {
        let (own_weight, own_tag) = own.map_or((0, 0), |own| (own.weight, own.weighted_tag()));
        let weights = self.weights - u64::from(own_weight);
        let beyond = self
            .weighted_tags
            .wrapping_sub(own_tag)
            .wrapping_sub(self.lowest.wrapping_mul(weights.into()));
        let spread = 2.0 * fraction(beyond, weights.max(1).into());
        let turn = fraction(turn - self.lowest, 1);
        let share_of = |tags: f64| tags * fraction(weights.into(), TAG_PARTS);
        let active = self.active.len() - usize::from(own.is_some());
        let one_each = fraction(others.share * active as u128, others.len as u128);
        let before = if turn >= spread {
            share_of(turn - spread / 2.0) + one_each
        } else {
            turn / spread * (share_of(turn / 2.0) + one_each)
        };
        before / fraction(others.share, 1).max(1.0)
    }

    /// The tenant's account, if it has one or shares one.
    fn found(&self, tenant: &Tenant) -> Option<u32> {
        let own = self.by_name.get(tenant.key()).copied();
        if own.is_none() && self.by_name.len() >= MOST_TENANTS {
            return self.by_name.get("").copied();
        }
        own
    }

    /// The tenant's account, made if it is new.
    fn account(&mut self, tenant: &Tenant) -> u32 {
        let known = self.found(tenant);
        let shared = self.by_name.len() >= MOST_TENANTS;
        if let Some(id) = known {
            self.set_weight(id, tenant);
            return id;
        }
        let (name, weight): (Arc<str>, u32) = match tenant.name() {
            Some(name) if !shared => (Arc::clone(name), tenant.weight()),
            _ => ("".into(), 1),
        };
        let id = self.tenants.insert(Account {
            name: Arc::clone(&name),
            weight,
            tag: self.lowest,
            order: Heap::default(),
            waiting: Backlog::default(),
        });
        let id = u32::try_from(id).unwrap_or(u32::MAX);
        self.by_name.insert(name, id);
        id
    }

    /// A weight may have changed since the tenant's last call; that of a shared account is its own.
    fn set_weight(&mut self, id: u32, tenant: &Tenant) {
        let Some(account) = self.tenants.get_mut(id as usize) else {
            return;
        };
        if account.weight == tenant.weight() || *account.name != *tenant.key() {
            return;
        }
        let active = !account.order.is_empty();
        if active {
            self.deactivate(id);
        }
        if let Some(account) = self.tenants.get_mut(id as usize) {
            account.weight = tenant.weight();
        }
        if active {
            self.activate(id);
        }
    }

    fn activate(&mut self, id: u32) {
        let Some(account) = self.tenants.get(id as usize) else {
            return;
        };
        self.activations = self.activations.wrapping_add(1);
        let key = (account.tag, self.activations);
        self.active.insert(&mut self.places, key, id);
        self.weights += u64::from(account.weight);
        self.weighted_tags = self.weighted_tags.wrapping_add(account.weighted_tag());
    }

    fn deactivate(&mut self, id: u32) {
        let Some(account) = self.tenants.get(id as usize) else {
            return;
        };
        if self.active.remove(&mut self.places, id) {
            self.weights -= u64::from(account.weight);
            self.weighted_tags = self.weighted_tags.wrapping_sub(account.weighted_tag());
        }
    }

    /// Follows the lowest tag and forgets whom it has caught up with; with nobody waiting, everybody.
    fn settle(&mut self) {
        let lowest = match self.active.first() {
            Some(((tag, _), _)) => Some(tag),
            None => self.idle.last().map(|&(tag, _)| tag),
        };
        self.lowest = lowest.map_or(self.lowest, |tag| tag.max(self.lowest));
        while let Some(&(tag, id)) = self.idle.first()
            && tag <= self.lowest
        {
            self.idle.remove(&(tag, id));
            if let Some(account) = self.tenants.try_remove(id as usize) {
                self.by_name.remove(&account.name);
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "an estimate; exact up to 2^53")]
fn fraction(over: u128, under: u128) -> f64 {
    over as f64 / under as f64
}

#[cfg(test)]
impl Class {
    /// How many tenants it knows, and of how many somebody waits.
    pub(super) fn known(&self) -> (usize, usize) {
        (self.tenants.len(), self.active.len())
    }
}
