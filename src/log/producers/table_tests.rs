//! The rules of a producer's numbers, one by one, then against a model that keeps every batch.

use std::collections::BTreeMap;

use super::*;
use crate::format::testing::Random;

const ANONYMOUS: ProducerId = ProducerId::new(7);
const NAMED: ProducerId = ProducerId::new(ProducerId::NAMED_BIT | 3);

fn batch(id: ProducerId, epoch: u32, base_sequence: u64, records: u64) -> Numbered {
    Numbered { id, epoch: ProducerEpoch::new(epoch), base_sequence, records }
}

/// A table that has seen these batches, one behind the other from offset 0 on.
fn table(batches: &[Numbered]) -> ProducerTable {
    let mut table = ProducerTable::default();
    let mut offset = Offset::ZERO;
    for batch in batches {
        table.note(batch, offset);
        offset = offset.plus(batch.records);
    }
    table
}

fn out_of_order(expected: u64) -> Result<Verdict, Refusal> {
    Err(Refusal::OutOfOrderSequence { expected })
}

fn fenced(by: u32) -> Result<Verdict, Refusal> {
    Err(Refusal::Fenced(Fenced { by: ProducerEpoch::new(by) }))
}

#[test]
fn an_exact_repeat_gets_the_offset_of_the_original() {
    let known = table(&[batch(ANONYMOUS, 0, 0, 3), batch(ANONYMOUS, 0, 3, 2)]);
    let repeat = known.judge(&batch(ANONYMOUS, 0, 3, 2));
    assert_eq!(repeat, Ok(Verdict::Repeat { base_offset: Offset::new(3) }));
    // Neither an older batch nor one that only begins like the last is the last.
    assert_eq!(known.judge(&batch(ANONYMOUS, 0, 0, 3)), out_of_order(5));
    assert_eq!(known.judge(&batch(ANONYMOUS, 0, 3, 1)), out_of_order(5));
    assert_eq!(known.judge(&batch(ANONYMOUS, 0, 5, 9)), Ok(Verdict::Append));
}

#[test]
fn a_repeat_is_looked_for_before_anything_is_refused() {
    let known = table(&[batch(NAMED, 4, 9, 1)]);
    assert_eq!(
        known.judge(&batch(NAMED, 4, 9, 1)),
        Ok(Verdict::Repeat { base_offset: Offset::ZERO })
    );
    assert_eq!(known.judge(&batch(NAMED, 3, 9, 1)), fenced(4));
}

#[test]
fn a_gap_is_out_of_order_and_so_is_a_number_of_before() {
    let known = table(&[batch(ANONYMOUS, 0, 0, 3)]);
    assert_eq!(known.judge(&batch(ANONYMOUS, 0, 4, 1)), out_of_order(3));
    assert_eq!(known.judge(&batch(ANONYMOUS, 0, 2, 1)), out_of_order(3));
}

#[test]
fn an_old_epoch_is_fenced() {
    let known = table(&[batch(NAMED, 2, 0, 3)]);
    assert_eq!(known.judge(&batch(NAMED, 1, 3, 1)), fenced(2));
    let by = Fenced { by: ProducerEpoch::new(2) };
    assert_eq!(known.next_sequence(NAMED, ProducerEpoch::new(1)), Err(by));
}

#[test]
fn a_new_epoch_of_an_anonymous_producer_begins_at_0() {
    let known = table(&[batch(ANONYMOUS, 0, 0, 3)]);
    assert_eq!(known.judge(&batch(ANONYMOUS, 1, 3, 1)), out_of_order(0));
    assert_eq!(known.judge(&batch(ANONYMOUS, 1, 0, 1)), Ok(Verdict::Append));
}

#[test]
fn the_sequences_of_a_named_producer_go_on_over_its_epochs() {
    let known = table(&[batch(NAMED, 0, 0, 3)]);
    assert_eq!(known.judge(&batch(NAMED, 1, 0, 1)), out_of_order(3));
    assert_eq!(known.judge(&batch(NAMED, 1, 3, 1)), Ok(Verdict::Append));
    assert_eq!(known.next_sequence(NAMED, ProducerEpoch::new(9)), Ok(3));
    assert_eq!(known.last_sequence(NAMED), Some(2));
}

#[test]
fn an_unknown_producer_begins_at_0() {
    let known = ProducerTable::default();
    for id in [ANONYMOUS, NAMED] {
        assert_eq!(known.judge(&batch(id, 0, 1, 1)), out_of_order(0));
        assert_eq!(known.judge(&batch(id, 0, 0, 1)), Ok(Verdict::Append));
        assert_eq!((known.last_sequence(id), known.last_end(id)), (None, None));
    }
}

#[test]
fn numbers_at_the_end_of_their_range_do_not_wrap() {
    let known = table(&[batch(NAMED, 0, u64::MAX - 1, 5)]);
    assert_eq!(known.next_sequence(NAMED, ProducerEpoch::new(0)), Ok(u64::MAX));
    let row = known.rows()[0];
    assert!(row.records <= row.next_sequence);
}

