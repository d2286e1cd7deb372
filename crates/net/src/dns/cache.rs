//! Answers of resolvers, for as long as they may be kept. Pure: time is given.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};

/// Longest time an answer is kept: a changed record is seen after at most this.
const KEEP_MAX_S: u32 = 30;

/// A question as resolvers see it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Question {
    pub name: String,
    pub kind: RecordType,
    pub dnssec_ok: bool,
}

/// What a resolver said.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    pub code: ResponseCode,
    pub answers: Vec<Record>,
    pub authorities: Vec<Record>,
}

/// A bounded map; when full, the oldest entry goes.
#[derive(Debug)]
pub(crate) struct Cache {
    capacity: usize,
    entries: HashMap<Question, (Arc<Said>, Instant, u32)>,
    order: VecDeque<(Question, Instant)>,
}

impl Said {
    /// The parts of a resolver's message that concern the client.
    pub fn of(message: Message) -> Self {
        Said { code: message.metadata.response_code, answers: message.answers, authorities: message.authorities }
    }

    /// Seconds for which this may be kept, 0 for not at all: the shortest of its records, or what the SOA says about the
    /// absence of one (RFC 2308).
    fn keep_s(&self) -> u32 {
        let negative = || {
            self.authorities.iter().find_map(|r| match &r.data {
                RData::SOA(soa) => Some(r.ttl.min(soa.minimum)),
                _ => None,
            })
        };
        let ttl = match self.code {
            ResponseCode::NoError if !self.answers.is_empty() => self.answers.iter().map(|r| r.ttl).min(),
            ResponseCode::NoError | ResponseCode::NXDomain => negative(),
            _ => None,
        };
        ttl.unwrap_or(0).min(KEEP_MAX_S)
    }
}

impl Cache {
    pub fn new(capacity: usize) -> Self {
        Cache { capacity, entries: HashMap::new(), order: VecDeque::new() }
    }

    /// What is known, with the age of it in seconds.
    pub fn get(&self, question: &Question, now: Instant) -> Option<(Arc<Said>, u32)> {
        let (said, since, keep_s) = self.entries.get(question)?;
        let age = now.saturating_duration_since(*since);
        (age < Duration::from_secs(u64::from(*keep_s))).then(|| (said.clone(), age.as_secs() as u32))
    }

    pub fn put(&mut self, question: Question, said: Arc<Said>, now: Instant) {
        let keep_s = said.keep_s();
        if keep_s == 0 {
            return;
        }
        self.order.push_back((question.clone(), now));
        self.entries.insert(question, (said, now, keep_s));
        // A question asked again is in the queue twice; its older place no longer counts.
        while self.order.len() > self.capacity {
            let Some((oldest, since)) = self.order.pop_front() else { break };
            if self.entries.get(&oldest).is_some_and(|(_, at, _)| *at == since) {
                self.entries.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::Name;
    use hickory_proto::rr::rdata::{A, SOA};

    fn question(name: &str) -> Question {
        Question { name: name.into(), kind: RecordType::A, dnssec_ok: false }
    }

    fn said(ttl: u32) -> Arc<Said> {
        let record = Record::from_rdata(Name::root(), ttl, RData::A(A::new(1, 2, 3, 4)));
        Arc::new(Said { code: ResponseCode::NoError, answers: vec![record], authorities: vec![] })
    }

    #[test]
    fn an_answer_is_kept_as_long_as_it_says_but_not_longer_than_we_want() {
        let (mut cache, now) = (Cache::new(10), Instant::now());
        cache.put(question("short"), said(3), now);
        cache.put(question("long"), said(9999), now);
        cache.put(question("never"), said(0), now);
        let after = |s| now + Duration::from_secs(s);
        assert_eq!(cache.get(&question("short"), after(2)).map(|(_, age)| age), Some(2));
        assert!(cache.get(&question("short"), after(3)).is_none());
        assert!(cache.get(&question("long"), after(29)).is_some());
        assert!(cache.get(&question("long"), after(30)).is_none());
        assert!(cache.get(&question("never"), now).is_none());
    }

    #[test]
    fn absence_is_kept_as_the_soa_says() {
        let (mut cache, now) = (Cache::new(10), Instant::now());
        let soa = RData::SOA(SOA::new(Name::root(), Name::root(), 1, 1, 1, 1, 4));
        let absent = |authorities| Arc::new(Said { code: ResponseCode::NXDomain, answers: vec![], authorities });
        cache.put(question("with"), absent(vec![Record::from_rdata(Name::root(), 900, soa)]), now);
        cache.put(question("without"), absent(vec![]), now);
        assert!(cache.get(&question("with"), now + Duration::from_secs(3)).is_some());
        assert!(cache.get(&question("with"), now + Duration::from_secs(4)).is_none());
        assert!(cache.get(&question("without"), now).is_none());
    }

    #[test]
    fn a_full_cache_forgets_the_oldest() {
        let (mut cache, now) = (Cache::new(3), Instant::now());
        for i in 0..100u64 {
            let now = now + Duration::from_millis(i);
            cache.put(question(&format!("n{}", i % 5)), said(30), now);
            assert!(cache.entries.len() <= 3 && cache.order.len() <= 3);
        }
        assert!(cache.get(&question("n4"), now + Duration::from_secs(1)).is_some());
    }
}
