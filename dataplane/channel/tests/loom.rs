//! The rings and the seqlock under loom, which runs every interleaving that the memory model allows:
//! `RUSTFLAGS='--cfg loom' cargo test -p esplanade-channel --test loom --release`.
#![cfg(loom)]

use esplanade_channel::{
    ring::{Consumer, Full, Producer, Sequence, ring_words},
    seqlock::SeqlockTable,
    words::Words,
};
use loom::{sync::Arc, sync::atomic::AtomicU64, thread};

/// Storage that both sides share, of loom's atomics.
#[derive(Clone)]
struct Shared(Arc<Vec<AtomicU64>>);

impl Shared {
    fn new(words: usize) -> Self {
        Self(Arc::new((0..words).map(|_| AtomicU64::new(0)).collect()))
    }
}

impl Words for Shared {
    type Word = AtomicU64;

    fn words(&self) -> &[AtomicU64] {
        &self.0
    }
}

const SLOT: usize = 2;

fn pair(slots: usize) -> (Producer<Shared, SLOT>, Consumer<Shared, SLOT>) {
    let shared = Shared::new(ring_words::<SLOT>(slots));
    let producer = Producer::attach(shared.clone()).unwrap();
    (producer, Consumer::attach(shared).unwrap())
}

fn push(producer: &mut Producer<Shared, SLOT>, value: u64) -> Sequence {
    loop {
        match producer.push(&[value, !value]) {
            Ok(sequence) => return sequence,
            Err(Full) => thread::yield_now(),
        }
    }
}

fn take(consumer: &mut Consumer<Shared, SLOT>) -> u64 {
    let mut words = [0; SLOT];
    loop {
        if consumer.take(&mut words).unwrap().is_some() {
            assert_eq!(words[1], !words[0], "a slot came in pieces");
            return words[0];
        }
        thread::yield_now();
    }
}

/// Slots arrive whole, in order and once, also around the end of the ring.
#[test]
fn slots_arrive_whole_and_in_order() {
    loom::model(|| {
        let (mut producer, mut consumer) = pair(2);
        let pusher = thread::spawn(move || {
            for value in 1..=3 {
                push(&mut producer, value);
            }
        });
        for value in 1..=3 {
            assert_eq!(take(&mut consumer), value);
            consumer.applied();
        }
        pusher.join().unwrap();
    });
}

/// The wiping of a slot never falls upon what is pushed into it next.
#[test]
fn a_wipe_hits_only_what_was_taken() {
    loom::model(|| {
        let (mut producer, mut consumer) = pair(1);
        let pusher = thread::spawn(move || {
            push(&mut producer, 1);
            push(&mut producer, 2);
        });
        assert_eq!(take(&mut consumer), 1);
        consumer.applied();
        assert_eq!(take(&mut consumer), 2);
        pusher.join().unwrap();
    });
}

/// Who sees a command acknowledged sees what was done for it, and its slot wiped.
#[test]
fn the_acknowledgement_comes_after_the_work() {
    loom::model(|| {
        let shared = Shared::new(ring_words::<SLOT>(1));
        let done = Arc::new(AtomicU64::new(0));
        let mut producer = Producer::<_, SLOT>::attach(shared.clone()).unwrap();
        let mut consumer = Consumer::<_, SLOT>::attach(shared.clone()).unwrap();
        let sequence = push(&mut producer, 7);
        let worker = {
            let done = done.clone();
            thread::spawn(move || {
                assert_eq!(take(&mut consumer), 7);
                done.store(1, std::sync::atomic::Ordering::Relaxed);
                consumer.applied();
            })
        };
        if producer.applied() >= sequence {
            assert_eq!(done.load(std::sync::atomic::Ordering::Relaxed), 1);
            let key = &shared.words()[ring_words::<SLOT>(0)];
            assert_eq!(key.load(std::sync::atomic::Ordering::Relaxed), 0);
        }
        worker.join().unwrap();
    });
}

/// A producer that dies is followed by another, which goes on where it stopped.
#[test]
fn a_second_producer_goes_on() {
    loom::model(|| {
        let shared = Shared::new(ring_words::<SLOT>(2));
        let mut consumer = Consumer::<_, SLOT>::attach(shared.clone()).unwrap();
        let pusher = thread::spawn(move || {
            for value in 1..=2 {
                let mut producer = Producer::<_, SLOT>::attach(shared.clone()).unwrap();
                assert_eq!(push(&mut producer, value), Sequence(value));
            }
        });
        for value in 1..=2 {
            assert_eq!(take(&mut consumer), value);
            consumer.applied();
        }
        pusher.join().unwrap();
    });
}

/// A reader gets a record as it was at one time, or none.
#[test]
fn a_record_is_read_whole() {
    loom::model(|| {
        let shared = Shared::new(3);
        let writer = SeqlockTable::<_, 3>::new(shared.clone());
        let reader = SeqlockTable::<_, 3>::new(shared);
        let writing = thread::spawn(move || {
            writer.write(0, 1, &[1, 1]);
            writer.write(0, 1, &[2, 2]);
        });
        let mut words = [0; 3];
        if reader.read(0, &mut words).is_ok() {
            assert_eq!(words[1], words[2], "a record came in pieces");
        }
        writing.join().unwrap();
    });
}
