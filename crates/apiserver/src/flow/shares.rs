//! How many requests of each priority level may run at once (field descriptions of PriorityLevelConfiguration). Pure.

use serde_json::Value;

use super::queue::Queuing;

/// A PriorityLevelConfiguration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LevelSpec {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its requests are neither counted nor kept waiting.
    pub exempt: bool,
    /// `nominalConcurrencyShares`.
    shares: u32,
    /// `lendablePercent`.
    lendable_percent: u32,
    /// `borrowingLimitPercent`; `None` for no limit.
    borrowing_percent: Option<u32>,
    /// How requests wait; `None` when they are turned away instead.
    pub queuing: Option<Queuing>,
}

impl LevelSpec {
    /// Reads an object that has been validated.
    pub fn read(object: &Value) -> Self {
        let spec = &object["spec"];
        let exempt = spec["type"] == "Exempt";
        let own = &spec[if exempt { "exempt" } else { "limited" }];
        let number = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok());
        let queuing = &own["limitResponse"]["queuing"];
        LevelSpec {
            name: api::meta::name(object).to_owned(),
            uid: api::meta::uid(object).to_owned(),
            exempt,
            shares: number(&own["nominalConcurrencyShares"]).unwrap_or(if exempt { 0 } else { 30 }),
            lendable_percent: number(&own["lendablePercent"]).unwrap_or(0).min(100),
            borrowing_percent: number(&own["borrowingLimitPercent"]),
            queuing: (own["limitResponse"]["type"] == "Queue").then(|| Queuing {
                queues: number(&queuing["queues"]).unwrap_or(64),
                hand: number(&queuing["handSize"]).unwrap_or(8),
                length: number(&queuing["queueLengthLimit"]).unwrap_or(50),
            }),
        }
    }
}

/// Seats of a level: each is held by one request while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seats {
    /// Its own.
    pub nominal: u32,
    /// How many of them others may use while it does not.
    pub lendable: u32,
    /// How many it may use, its own and borrowed ones.
    pub most: u32,
}

/// Divides `total` seats by the levels' shares.
pub fn divide(total: u32, levels: &[LevelSpec]) -> Vec<Seats> {
    let sum: u64 = levels.iter().map(|l| u64::from(l.shares)).sum();
    let percent = |of: u32, percent: u32| (u64::from(of) * u64::from(percent) + 50) / 100;
    let seats = |level: &LevelSpec| {
        let nominal = (u64::from(total) * u64::from(level.shares)).div_ceil(sum.max(1)) as u32;
        let most = match level.borrowing_percent {
            Some(limit) => u64::from(nominal) + percent(nominal, limit),
            None => u64::from(nominal.max(total)),
        };
        Seats { nominal, lendable: percent(nominal, level.lendable_percent) as u32, most: most.min(1 << 30) as u32 }
    };
    levels.iter().map(seats).collect()
}

/// Whether a level may have so many more seats than its own, given the seats of all the others and how many they use. A level
/// takes its own back without asking: what it lent is then used by both until the borrower's request ends.
pub fn may_borrow(mine: Seats, used: u32, more: u32, others: impl Iterator<Item = (Seats, u32)>) -> bool {
    if used.saturating_add(more) > mine.most {
        return false;
    }
    let borrowed = |seats: Seats, used: u32| i64::from(used) - i64::from(seats.nominal.min(used));
    // Its own that are left come first.
    let own = mine.nominal.saturating_sub(used);
    let mut free = i64::from(own) - borrowed(mine, used);
    for (seats, used) in others {
        let idle = i64::from(seats.nominal.saturating_sub(used));
        free += idle.min(seats.lendable.into()) - borrowed(seats, used);
    }
    free >= i64::from(more)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn level(shares: u32, lendable: u32, borrowing: Option<u32>) -> LevelSpec {
        let mut limited = json!({"nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": {"type": "Reject"}});
        if let Some(limit) = borrowing {
            limited["borrowingLimitPercent"] = limit.into();
        }
        LevelSpec::read(&json!({"metadata": {"name": "l"}, "spec": {"type": "Limited", "limited": limited}}))
    }

    #[test]
    fn seats_follow_shares() {
        let levels = [level(30, 33, None), level(10, 0, Some(50)), level(0, 0, None), level(5, 100, Some(0))];
        let seats = divide(600, &levels);
        let want = [(400, 132, 600), (134, 0, 201), (0, 0, 600), (67, 67, 67)];
        assert_eq!(seats.iter().map(|s| (s.nominal, s.lendable, s.most)).collect::<Vec<_>>(), want);
        assert_eq!(divide(600, &[level(0, 0, None)])[0].nominal, 0);
        // However small a share is, it is something.
        assert_eq!(divide(1, &[level(1000, 0, None), level(1, 0, None)])[1].nominal, 1);
    }

    #[test]
    fn queues_are_read() {
        let level = LevelSpec::read(&json!({"metadata": {"name": "l"}, "spec": {"type": "Limited", "limited": {
            "limitResponse": {"type": "Queue", "queuing": {"queues": 9, "handSize": 2, "queueLengthLimit": 3}}}}}));
        assert_eq!(level.queuing, Some(Queuing { queues: 9, hand: 2, length: 3 }));
        let exempt = LevelSpec::read(&json!({"metadata": {"name": "exempt"}, "spec": {"type": "Exempt"}}));
        assert!(exempt.exempt && exempt.shares == 0);
    }

    #[test]
    fn seats_are_borrowed_from_who_lends_and_does_not_need_them() {
        let seats = |nominal, lendable, most| Seats { nominal, lendable, most };
        // Own seats, used; the others' seats and used; whether one more can be had.
        type Case<'a> = (Seats, u32, &'a [(Seats, u32)], bool);
        let cases: &[Case<'_>] = &[
            (seats(2, 0, 10), 2, &[(seats(4, 2, 4), 0)], true),
            (seats(2, 0, 10), 3, &[(seats(4, 2, 4), 0)], true),
            (seats(2, 0, 10), 4, &[(seats(4, 2, 4), 0)], false),
            (seats(2, 0, 3), 3, &[(seats(4, 2, 4), 0)], false),
            (seats(2, 0, 10), 2, &[(seats(4, 2, 4), 3)], true),
            (seats(2, 0, 10), 2, &[(seats(4, 2, 4), 4)], false),
            (seats(2, 0, 10), 2, &[(seats(4, 0, 4), 0)], false),
            // A third has borrowed already what there was.
            (seats(2, 0, 10), 2, &[(seats(4, 2, 4), 0), (seats(1, 0, 9), 3)], false),
            (seats(2, 0, 10), 2, &[(seats(4, 2, 4), 0), (seats(1, 0, 9), 2)], true),
            (seats(2, 0, 10), 2, &[], false),
        ];
        assert!(
            may_borrow(seats(2, 0, 10), 1, 3, [(seats(4, 2, 4), 0)].into_iter()),
            "one of its own and two of others"
        );
        assert!(!may_borrow(seats(2, 0, 10), 1, 4, [(seats(4, 2, 4), 0)].into_iter()));
        for (mine, used, others, want) in cases {
            assert_eq!(may_borrow(*mine, *used, 1, others.iter().copied()), *want, "{mine:?} {used} {others:?}");
        }
    }
}
