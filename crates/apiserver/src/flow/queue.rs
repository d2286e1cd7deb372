//! Fair queues: who waits where, and who is next. Pure.
//!
//! A flow is dealt a few of a level's queues and waits in the shortest of them (shuffle sharding: two flows rarely share all
//! of theirs, so a busy one does not fill the queues of the others). Queues are served by start-time fair queueing (Goyal,
//! Vin, Cheng 1996) with requests that cost as many seats as they take: whoever has been served least is next.

use std::collections::{BTreeMap, VecDeque};

/// How a level lets requests wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queuing {
    /// How many queues there are.
    pub queues: u32,
    /// How many of them a flow is dealt.
    pub hand: u32,
    /// How many requests may wait in one.
    pub length: u32,
}

/// What waits.
pub trait Work {
    /// How many seats it takes.
    fn seats(&self) -> u32;
}

/// The queues of a level. Only those that hold something take memory.
#[derive(Debug)]
pub struct Queues<T> {
    queues: BTreeMap<u32, Queue<T>>,
    /// The start tag of what was taken last.
    now: u64,
}

#[derive(Debug)]
struct Queue<T> {
    items: VecDeque<T>,
    /// The start tag of its first item.
    start: u64,
}

impl<T> Default for Queues<T> {
    fn default() -> Self {
        Queues { queues: BTreeMap::new(), now: 0 }
    }
}

impl<T: Work> Queues<T> {
    /// Puts an item in the shortest queue of its flow and says in which; gives it back when that is full. `lives` says
    /// which waiting items still want to be served: others make room.
    pub fn offer(&mut self, flow: u64, item: T, how: Queuing, lives: impl Fn(&T) -> bool) -> Result<u32, T> {
        let length = |queue: &u32| self.queues.get(queue).map_or(0, |q| q.items.len());
        // Of equally short ones the first that was dealt.
        let Some(index) = deal(flow, how.queues, how.hand).into_iter().min_by_key(length) else { return Err(item) };
        let queue = self.queues.entry(index).or_insert_with(|| Queue { items: VecDeque::new(), start: self.now + 1 });
        if queue.items.len() >= how.length as usize {
            queue.items.retain(lives);
        }
        if queue.items.len() >= how.length as usize {
            return Err(item);
        }
        queue.items.push_back(item);
        Ok(index)
    }

    /// The item that is next.
    pub fn first(&self) -> Option<&T> {
        self.queues.values().min_by_key(|queue| queue.start)?.items.front()
    }

    /// Takes the item that is next.
    pub fn next(&mut self) -> Option<T> {
        let (&index, queue) = self.queues.iter_mut().min_by_key(|(_, queue)| queue.start)?;
        let item = queue.items.pop_front();
        self.now = queue.start;
        queue.start += item.as_ref().map_or(0, |item| u64::from(item.seats()));
        if queue.items.is_empty() {
            self.queues.remove(&index);
        }
        item
    }

    /// Removes the items of a queue that nobody wants to be served any more.
    pub fn purge(&mut self, index: u32, lives: impl Fn(&T) -> bool) {
        if let Some(queue) = self.queues.get_mut(&index) {
            queue.items.retain(lives);
            if queue.items.is_empty() {
                self.queues.remove(&index);
            }
        }
    }

    /// By how much each of so many queues has been served: who has least is next.
    pub fn served(&self, queues: u32) -> Vec<u64> {
        (0..queues).map(|index| self.queues.get(&index).map_or(self.now, |queue| queue.start)).collect()
    }

    /// How many items wait.
    pub fn len(&self) -> usize {
        self.queues.values().map(|q| q.items.len()).sum()
    }

    /// In how many queues somebody waits.
    pub fn active(&self) -> usize {
        self.queues.len()
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }
}

