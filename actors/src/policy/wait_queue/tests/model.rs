//! The queue against the order by its definition: a list, looked through anew each time.

use super::*;

const TENANTS: [(&str, u32); 4] = [("", 1), ("one", 1), ("three", 3), ("five", 5)];

pub(super) fn tenant(which: usize) -> Tenant {
    match TENANTS[which] {
        ("", _) => Tenant::default(),
        (name, weight) => Tenant::new(name.into(), weight),
    }
}

#[derive(Debug, Clone)]
enum Step {
    Push {
        priority: Priority,
        tenant: usize,
        secs: u64,
        cost: u64,
    },
    Pop,
    Remove(usize),
    Expire,
    Sweep(usize, u64),
    Wait(u64),
}

pub(super) fn any_priority() -> impl Strategy<Value = Priority> {
    prop::sample::select(Priority::ALL.to_vec())
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (any_priority(), 0..TENANTS.len(), 0_u64..60, 0_u64..1_000).prop_map(
            |(priority, tenant, secs, cost)| Step::Push { priority, tenant, secs, cost },
        ),
        2 => Just(Step::Pop),
        1 => any::<usize>().prop_map(Step::Remove),
        1 => Just(Step::Expire),
        1 => (0_usize..6, 2_u64..9).prop_map(|(n, m)| Step::Sweep(n, m)),
        3 => (0_u64..9).prop_map(Step::Wait),
    ]
}

#[derive(Debug, Clone, Copy)]
struct Call {
    priority: Priority,
    tenant: usize,
    deadline: Instant,
    cost: u64,
    since: Instant,
    ticket: Ticket,
    lifts: u32,
    class: Priority,
    due: Instant,
}

/// A tenant's tag in a class, and when it began to wait there with this tag.
type Tag = (u128, u64);

#[derive(Default)]
struct Model {
    waiting: Vec<Call>,
    tags: HashMap<(Priority, usize), Tag>,
    lowest: HashMap<Priority, u128>,
    counted: u64,
}

impl Model {
    fn waits(&self, class: Priority, tenant: usize) -> bool {
        let mut calls = self.waiting.iter();
        calls.any(|call| (call.class, call.tenant) == (class, tenant))
    }

    fn begin(&mut self, class: Priority, tenant: usize) {
        if !self.waits(class, tenant) {
            let lowest = self.lowest.get(&class).copied().unwrap_or_default();
            let tag = self.tags.entry((class, tenant)).or_default();
            self.counted += 1;
            *tag = (tag.0.max(lowest), self.counted);
        }
    }

    fn settle(&mut self, class: Priority) {
        let tags = self.tags.iter().filter(|(of, _)| of.0 == class);
        let active = tags.clone().filter(|(of, _)| self.waits(class, of.1));
        let lowest = active.map(|(_, tag)| tag.0).min();
        let lowest = lowest.or_else(|| tags.map(|(_, tag)| tag.0).max());
        let held = self.lowest.entry(class).or_default();
        *held = lowest.map_or(*held, |tag| tag.max(*held));
    }

    fn push(&mut self, call: Call) {
        self.begin(call.class, call.tenant);
        self.waiting.push(call);
    }

    fn take(&mut self, ticket: Ticket, served: bool) {
        let at = self.waiting.iter().position(|call| call.ticket == ticket);
        let call = self.waiting.remove(at.unwrap());
        if served {
            let weight = u128::from(TENANTS[call.tenant].1);
            let charge = (u128::from(call.cost) * 1_000_000 / weight).max(1);
            self.counted += 1;
            let tag = self.tags.get_mut(&(call.class, call.tenant)).unwrap();
            *tag = (tag.0 + charge, self.counted);
        }
        self.settle(call.class);
    }

    fn age(&mut self, now: Instant) {
        let due = |call: &Call| {
            let at = call.since + AGE * (call.lifts + 1);
            let waits = call.lifts < call.priority.lifts() && at <= now;
            waits.then_some((at, call.lifts, call.ticket))
        };
        while let Some((at, _, ticket)) = self.waiting.iter().filter_map(due).min() {
            let mut lifted = *self.waiting.iter().find(|c| c.ticket == ticket).unwrap();
            self.take(ticket, false);
            lifted.lifts += 1;
            lifted.class = lifted.class.raised();
            lifted.due = lifted.due.min(at);
            self.push(lifted);
        }
    }

    fn rank(&self, call: &Call) -> (Priority, Tag, Instant, Ticket) {
        let tag = self.tags[&(call.class, call.tenant)];
        (call.class, tag, call.due, call.ticket)
    }

    fn first(&self) -> Option<Call> {
        let calls = self.waiting.iter();
        calls.min_by_key(|call| self.rank(call)).copied()
    }

    /// Empties a copy.
    fn order(&self) -> Vec<Ticket> {
        let mut copy = Self {
            waiting: self.waiting.clone(),
            tags: self.tags.clone(),
            lowest: self.lowest.clone(),
            counted: self.counted,
        };
        std::iter::from_fn(|| {
            let first = copy.first()?;
            copy.take(first.ticket, true);
            Some(first.ticket)
        })
        .collect()
    }
}

