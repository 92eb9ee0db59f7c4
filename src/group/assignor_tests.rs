//! Kafka's scenarios, and small cases against every assignment there is.

use super::*;
use crate::format::testing::Random;

fn wants(topics: &[usize]) -> Wants {
    Wants { topics: topics.to_vec(), owned: Vec::new() }
}

fn parts(of: &[(usize, u32)]) -> Vec<Part> {
    of.iter().map(|&(topic, number)| Part { topic, number }).collect()
}

/// Topics of so many partitions, members that want these topics, and what each gets.
type Scenario<'a> = (&'a [u32], &'a [&'a [usize]], &'a [&'a [(usize, u32)]]);

fn check(assign: fn(&[u32], &[Wants]) -> Assigned, scenarios: &[Scenario<'_>]) {
    for (topics, members, expected) in scenarios {
        let members: Vec<Wants> = members.iter().map(|it| wants(it)).collect();
        let expected: Assigned = expected.iter().map(|it| parts(it)).collect();
        assert_eq!(assign(topics, &members), expected, "{topics:?} {members:?}");
    }
}

/// The cases of Kafka's `RangeAssignorTest`.
#[test]
fn ranges_are_cut_as_in_kafka() {
    check(
        range,
        &[
            (&[3], &[&[]], &[&[]]),
            (&[0], &[&[0]], &[&[]]),
            (&[3], &[&[0]], &[&[(0, 0), (0, 1), (0, 2)]]),
            (&[1, 2], &[&[0, 1]], &[&[(0, 0), (1, 0), (1, 1)]]),
            (&[1], &[&[0], &[0]], &[&[(0, 0)], &[]]),
            (&[2], &[&[0], &[0]], &[&[(0, 0)], &[(0, 1)]]),
            (&[3, 2], &[&[0], &[0, 1], &[0]], &[&[(0, 0)], &[(0, 1), (1, 0), (1, 1)], &[(0, 2)]]),
            (&[3, 3], &[&[0, 1], &[0, 1]], &[&[(0, 0), (0, 1), (1, 0), (1, 1)], &[(0, 2), (1, 2)]]),
        ],
    );
}

/// The cases of Kafka's `RoundRobinAssignorTest`.
#[test]
fn partitions_are_dealt_as_in_kafka() {
    check(
        round_robin,
        &[
            (&[3], &[&[]], &[&[]]),
            (&[0], &[&[0]], &[&[]]),
            (&[3], &[&[0]], &[&[(0, 0), (0, 1), (0, 2)]]),
            (&[1], &[&[0], &[0]], &[&[(0, 0)], &[]]),
            (&[2], &[&[0], &[0]], &[&[(0, 0)], &[(0, 1)]]),
            (&[3, 2], &[&[0], &[0, 1], &[0]], &[&[(0, 0)], &[(0, 1), (1, 0), (1, 1)], &[(0, 2)]]),
            (&[3, 3], &[&[0, 1], &[0, 1]], &[&[(0, 0), (0, 2), (1, 1)], &[(0, 1), (1, 0), (1, 2)]]),
        ],
    );
}

/// Each with what it got.
fn with_owned(members: &[Wants], owned: &Assigned) -> Vec<Wants> {
    let owns = |(wants, owned): (&Wants, &Vec<Part>)| Wants {
        topics: wants.topics.clone(),
        owned: owned.clone(),
    };
    members.iter().zip(owned).map(owns).collect()
}

/// How many that somebody had go to another one, or to nobody.
fn moves(members: &[Wants], assigned: &Assigned) -> usize {
    let gone = |(wants, assigned): (&Wants, &Vec<Part>)| {
        wants.owned.iter().filter(|part| !assigned.contains(part)).count()
    };
    members.iter().zip(assigned).map(gone).sum()
}

/// The example of Kafka's `StickyAssignor`: four topics of two partitions, three members, of which
/// the second one leaves.
#[test]
fn who_stays_keeps_all_it_had() {
    let members = vec![wants(&[0, 1, 2, 3]); 3];
    let before = sticky(&[2; 4], &members);
    assert_eq!(before.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 2]);
    let mut staying = with_owned(&members, &before);
    staying.remove(1);
    let after = sticky(&[2; 4], &staying);
    assert_eq!(after.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4]);
    assert_eq!(moves(&staying, &after), 0);
}

/// Three members with other topics each: the first one leaves.
#[test]
fn members_with_other_topics_are_as_even_as_can_be() {
    let members = [wants(&[0]), wants(&[0, 1]), wants(&[0, 1, 2])];
    let before = sticky(&[1, 2, 3], &members);
    assert_eq!(
        before,
        [parts(&[(0, 0)]), parts(&[(1, 0), (1, 1)]), parts(&[(2, 0), (2, 1), (2, 2)])]
    );
    let staying = with_owned(&members[1..], &before[1..].to_vec());
    let after = sticky(&[1, 2, 3], &staying);
    assert_eq!(after[0], parts(&[(0, 0), (1, 0), (1, 1)]));
    assert_eq!(moves(&staying, &after), 0);
}

