//! A priority level at work: who runs, who waits, who is turned away.
//!
//! As long as there is a seat and nobody waits, taking and leaving it is one atomic operation each. The lock is for those
//! who find no seat, and for those who leave while somebody waits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::oneshot;

use super::queue::{Queues, Queuing, Work};
use super::shares::{Seats, may_borrow};

/// One waiting request in [`Level::state`], whose lower half counts the seats that are taken.
const WAITING: u64 = 1 << 32;

fn running(state: u64) -> u32 {
    state as u32
}

fn waiting(state: u64) -> u32 {
    (state >> 32) as u32
}

/// All levels, which lend each other seats.
pub type Pool = RwLock<Vec<Weak<Level>>>;

/// A priority level that limits its requests.
#[derive(Debug)]
pub struct Level {
    state: AtomicU64,
    /// What the configuration says. [`Level::nominal`] is a copy for the way without a lock.
    rules: RwLock<(Seats, Option<Queuing>)>,
    nominal: AtomicU64,
    queues: Mutex<Queues<Ticket>>,
    pool: Arc<Pool>,
    counts: Counts,
}

/// How many requests there were, since the level was made.
#[derive(Debug, Default)]
struct Counts {
    dispatched: AtomicU64,
    finished: AtomicU64,
    rejected: AtomicU64,
    timed_out: AtomicU64,
    cancelled: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What a level says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// Queues in which somebody waits.
    pub active_queues: usize,
    /// Requests that wait.
    pub waiting: u32,
    /// Requests that run.
    pub executing: u64,
    /// Requests that were let run.
    pub dispatched: u64,
    /// Requests for which there was no room.
    pub rejected: u64,
    /// Requests that waited too long.
    pub timed_out: u64,
    /// Requests whose clients did not wait.
    pub cancelled: u64,
}

/// A request's right to run, until it is dropped: its seats.
#[derive(Debug)]
pub struct Seat(Option<Arc<Level>>, u32, Duration);

impl Seat {
    /// The seats are kept for that long when the request has been answered.
    pub fn lasting(mut self, latency: Duration) -> Self {
        self.2 = latency;
        self
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(level) = self.0.take() else { return };
        let (seats, latency) = (self.1, self.2);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if !latency.is_zero() => {
                level.finish();
                // As many at a time as there are seats.
                runtime.spawn(async move {
                    tokio::time::sleep(latency).await;
                    level.give_back(seats);
                });
            }
            _ => level.leave(seats),
        }
    }
}

/// Who waits, and for how many seats.
#[derive(Debug)]
struct Ticket {
    answer: oneshot::Sender<Seat>,
    seats: u32,
}

impl Work for Ticket {
    fn seats(&self) -> u32 {
        self.seats
    }
}

impl Ticket {
    fn lives(&self) -> bool {
        !self.answer.is_closed()
    }
}

/// What a level says to a request.
#[derive(Debug)]
pub enum Answer {
    /// It may run.
    Run(Seat),
    /// It waits.
    Wait(Waiter),
    /// There is no room.
    Full,
}

impl Level {
    /// A level without requests, which joins the pool.
    pub fn new(seats: Seats, queuing: Option<Queuing>, pool: &Arc<Pool>) -> Arc<Self> {
        let level = Arc::new(Level {
            state: AtomicU64::new(0),
            rules: RwLock::new((seats, queuing)),
            nominal: AtomicU64::new(seats.nominal.into()),
            queues: Mutex::default(),
            pool: pool.clone(),
            counts: Counts::default(),
        });
        let mut members = pool.write();
        members.retain(|member| member.strong_count() > 0);
        members.push(Arc::downgrade(&level));
        level
    }

    /// Obeys another configuration from now on.
    pub fn configure(self: &Arc<Self>, seats: Seats, queuing: Option<Queuing>) {
        *self.rules.write() = (seats, queuing);
        self.nominal.store(seats.nominal.into(), Ordering::Release);
        self.dispatch(&mut self.queues.lock());
    }