fn check(queue: &WaitQueue<u64>, model: &Model) -> Result<(), TestCaseError> {
    prop_assert_eq!(queue.len(), model.waiting.len());
    let order: Vec<_> = queue.in_order(100).iter().map(|w| w.ticket).collect();
    prop_assert_eq!(&order, &model.order());
    prop_assert_eq!(queue.first().map(|w| w.ticket), order.first().copied());
    let deadlines = model.waiting.iter().map(|call| call.deadline);
    prop_assert_eq!(queue.next_deadline(), deadlines.min());
    for priority in Priority::ALL {
        let of = |class: &Priority| {
            let calls = model.waiting.iter().filter(|call| call.class == *class);
            calls.map(|call| call.cost).sum::<u64>()
        };
        let above: u64 = Priority::ALL
            .iter()
            .filter(|c| **c < priority)
            .map(of)
            .sum();
        for which in 0..TENANTS.len() {
            let calls = model.waiting.iter();
            let own = calls.filter(|c| (c.class, c.tenant) == (priority, which));
            let own: u64 = own.map(|call| call.cost).sum();
            let ahead = queue.ahead(priority, &tenant(which)).cost;
            prop_assert!(ahead.requests >= above + own);
            prop_assert!(ahead.requests <= above + of(&priority));
        }
    }
    let waiting = queue.len();
    let indexed: usize = queue.by_class().iter().sum();
    let named: usize = queue.by_tenant().values().sum();
    prop_assert_eq!((indexed, named), (waiting, waiting));
    prop_assert_eq!(queue.deadlines.len(), waiting);
    prop_assert!(queue.ages.len() <= waiting);
    for class in &queue.classes {
        let (known, active) = class.known();
        prop_assert!(known <= TENANTS.len() && (active > 0 || known == 0));
    }
    Ok(())
}

proptest! {
    #[test]
    fn every_interleaving_serves_as_a_list_looked_through_anew_would(
        steps in prop::collection::vec(any_step(), 1..120),
    ) {
        let mut now = Instant::now();
        let mut queue = WaitQueue::new(20, AGE).unwrap();
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Push { priority, tenant: which, secs, cost } => {
                    let deadline = now + Duration::from_secs(secs);
                    let pushed = queue.push(
                        Entry {
                            priority,
                            tenant: tenant(which),
                            deadline,
                            cost: requests(cost),
                            share: cost,
                            item: cost,
                        },
                        now,
                    );
                    model.age(now);
                    prop_assert_eq!(pushed.is_ok(), model.waiting.len() < 20);
                    if let Ok(ticket) = pushed {
                        model.push(Call {
                            priority,
                            tenant: which,
                            deadline,
                            cost,
                            since: now,
                            ticket,
                            lifts: 0,
                            class: priority,
                            due: deadline,
                        });
                    }
                }
                Step::Pop => {
                    let popped = queue.pop_first().map(|waiting| waiting.ticket);
                    let due = model.first().map(|call| call.ticket);
                    prop_assert_eq!(popped, due);
                    if let Some(ticket) = due {
                        model.take(ticket, true);
                    }
                }
                Step::Remove(pick) if !model.waiting.is_empty() => {
                    let call = model.waiting[pick % model.waiting.len()];
                    model.take(call.ticket, false);
                    prop_assert_eq!(queue.remove(call.ticket), Some(call.cost));
                    prop_assert_eq!(queue.remove(call.ticket), None);
                }
                Step::Remove(_) => {}
                Step::Expire => {
                    let mut late: Vec<_> = model.waiting.clone();
                    late.retain(|call| call.deadline <= now);
                    late.sort_by_key(|call| (call.deadline, call.ticket));
                    for call in &late {
                        model.take(call.ticket, false);
                    }
                    let costs: Vec<_> = late.iter().map(|call| call.cost).collect();
                    prop_assert_eq!(queue.expire(now), costs);
                    model.age(now);
                }
                Step::Sweep(at_most, multiple) => {
                    let held: Vec<_> = model.waiting.iter().map(|call| call.ticket).collect();
                    let here = |queue: &WaitQueue<u64>, ticket: Ticket| {
                        let slot = queue.slots.get(ticket.slot as usize);
                        slot.is_some_and(|slot| slot.waiting.ticket == ticket)
                    };
                    let before = u32::try_from(queue.swept_to).unwrap();
                    let gone = queue.sweep(at_most, |item| item % multiple == 0);
                    prop_assert!(gone.iter().all(|item| item % multiple == 0));
                    let mut taken: Vec<_> =
                        held.into_iter().filter(|ticket| !here(&queue, *ticket)).collect();
                    prop_assert_eq!(taken.len(), gone.len());
                    taken.sort_by_key(|ticket| (ticket.slot < before, ticket.slot));
                    for ticket in taken {
                        model.take(ticket, false);
                    }
                }
                Step::Wait(secs) => now += Duration::from_secs(secs),
            }
            check(&queue, &model)?;
        }
    }
}
