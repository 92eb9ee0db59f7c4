//! Which member of a group reads which partition: pure, by numbers.
//!
//! Not here: when a partition goes to its new owner (`membership`), names of topics and members.
//!
//! | assignor | who gets what | after Kafka's |
//! | --- | --- | --- |
//! | range | of each topic the members in order get a piece each, the first ones one more | `RangeAssignor` |
//! | round-robin | all partitions are dealt in order to the members in order | `RoundRobinAssignor` |
//! | sticky | as even as can be, and then as many as can be stay where they are | `StickyAssignor` |
//!
//! Invariants
//!   1. Every partition of a topic that somebody wants has one owner, and that one wants the topic.
//!   2. Sticky: no other assignment is more even (no sum of squares of the members' counts is
//!      less), and none as even moves fewer partitions.
//!   3. The same input gives the same output: members are ordered, and nothing is left to chance.

/// A partition, by the number of its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Part {
    pub(crate) topic: usize,
    pub(crate) number: u32,
}

/// What a member wants, and has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wants {
    /// Numbers of topics, in order, each once.
    pub(crate) topics: Vec<usize>,
    /// What it was assigned before.
    pub(crate) owned: Vec<Part>,
}

/// By member, in order.
pub(crate) type Assigned = Vec<Vec<Part>>;

/// Of each topic by itself, a piece for each member that wants it. Topics with as many partitions
/// are cut alike: what has the same key in both is read by the same member.
pub(crate) fn range(topics: &[u32], members: &[Wants]) -> Assigned {
    let mut assigned: Assigned = vec![Vec::new(); members.len()];
    for (topic, &count) in topics.iter().enumerate() {
        let takers = takers(members, topic);
        let Some(each) = (count as usize).checked_div(takers.len()) else { continue };
        let more = count as usize % takers.len();
        let mut numbers = 0..count;
        for (order, &member) in takers.iter().enumerate() {
            let piece = numbers.by_ref().take(each + usize::from(order < more));
            assigned[member].extend(piece.map(|number| Part { topic, number }));
        }
    }
    assigned
}

/// All partitions in order, dealt to the members in order; who does not want a topic is passed
/// over.
pub(crate) fn round_robin(topics: &[u32], members: &[Wants]) -> Assigned {
    let mut assigned: Assigned = vec![Vec::new(); members.len()];
    let mut next = 0;
    for part in all_parts(topics) {
        let wants = |member: &usize| members[*member].topics.binary_search(&part.topic).is_ok();
        let mut turn = (0..members.len()).map(|step| (next + step) % members.len());
        if let Some(member) = turn.find(wants) {
            assigned[member].push(part);
            next = (member + 1) % members.len();
        }
    }
    assigned
}

/// As even as can be, and then with as few moves as can be.
///
/// A matching of partitions to members of least cost: a member's n-th partition costs 2n - 1, so
/// that the sum over all is the sum of squares, and each partition that moves a little more. It is
/// the least once no chain of hand-overs makes it less: those are the negative cycles of a graph of
/// the members (M. Klein, "A primal method for minimal cost flows", 1967).
pub(crate) fn sticky(topics: &[u32], members: &[Wants]) -> Assigned {
    if members.is_empty() {
        return Vec::new();
    }
    let mut matching = Matching::begin(topics, members);
    while matching.improve() {}
    let mut assigned = matching.assigned;
    for parts in &mut assigned {
        parts.sort_unstable();
    }
    assigned
}

fn takers(members: &[Wants], topic: usize) -> Vec<usize> {
    let wants = |member: &usize| members[*member].topics.binary_search(&topic).is_ok();
    (0..members.len()).filter(wants).collect()
}

fn all_parts(topics: &[u32]) -> impl Iterator<Item = Part> {
    let of = |(topic, &count): (usize, &u32)| (0..count).map(move |number| Part { topic, number });
    topics.iter().enumerate().flat_map(of)
}

/// An assignment that is made better step by step.
struct Matching<'a> {
    members: &'a [Wants],
    /// Which members want a topic.
    takers: Vec<Vec<usize>>,
    /// Who had each partition before; by topic and number.
    before: Vec<Vec<Option<usize>>>,
    assigned: Assigned,
    /// By giver: for each taker the cheapest partition to give, and what that costs.
    gifts: Vec<Vec<Option<(i64, Part)>>>,
    /// More than all moves together.
    weight: i64,
}