#[test]
fn rows_that_are_not_kept_are_unknown_and_the_others_stay() {
    let mut known = table(&[
        batch(ANONYMOUS, 0, 0, 3),
        batch(NAMED, 0, 0, 3),
        batch(ProducerId::new(8), 0, 0, 1),
    ]);
    known.retain(ProducerId::is_named);
    assert_eq!(known.len(), 1);
    assert_eq!(known.next_sequence(ANONYMOUS, ProducerEpoch::new(0)), Ok(0));
    assert_eq!(known.next_sequence(NAMED, ProducerEpoch::new(0)), Ok(3));
}

/// What a log tells that keeps each of its batches: the model.
#[derive(Default)]
struct Model {
    batches: Vec<(Numbered, Offset)>,
    end: Offset,
}

impl Model {
    fn last(&self, id: ProducerId) -> Option<&(Numbered, Offset)> {
        self.batches.iter().rev().find(|(batch, _)| batch.id == id)
    }

    fn judge(&self, asked: &Numbered) -> Result<Verdict, Refusal> {
        let Some((last, base_offset)) = self.last(asked.id) else {
            return if asked.base_sequence == 0 { Ok(Verdict::Append) } else { out_of_order(0) };
        };
        let next = last.base_sequence + last.records;
        let goes_on = asked.epoch == last.epoch || asked.id.is_named();
        let expected = if goes_on { next } else { 0 };
        if asked == last {
            Ok(Verdict::Repeat { base_offset: *base_offset })
        } else if asked.epoch < last.epoch {
            Err(Refusal::Fenced(Fenced { by: last.epoch }))
        } else if asked.base_sequence == expected {
            Ok(Verdict::Append)
        } else {
            out_of_order(expected)
        }
    }

    fn append(&mut self, batch: Numbered) -> Offset {
        let base = self.end;
        self.batches.push((batch, base));
        self.end = base.plus(batch.records);
        base
    }

    /// The table of the batches below `at`, noted one by one from the beginning.
    fn rebuilt(&self, at: Offset) -> ProducerTable {
        let mut table = ProducerTable::default();
        for (batch, base) in self.batches.iter().filter(|(_, base)| *base < at) {
            table.note(batch, *base);
        }
        table
    }
}

/// Sends, repeats, gaps, old epochs, cuts, restarts and retention in any order: each answer is the
/// model's, and the table that is carried on is the one that the batches make.
#[test]
fn random_histories_have_the_models_answers_and_rebuild_to_the_same_rows() {
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let mut model = Model::default();
        let mut table = ProducerTable::default();
        // As the beginning of a file has it: of an offset, whatever was deleted below.
        let mut carried = (Offset::ZERO, ProducerTable::default());
        let mut epochs: BTreeMap<ProducerId, u32> = BTreeMap::new();
        for step in 0..2_000 {
            let id = if random.below_u64(2) == 0 { NAMED } else { ANONYMOUS };
            let id = ProducerId::new(id.get() + random.below_u64(4) * 16);
            let epoch = epochs.entry(id).or_default();
            let at = format!("seed {seed} step {step}");
            match random.below_u64(40) {
                0 => *epoch += 1,
                1 => {
                    // A cut, at the base of a batch that is not deleted, or at the end.
                    let kept = model.batches.partition_point(|(_, base)| *base < carried.0);
                    let left = (model.batches.len() - kept) as u64;
                    let index = kept + usize::try_from(random.below_u64(left + 1)).unwrap();
                    let cut = model.batches.get(index).map_or(model.end, |(_, base)| *base);
                    model.batches.truncate(index);
                    model.end = cut;
                    table = carried.1.clone();
                    for (batch, base) in &model.batches[kept..] {
                        table.note(batch, *base);
                    }
                }
                2 => table = ProducerTable::from_rows(table.rows()),
                3 => carried = (model.end, table.clone()),
                _ => {
                    let (mut asked, ago) = match model.last(id) {
                        Some((last, _)) if random.below_u64(5) == 0 => (*last, 0),
                        _ => {
                            let by = ProducerEpoch::new(
                                epoch.saturating_sub(u32::from(random.below_u64(9) == 0)),
                            );
                            let next = table.next_sequence(id, by).unwrap_or(3);
                            let records = 1 + random.below_u64(5);
                            (Numbered { id, epoch: by, base_sequence: next, records }, 1)
                        }
                    };
                    if ago == 1 && random.below_u64(7) == 0 {
                        asked.base_sequence = random.below_u64(asked.base_sequence + 3);
                    }
                    let answer = table.judge(&asked);
                    assert_eq!(answer, model.judge(&asked), "{at}: {asked:?}");
                    if answer == Ok(Verdict::Append) {
                        let base = model.append(asked);
                        table.note(&asked, base);
                    }
                }
            }
            assert_eq!(table.rows().len(), table.len(), "{at}: one row each");
            if step % 50 == 0 {
                assert_eq!(table, model.rebuilt(model.end), "{at}");
            }
        }
        assert_eq!(table, model.rebuilt(model.end), "seed {seed}");
    }
}