    /// Asks for seats. `flow` is the hash of the request's flow.
    pub fn enter(self: &Arc<Self>, flow: u64, seats: u32) -> Answer {
        let nominal = self.nominal.load(Ordering::Acquire);
        let free = |state: u64| {
            let used = u64::from(running(state));
            let fits = used + u64::from(seats) <= nominal || (used == 0 && nominal > 0);
            (waiting(state) == 0 && fits).then_some(state + u64::from(seats))
        };
        if self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, free).is_ok() {
            return Answer::Run(self.seat(seats));
        }
        let mut queues = self.queues.lock();
        // From here on everybody comes this way, and who leaves looks at the queues.
        self.state.fetch_add(WAITING, Ordering::AcqRel);
        if queues.is_empty() && self.take(seats) {
            self.state.fetch_sub(WAITING, Ordering::AcqRel);
            return Answer::Run(self.seat(seats));
        }
        let (ticket, answer) = oneshot::channel();
        let ticket = Ticket { answer: ticket, seats };
        let before = queues.len();
        let queuing = self.rules.read().1;
        let offered = queuing.and_then(|how| queues.offer(flow, ticket, how, Ticket::lives).ok());
        // This one counted already; those that made room did too.
        let change = before as u64 + 1 - queues.len() as u64;
        self.state.fetch_sub(change * WAITING, Ordering::AcqRel);
        let Some(queue) = offered else {
            count(&self.counts.rejected);
            return Answer::Full;
        };
        self.dispatch(&mut queues);
        Answer::Wait(Waiter { answer, queue, level: self.clone(), answered: false })
    }

    fn seat(self: &Arc<Self>, seats: u32) -> Seat {
        count(&self.counts.dispatched);
        Seat(Some(self.clone()), seats, Duration::ZERO)
    }

    /// Takes seats, its own or borrowed ones. Who needs more than there are gets them when nobody else has any. Only under the
    /// lock, while somebody waits.
    fn take(&self, more: u32) -> bool {
        let used = running(self.state.load(Ordering::Acquire));
        let seats = self.rules.read().0;
        let free = used.saturating_add(more) <= seats.nominal
            || (used == 0 && seats.nominal > 0)
            || may_borrow(seats, used, more, self.others().into_iter());
        if free {
            self.state.fetch_add(more.into(), Ordering::AcqRel);
        }
        free
    }

    /// Most seats that one request takes: a share of the level's, so that a flow does not need all of them at once.
    pub fn widest(&self) -> u32 {
        let (seats, queuing) = *self.rules.read();
        let Some(queuing) = queuing else { return u32::MAX };
        let share = (u64::from(seats.nominal) * 15).div_ceil(100);
        u32::try_from(share).unwrap_or(u32::MAX).min(seats.nominal / queuing.hand.max(1)).max(1)
    }

    /// How it goes.
    pub fn digest(&self) -> Digest {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        // In this order, so that there are never fewer that began than that ended.
        let finished = read(&self.counts.finished);
        let dispatched = read(&self.counts.dispatched);
        Digest {
            active_queues: self.queues.lock().active(),
            waiting: waiting(self.state.load(Ordering::Acquire)),
            executing: dispatched.saturating_sub(finished),
            dispatched,
            rejected: read(&self.counts.rejected),
            timed_out: read(&self.counts.timed_out),
            cancelled: read(&self.counts.cancelled),
        }
    }

    /// By how much each of its queues has been served, in seats.
    pub fn served(&self) -> Vec<u64> {
        let queues = self.rules.read().1.map_or(0, |queuing| queuing.queues);
        self.queues.lock().served(queues)
    }

    fn others(&self) -> Vec<(Seats, u32)> {
        let members = self.pool.read();
        let others = members.iter().filter(|m| !std::ptr::eq(m.as_ptr(), self)).filter_map(Weak::upgrade);
        others.map(|o| (o.rules.read().0, running(o.state.load(Ordering::Acquire)))).collect()
    }

    /// Gives seats to those who wait.
    fn dispatch(self: &Arc<Self>, queues: &mut Queues<Ticket>) {
        while let Some(seats) = queues.first().map(Work::seats) {
            if !self.take(seats) {
                return;
            }
            let Some(next) = queues.next() else {
                self.state.fetch_sub(seats.into(), Ordering::AcqRel);
                return;
            };
            self.state.fetch_sub(WAITING, Ordering::AcqRel);
            if let Err(mut seat) = next.answer.send(Seat(Some(self.clone()), seats, Duration::ZERO)) {
                // Gone in the meantime. Not dropped as it is: that would ask for the lock that is held here.
                seat.0 = None;
                self.state.fetch_sub(seats.into(), Ordering::AcqRel);
            } else {
                count(&self.counts.dispatched);
            }
        }
    }

    fn leave(self: &Arc<Self>, seats: u32) {
        self.finish();
        self.give_back(seats);
    }

    fn finish(&self) {
        count(&self.counts.finished);
    }

    fn give_back(self: &Arc<Self>, seats: u32) {
        let before = self.state.fetch_sub(seats.into(), Ordering::AcqRel);
        if waiting(before) > 0 {
            self.dispatch(&mut self.queues.lock());
        }
    }

    /// How many seats are taken and how many requests wait.
    #[cfg(test)]
    pub fn load(&self) -> (u32, u32) {
        let state = self.state.load(Ordering::Acquire);
        (running(state), waiting(state))
    }
}