impl<'a> Matching<'a> {
    /// Everybody keeps what it has and still wants; the rest goes to who has least.
    fn begin(topics: &[u32], members: &'a [Wants]) -> Self {
        let takers: Vec<_> = (0..topics.len()).map(|topic| takers(members, topic)).collect();
        let mut before: Vec<Vec<Option<usize>>> =
            topics.iter().map(|&count| vec![None; count as usize]).collect();
        let mut assigned: Assigned = vec![Vec::new(); members.len()];
        for (member, wants) in members.iter().enumerate() {
            for part in &wants.owned {
                let number = part.number as usize;
                let owner = before.get_mut(part.topic).and_then(|all| all.get_mut(number));
                let still_wants = takers.get(part.topic).is_some_and(|it| it.contains(&member));
                // Of two that say they have it the first one is believed.
                if let Some(owner @ None) = owner
                    && still_wants
                {
                    *owner = Some(member);
                    assigned[member].push(*part);
                }
            }
        }
        for part in all_parts(topics) {
            if before[part.topic][part.number as usize].is_none() {
                let least = takers[part.topic].iter().min_by_key(|it| (assigned[**it].len(), **it));
                if let Some(&least) = least {
                    assigned[least].push(part);
                }
            }
        }
        let count: usize = before.iter().map(Vec::len).sum();
        let weight = i64::try_from(count).unwrap_or(i64::MAX / 4) + 1;
        let gifts = vec![Vec::new(); members.len()];
        let mut matching = Self { members, takers, before, assigned, gifts, weight };
        (0..members.len()).for_each(|giver| matching.look_at(giver));
        matching
    }

    /// What it costs that `part` goes from one to another.
    fn cost(&self, part: Part, from: usize, to: usize) -> i64 {
        let before = self.before[part.topic][part.number as usize];
        i64::from(before == Some(from)) - i64::from(before == Some(to))
    }

    fn look_at(&mut self, giver: usize) {
        let mut row: Vec<Option<(i64, Part)>> = vec![None; self.members.len()];
        for &part in &self.assigned[giver] {
            for &taker in self.takers[part.topic].iter().filter(|taker| **taker != giver) {
                let gift = (self.cost(part, giver, taker), part);
                if row[taker].is_none_or(|best| gift < best) {
                    row[taker] = Some(gift);
                }
            }
        }
        self.gifts[giver] = row;
    }

    /// Finds a chain of hand-overs that makes the whole better, and makes it. Beside the members
    /// the graph has a pool: who gives to it has one more, and who takes from it one less.
    fn improve(&mut self) -> bool {
        let (count, pool) = (self.members.len(), self.members.len());
        let mut least = vec![0_i64; count + 1];
        let mut from = vec![usize::MAX; count + 1];
        let mut changed = None;
        // Bellman and Ford: a change in the last round lies behind a negative cycle.
        for _ in 0..=count {
            changed = None;
            for giver in 0..=count {
                for taker in (0..=count).filter(|taker| *taker != giver) {
                    let Some(cost) = self.edge(giver, taker, pool) else { continue };
                    if least[giver] + cost < least[taker] {
                        least[taker] = least[giver] + cost;
                        from[taker] = giver;
                        changed = Some(taker);
                    }
                }
            }
            if changed.is_none() {
                return false;
            }
        }
        let Some(mut at) = changed else { return false };
        for _ in 0..=count {
            at = from[at];
        }
        let mut cycle = vec![at];
        let mut next = from[at];
        while next != at {
            cycle.push(next);
            next = from[next];
        }
        // Each hands over to the one before it in this list.
        for (index, &taker) in cycle.iter().enumerate() {
            let giver = cycle[(index + 1) % cycle.len()];
            if giver != pool
                && taker != pool
                && let Some((_, part)) = self.gifts[giver][taker]
            {
                self.assigned[giver].retain(|it| *it != part);
                self.assigned[taker].push(part);
            }
        }
        for member in cycle.into_iter().filter(|member| *member != pool) {
            self.look_at(member);
        }
        true
    }

    /// What it costs that one gives a partition to another; through the pool, that one has one more
    /// (it keeps what it was given) and another one less.
    fn edge(&self, giver: usize, taker: usize, pool: usize) -> Option<i64> {
        let load = |member: usize| i64::try_from(self.assigned[member].len()).unwrap_or(i64::MAX);
        match (giver, taker) {
            // It has been given one, and passes none on.
            (member, _) if taker == pool => Some(self.weight * (2 * load(member) + 1)),
            // It gives one, and is given none.
            (_, member) if giver == pool => {
                (load(member) > 0).then(|| -self.weight * (2 * load(member) - 1))
            }
            _ => self.gifts[giver][taker].map(|(cost, _)| cost),
        }
    }
}

#[cfg(test)]
#[path = "assignor_tests.rs"]
mod tests;