#[test]
fn a_new_member_takes_its_share_and_no_more() {
    let members = vec![wants(&[0]); 100];
    let before = sticky(&[1_000], &members);
    let mut members = with_owned(&members, &before);
    members.push(wants(&[0]));
    let after = sticky(&[1_000], &members);
    assert_eq!(after[100].len(), 9);
    assert_eq!(moves(&members, &after), 9);
}

fn assert_valid(topics: &[u32], members: &[Wants], assigned: &Assigned) {
    let mut all: Vec<Part> = assigned.iter().flatten().copied().collect();
    all.sort_unstable();
    let wanted = |part: &Part| members.iter().any(|it| it.topics.contains(&part.topic));
    let expected: Vec<Part> = all_parts(topics).filter(wanted).collect();
    assert_eq!(all, expected, "each has one owner");
    for (wants, assigned) in members.iter().zip(assigned) {
        assert!(assigned.iter().all(|part| wants.topics.contains(&part.topic)));
    }
}

fn random_members(random: &mut Random, topics: &[u32], count: usize) -> Vec<Wants> {
    let mut free: Vec<Part> = all_parts(topics).collect();
    let member = |_| {
        let wanted: Vec<usize> = (0..topics.len()).filter(|_| !random.chance(3)).collect();
        let mut owned = Vec::new();
        while !free.is_empty() && random.chance(2) {
            let part = free.swap_remove(random.below(free.len()));
            if wanted.contains(&part.topic) || random.chance(4) {
                owned.push(part);
            }
        }
        Wants { topics: wanted, owned }
    };
    (0..count).map(member).collect()
}

#[test]
fn random_groups_get_everything_once_by_every_assignor() {
    for seed in 0..2_000 {
        let mut random = Random::new(seed);
        let topics: Vec<u32> =
            (0..=random.below(5)).map(|_| u32::try_from(random.below(7)).expect("small")).collect();
        let count = 1 + random.below(8);
        let members = random_members(&mut random, &topics, count);
        for assign in [range, round_robin, sticky] {
            assert_valid(&topics, &members, &assign(&topics, &members));
        }
        // Who all want the same get as many, but for one.
        let all: Vec<usize> = (0..topics.len()).collect();
        let same: Vec<Wants> =
            members.iter().map(|it| Wants { topics: all.clone(), ..it.clone() }).collect();
        for assign in [round_robin, sticky] {
            let counts: Vec<usize> = assign(&topics, &same).iter().map(Vec::len).collect();
            let (least, most) = (counts.iter().min(), counts.iter().max());
            assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1), "{counts:?}");
        }
    }
}

/// The best there is: the sum of squares, then the moves.
fn best(topics: &[u32], members: &[Wants]) -> (usize, usize) {
    fn go(parts: &[Part], members: &[Wants], so_far: &mut Assigned) -> (usize, usize) {
        let Some((part, rest)) = parts.split_first() else {
            let squares = so_far.iter().map(|it| it.len() * it.len()).sum();
            return (squares, moves(members, so_far));
        };
        let mut best = (usize::MAX, usize::MAX);
        for member in takers(members, part.topic) {
            so_far[member].push(*part);
            best = best.min(go(rest, members, so_far));
            so_far[member].pop();
        }
        best
    }
    let wanted = |part: &Part| members.iter().any(|it| it.topics.contains(&part.topic));
    let parts: Vec<Part> = all_parts(topics).filter(wanted).collect();
    go(&parts, members, &mut vec![Vec::new(); members.len()])
}

#[test]
fn no_assignment_is_more_even_and_none_as_even_moves_less() {
    for seed in 0..600 {
        let mut random = Random::new(seed);
        let topics: Vec<u32> =
            (0..=random.below(3)).map(|_| u32::try_from(random.below(4)).expect("small")).collect();
        let count = 1 + random.below(4);
        let members = random_members(&mut random, &topics, count);
        let assigned = sticky(&topics, &members);
        let squares: usize = assigned.iter().map(|it| it.len() * it.len()).sum();
        let found = (squares, moves(&members, &assigned));
        assert_eq!(found, best(&topics, &members), "seed {seed}: {topics:?} {members:?}");
    }
}

#[test]
fn a_group_that_nothing_happens_to_stays_as_it_is() {
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let topics = [5, 3, 8];
        let members = random_members(&mut random, &topics, 5);
        let once = sticky(&topics, &members);
        let again = with_owned(&members, &once);
        assert_eq!(sticky(&topics, &again), once, "seed {seed}");
    }
}