/// A request in a queue. Dropped, it leaves.
#[derive(Debug)]
pub struct Waiter {
    answer: oneshot::Receiver<Seat>,
    queue: u32,
    level: Arc<Level>,
    /// Whether it is known what became of it.
    answered: bool,
}

impl Waiter {
    /// The queue it is in.
    pub fn queue(&self) -> u32 {
        self.queue
    }

    /// Waits for a seat, so long.
    pub async fn wait(mut self, patience: Duration) -> Option<Seat> {
        let answer = tokio::time::timeout(patience, &mut self.answer).await;
        self.answered = true;
        if answer.is_err() {
            count(&self.level.counts.timed_out);
        }
        answer.ok()?.ok()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if !self.answered {
            count(&self.level.counts.cancelled);
        }
        self.answer.close();
        // A seat that came too late goes on to the next.
        drop(self.answer.try_recv());
        let mut queues = self.level.queues.lock();
        let before = queues.len();
        queues.purge(self.queue, Ticket::lives);
        let gone = (before - queues.len()) as u64;
        self.level.state.fetch_sub(gone * WAITING, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUING: Option<Queuing> = Some(Queuing { queues: 4, hand: 2, length: 2 });
    const LONG: Duration = Duration::from_secs(3600);

    fn level(nominal: u32, lendable: u32, most: u32, pool: &Arc<Pool>) -> Arc<Level> {
        Level::new(Seats { nominal, lendable, most }, QUEUING, pool)
    }

    fn run(answer: Answer) -> Seat {
        match answer {
            Answer::Run(seat) => seat,
            other => panic!("{other:?}"),
        }
    }

    fn wait(answer: Answer) -> Waiter {
        match answer {
            Answer::Wait(waiter) => waiter,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn seats_are_counted_and_passed_on() {
        let level = level(2, 0, 2, &Arc::default());
        let (one, two) = (run(level.enter(0, 1)), run(level.enter(0, 1)));
        let third = wait(level.enter(0, 1));
        let fourth = wait(level.enter(5, 1));
        assert_eq!(level.load(), (2, 2));
        drop(one);
        let third = third.wait(LONG).await.unwrap();
        assert_eq!(level.load(), (2, 1));
        drop((two, third));
        let fourth = fourth.wait(LONG).await.unwrap();
        assert_eq!(level.load(), (1, 0));
        drop(fourth);
        assert_eq!(level.load(), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn who_needs_many_seats_waits_until_they_are_free() {
        let level = level(4, 0, 4, &Arc::default());
        let (one, two) = (run(level.enter(0, 1)), run(level.enter(0, 2)));
        let wide = wait(level.enter(0, 3));
        let next = wait(level.enter(5, 1));
        assert_eq!(level.load(), (3, 2), "nobody passes who waits longer");
        drop(two);
        let wide = wide.wait(LONG).await.unwrap();
        assert_eq!(level.load(), (4, 1));
        drop(one);
        let next = next.wait(LONG).await.unwrap();
        drop((wide, next));
        // More than there are, when nobody else is there.
        let all = run(level.enter(0, 9));
        let waits = wait(level.enter(0, 1));
        drop(all);
        drop(waits.wait(LONG).await.unwrap());
        assert_eq!(level.load(), (0, 0));
        let told = level.digest();
        assert_eq!((told.dispatched, told.executing, told.rejected, told.timed_out), (6, 0, 0, 0), "{told:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn seats_may_be_kept_when_the_request_has_ended() {
        let level = level(4, 0, 4, &Arc::default());
        let seat = run(level.enter(0, 3)).lasting(Duration::from_millis(5));
        let waits = wait(level.enter(0, 2));
        drop(seat);
        assert_eq!((level.load(), level.digest().executing), ((3, 1), 0));
        let begun = tokio::time::Instant::now();
        let next = waits.wait(LONG).await.unwrap();
        assert_eq!((level.load(), begun.elapsed()), ((2, 0), Duration::from_millis(5)));
        drop(next);
        assert_eq!(level.load(), (0, 0));
    }

    #[test]
    fn one_request_takes_a_share_of_the_seats() {
        let pool = Arc::default();
        for (nominal, hand, want) in [(245, 6, 37), (20, 6, 3), (5, 6, 1), (0, 6, 1), (245, 1, 37)] {
            let how = Some(Queuing { queues: 64, hand, length: 50 });
            let level = Level::new(Seats { nominal, lendable: 0, most: nominal }, how, &pool);
            assert_eq!(level.widest(), want, "{nominal} / {hand}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_leaves_no_trace() {
        let level = level(1, 0, 1, &Arc::default());
        let seat = run(level.enter(0, 1));
        let (a, b, c) = (wait(level.enter(0, 1)), wait(level.enter(0, 1)), wait(level.enter(0, 1)));
        assert!(a.wait(Duration::from_millis(1)).await.is_none());
        drop(b);
        assert_eq!(level.load(), (1, 1));
        drop(seat);
        // A seat that was given to somebody who then leaves goes back.
        assert_eq!(level.load(), (1, 0));
        drop(c);
        assert_eq!(level.load(), (0, 0));
        drop(run(level.enter(0, 1)));
    }

    #[test]
    fn full_queues_and_levels_without_queues_turn_away() {
        let pool = Arc::default();
        let level = level(1, 0, 1, &pool);
        let _seat = run(level.enter(0, 1));
        let waiters: Vec<_> = (0..4).map(|_| wait(level.enter(0, 1))).collect();
        assert!(matches!(level.enter(0, 1), Answer::Full));
        assert_eq!(level.load(), (1, 4));
        drop(waiters);
        assert_eq!(level.load(), (1, 0));
        level.configure(Seats { nominal: 1, lendable: 0, most: 1 }, None);
        assert!(matches!(level.enter(0, 1), Answer::Full));
        assert_eq!(level.load(), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn idle_levels_lend_and_take_back() {
        let pool = Arc::default();
        let (rich, poor) = (level(3, 2, 3, &pool), level(1, 0, 9, &pool));
        let borrowed: Vec<_> = (0..3).map(|_| run(poor.enter(0, 1))).collect();
        let waits = wait(poor.enter(0, 1));
        let own: Vec<_> = (0..3).map(|_| run(rich.enter(0, 1))).collect();
        drop(borrowed);
        let seat = waits.wait(LONG).await.unwrap();
        assert_eq!((poor.load(), rich.load()), ((1, 0), (3, 0)));
        drop((own, seat));
        assert_eq!((poor.load(), rich.load()), ((0, 0), (0, 0)));
    }

    #[tokio::test(start_paused = true)]
    async fn more_seats_let_the_waiting_in() {
        let level = level(0, 0, 0, &Arc::default());
        let waits = wait(level.enter(0, 1));
        level.configure(Seats { nominal: 1, lendable: 0, most: 1 }, QUEUING);
        assert!(waits.wait(LONG).await.is_some());
        assert_eq!(level.load(), (0, 0));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_at_once_never_exceed_the_limit_and_all_get_through() {
        let how = Some(Queuing { queues: 8, hand: 3, length: 1000 });
        let level = Level::new(Seats { nominal: 3, lendable: 0, most: 3 }, how, &Arc::default());
        let tasks: Vec<_> = (0..200u64)
            .map(|i| {
                let level = level.clone();
                tokio::spawn(async move {
                    let seat = match level.enter(i % 7, 1) {
                        Answer::Run(seat) => seat,
                        Answer::Wait(waiter) if i % 5 == 0 => return drop(waiter),
                        Answer::Wait(waiter) => waiter.wait(LONG).await.unwrap(),
                        Answer::Full => panic!("the queues are long enough"),
                    };
                    assert!(level.load().0 <= 3);
                    tokio::task::yield_now().await;
                    drop(seat);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(level.load(), (0, 0));
    }
}
