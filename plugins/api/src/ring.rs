//! The lock-free way from one input to the core: a ring of filled batches, a ring of empty ones back, and the acknowledgement.
//!
//! The pool of batches is the bound: there are as many batches as places, so a send cannot fail, and an input that finds no
//! empty batch waits (or drops its newest reading and counts it).

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence},
    },
    task::{Context, Poll, Waker},
};

use ringbuf::{
    HeapCons, HeapProd, HeapRb,
    traits::{Consumer, Observer, Producer, Split},
};

use crate::batch::Batch;

/// Wakes the core thread; called by an input after a send.
pub type WakeCore = Arc<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct Shared {
    acknowledged: AtomicU64,
    closed: AtomicBool,
    waiting: AtomicUsize,
    wakers: Mutex<Vec<Waker>>,
}

impl Shared {
    fn wake(&self) {
        // Pairs with the fence in `register`: either this sees the waiter, or the waiter sees what it waits for.
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut locked = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        let wakers = std::mem::take(&mut *locked);
        self.waiting.store(0, Ordering::SeqCst);
        drop(locked);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn register(&self, waker: &Waker) {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        if !wakers.iter().any(|w| w.will_wake(waker)) {
            wakers.push(waker.clone());
        }
        self.waiting.store(wakers.len(), Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }
}

/// A ring of `batches` places with as many batches in it.
pub fn ring(batches: usize, wake: WakeCore) -> (RingSender, RingReceiver) {
    let (filled_in, filled_out) = HeapRb::new(batches).split();
    let (mut empty_in, empty_out) = HeapRb::new(batches).split();
    for _ in 0..batches {
        // As many places as batches: this cannot fail.
        let _ = empty_in.try_push(Batch::default());
    }
    let shared = Arc::new(Shared::default());
    (
        RingSender { filled: filled_in, empty: empty_out, shared: Arc::clone(&shared), wake },
        RingReceiver { filled: filled_out, empty: empty_in, shared },
    )
}

/// The core has stopped: nothing will be taken or acknowledged any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the agent is stopping")]
pub struct Closed;

/// The input's end.
pub struct RingSender {
    filled: HeapProd<Batch>,
    empty: HeapCons<Batch>,
    shared: Arc<Shared>,
    wake: WakeCore,
}

impl RingSender {
    /// An empty batch, if one is there now.
    pub fn try_empty(&mut self) -> Option<Batch> {
        self.empty.try_pop()
    }

    /// Waits for an empty batch: this is how a source is slowed down.
    ///
    /// # Errors
    /// [`Closed`] when the core has stopped.
    pub async fn empty(&mut self) -> Result<Batch, Closed> {
        std::future::poll_fn(|cx| self.poll_empty(cx)).await
    }

    fn poll_empty(&mut self, cx: &mut Context<'_>) -> Poll<Result<Batch, Closed>> {
        if let Some(batch) = self.empty.try_pop() {
            return Poll::Ready(Ok(batch));
        }
        self.shared.register(cx.waker());
        // Looked at again after registering, or a batch returned in between would be slept through.
        if let Some(batch) = self.empty.try_pop() {
            return Poll::Ready(Ok(batch));
        }
        if self.shared.closed.load(Ordering::Acquire) { Poll::Ready(Err(Closed)) } else { Poll::Pending }
    }

    /// Waits until the core has taken everything that was sent.
    ///
    /// # Errors
    /// [`Closed`] when the core has stopped.
    pub async fn taken(&mut self) -> Result<(), Closed> {
        std::future::poll_fn(|cx| self.poll_taken(cx)).await
    }

    fn poll_taken(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Closed>> {
        if self.filled.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.shared.register(cx.waker());
        if self.filled.is_empty() {
            return Poll::Ready(Ok(()));
        }
        if self.shared.closed.load(Ordering::Acquire) { Poll::Ready(Err(Closed)) } else { Poll::Pending }
    }

    /// Sends a filled batch and wakes the core.
    ///
    /// # Errors
    /// [`Closed`] when the core has stopped.
    pub fn send(&mut self, batch: Batch) -> Result<(), Closed> {
        if self.shared.closed.load(Ordering::Acquire) || self.filled.try_push(batch).is_err() {
            return Err(Closed);
        }
        (self.wake)();
        Ok(())
    }

    /// A handle to wait for acknowledgements with.
    pub fn acknowledgements(&self) -> Acknowledgements {
        Acknowledgements { shared: Arc::clone(&self.shared) }
    }
}

/// The core's end.
pub struct RingReceiver {
    filled: HeapCons<Batch>,
    empty: HeapProd<Batch>,
    shared: Arc<Shared>,
}

impl RingReceiver {
    /// The next filled batch.
    pub fn try_recv(&mut self) -> Option<Batch> {
        self.filled.try_pop()
    }

    /// Filled batches waiting.
    pub fn len(&self) -> usize {
        self.filled.occupied_len()
    }

    /// Whether none is waiting.
    pub fn is_empty(&self) -> bool {
        self.filled.is_empty()
    }

    /// Whether the input has gone and everything it sent was taken.
    pub fn is_finished(&self) -> bool {
        !self.filled.write_is_held() && self.filled.is_empty()
    }

    /// Gives a batch back for reuse.
    pub fn recycle(&mut self, mut batch: Batch) {
        batch.clear();
        let _ = self.empty.try_push(batch);
        self.shared.wake();
    }

    /// Everything up to batch `number` is as durable as the mode says.
    pub fn acknowledge(&mut self, number: u64) {
        if self.shared.acknowledged.fetch_max(number, Ordering::AcqRel) < number {
            self.shared.wake();
        }
    }
}

impl Drop for RingReceiver {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
        self.shared.waiting.store(usize::MAX, Ordering::SeqCst);
        self.shared.wake();
    }
}

/// Waits for the durability of batches; any number of copies may wait at once.
#[derive(Clone)]
pub struct Acknowledgements {
    shared: Arc<Shared>,
}

impl Acknowledgements {
    /// The highest batch number that is durable, 0 before the first.
    pub fn now(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Acquire)
    }

    /// Waits until batch `number` is durable.
    ///
    /// # Errors
    /// [`Closed`] when the core stopped before.
    pub fn reach(&self, number: u64) -> Reach {
        Reach { shared: Arc::clone(&self.shared), number }
    }
}

/// Future of [`Acknowledgements::reach`]: gives the highest acknowledged number.
pub struct Reach {
    shared: Arc<Shared>,
    number: u64,
}

impl Future for Reach {
    type Output = Result<u64, Closed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let reached = |shared: &Shared| {
            let now = shared.acknowledged.load(Ordering::Acquire);
            (now >= self.number).then_some(now)
        };
        if let Some(now) = reached(&self.shared) {
            return Poll::Ready(Ok(now));
        }
        self.shared.register(cx.waker());
        if let Some(now) = reached(&self.shared) {
            return Poll::Ready(Ok(now));
        }
        if self.shared.closed.load(Ordering::Acquire) { Poll::Ready(Err(Closed)) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_go_round_and_the_pool_is_the_bound() {
        let (mut sender, mut receiver) = ring(2, Arc::new(|| {}));
        for number in 1..=2 {
            let mut batch = sender.try_empty().expect("two are in the pool");
            batch.number = number;
            sender.send(batch).expect("open");
        }
        assert!(sender.try_empty().is_none());
        let batch = receiver.try_recv().expect("sent");
        assert_eq!(batch.number, 1);
        receiver.recycle(batch);
        assert!(sender.try_empty().is_some());
        receiver.acknowledge(1);
        assert_eq!(sender.acknowledgements().now(), 1);
    }

    #[test]
    fn a_receiver_that_is_gone_closes_the_ring() {
        let (mut sender, receiver) = ring(1, Arc::new(|| {}));
        let batch = sender.try_empty().expect("one is in the pool");
        drop(receiver);
        assert_eq!(sender.send(batch), Err(Closed));
    }

    #[test]
    fn an_input_that_ends_is_seen_as_finished_once_its_batches_are_taken() {
        let (mut sender, mut receiver) = ring(1, Arc::new(|| {}));
        let batch = sender.try_empty().expect("one is in the pool");
        sender.send(batch).expect("open");
        drop(sender);
        assert!(!receiver.is_finished());
        receiver.try_recv().expect("sent");
        assert!(receiver.is_finished());
    }
}