/// So many different numbers below `queues`, by the hash of a flow: a hand of cards from a shuffled deck. Validation sees to
/// it that 60 bits are enough to tell all hands apart.
fn deal(mut hash: u64, queues: u32, hand: u32) -> Vec<u32> {
    let hand = hand.min(queues);
    let mut dealt = Vec::with_capacity(hand as usize);
    let mut taken: Vec<u32> = Vec::with_capacity(hand as usize);
    for i in 0..hand {
        let left = u64::from(queues - i);
        let mut card = (hash % left) as u32;
        hash /= left;
        // Counted among the cards that are left; `taken` is in order.
        let mut at = 0;
        while taken.get(at).is_some_and(|t| card >= *t) {
            card += 1;
            at += 1;
        }
        taken.insert(at, card);
        dealt.push(card);
    }
    dealt
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    impl Work for usize {
        fn seats(&self) -> u32 {
            1
        }
    }

    impl Work for i32 {
        fn seats(&self) -> u32 {
            1
        }
    }

    impl Work for &str {
        fn seats(&self) -> u32 {
            if *self == "wide" { 5 } else { 1 }
        }
    }

    const ONE: Queuing = Queuing { queues: 1, hand: 1, length: 2 };

    proptest! {
        #[test]
        fn a_hand_is_different_queues(hash in any::<u64>(), queues in 1u32..200, hand in 1u32..12) {
            let dealt = deal(hash, queues, hand);
            prop_assert_eq!(dealt.len() as u32, hand.min(queues));
            prop_assert!(dealt.iter().all(|q| *q < queues));
            prop_assert_eq!(dealt.iter().collect::<BTreeSet<_>>().len(), dealt.len());
        }

        #[test]
        fn what_goes_in_comes_out_once(flows in prop::collection::vec(any::<u64>(), 0..200)) {
            let mut queues = Queues::default();
            let how = Queuing { queues: 16, hand: 3, length: 50 };
            let mut waiting = BTreeSet::new();
            for (i, flow) in flows.iter().enumerate() {
                if queues.offer(*flow, i, how, |_| true).is_ok() {
                    waiting.insert(i);
                }
            }
            prop_assert_eq!(queues.len(), waiting.len());
            while let Some(item) = queues.next() {
                prop_assert!(waiting.remove(&item));
            }
            prop_assert!(waiting.is_empty() && queues.is_empty());
        }
    }

    #[test]
    fn hands_of_all_kinds_are_dealt() {
        let hands: BTreeSet<Vec<u32>> = (0..60).map(|hash| deal(hash, 5, 3)).collect();
        assert_eq!(hands.len(), 60, "5 × 4 × 3");
    }

    #[test]
    fn a_full_queue_refuses_until_somebody_has_gone() {
        let mut queues = Queues::default();
        assert_eq!(queues.offer(9, 1, ONE, |_| true), Ok(0));
        assert_eq!(queues.offer(9, 2, ONE, |_| true), Ok(0));
        assert_eq!(queues.offer(9, 3, ONE, |_| true), Err(3));
        assert_eq!(queues.offer(9, 3, ONE, |i| *i != 1), Ok(0));
        queues.purge(0, |i| *i != 3);
        assert_eq!((queues.next(), queues.next()), (Some(2), None));
        assert_eq!(queues.offer(0, 1, Queuing { queues: 0, ..ONE }, |_| true), Err(1));
    }

    #[test]
    fn who_takes_many_seats_is_served_less_often() {
        let mut queues = Queues::default();
        let how = Queuing { queues: 2, hand: 1, length: 100 };
        for flow in [0; 50].into_iter().chain([1; 50]) {
            queues.offer(flow, ["wide", "narrow"][flow as usize], how, |_| true).unwrap();
        }
        let first: Vec<_> = (0..60).filter_map(|_| queues.next()).collect();
        let wide = first.iter().filter(|f| **f == "wide").count();
        assert_eq!(wide, 10, "five times the seats, a fifth of the turns: {first:?}");
    }

    #[test]
    fn a_busy_flow_does_not_keep_others_waiting() {
        let mut queues = Queues::default();
        let how = Queuing { queues: 2, hand: 1, length: 100 };
        for flow in [0; 50].into_iter().chain([1; 3]) {
            queues.offer(flow, ["busy", "quiet"][flow as usize], how, |_| true).unwrap();
        }
        let first: Vec<_> = (0..7).filter_map(|_| queues.next()).collect();
        assert_eq!(first.iter().filter(|f| **f == "quiet").count(), 3, "{first:?}");
        // Coming back with one at a time is no advantage either.
        let mut served = 0;
        for _ in 0..20 {
            if queues.len() == queues.queues.get(&0).map_or(0, |q| q.items.len()) {
                queues.offer(1, "quiet", how, |_| true).unwrap();
            }
            served += usize::from(queues.next() == Some("quiet"));
        }
        assert_eq!(served, 10);
    }
}
