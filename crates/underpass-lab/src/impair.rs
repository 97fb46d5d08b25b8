//! A box in a cable that delays, loses, holds, limits and resets, at run time.
//!
//! The kernel's own emulator (netem) is missing from many kernels, so this is a program: a TAP device at either end of
//! the cable and a thread that carries the frames across.

mod flows;
mod line;
mod tap;

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use flows::{FAR, Flows, NEAR};
use line::Line;
pub use line::{Counters, Impairment};

use crate::link::End;

/// Longest frame that a TAP device gives: an MTU of 1500 and the Ethernet header, with room for a tag.
const FRAME: usize = 1536;
/// Frames taken from one side before the other gets its turn.
const BATCH: usize = 64;
/// Frames that the kernel queues for the box: enough that only the box's own settings lose any.
const KERNEL_QUEUE: u32 = 20_000;

/// A box in a cable, made with [`Cable::Boxed`](crate::Cable::Boxed). It passes everything on at once until it is told
/// otherwise. Ends when dropped.
pub struct ImpairBox {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    /// Written to when something was changed that the thread does not see by itself.
    wake: OwnedFd,
    begin: Instant,
}

struct State {
    /// What came in at the near end, and what came in at the far end.
    lines: [Line; 2],
    flows: Flows,
    ended: bool,
}

impl ImpairBox {
    pub(crate) fn start(near: &End, far: &End, seed: u64) -> Result<Self> {
        let taps = [device(near)?, device(far)?];
        let lines = [Line::new(seed), Line::new(seed.wrapping_add(1))];
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                lines,
                flows: Flows::default(),
                ended: false,
            }),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            begin: Instant::now(),
        });
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("impair-box".into())
            .spawn(move || carry(&for_thread, &taps))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Changes what happens to packets from the machine.
    pub fn outbound(&self, change: impl FnOnce(&mut Impairment)) {
        self.change(|state| change(&mut state.lines[NEAR].settings));
    }

    /// Changes what happens to packets to the machine.
    pub fn inbound(&self, change: impl FnOnce(&mut Impairment)) {
        self.change(|state| change(&mut state.lines[FAR].settings));
    }

    /// Changes what happens to packets of both directions.
    pub fn both(&self, change: impl Fn(&mut Impairment)) {
        self.change(|state| {
            state
                .lines
                .iter_mut()
                .for_each(|line| change(&mut line.settings))
        });
    }

    /// Puts a reset into every TCP flow that has passed, towards both of its ends.
    pub fn reset_flows(&self) {
        let now = self.shared.begin.elapsed();
        self.change(|state| {
            for (side, frame) in state.flows.reset_all() {
                state.lines[side].push(now, frame);
            }
        });
    }

    /// What happened so far to packets from the machine and to packets to it.
    pub fn counters(&self) -> (Counters, Counters) {
        let state = self.shared.lock();
        (state.lines[NEAR].counters, state.lines[FAR].counters)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.lock());
        // It fails only when 2^64 - 1 wake-ups wait to be seen.
        let _ = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
    }
}

impl Drop for ImpairBox {
    fn drop(&mut self) {
        self.change(|state| state.ended = true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn device(end: &End) -> Result<File> {
    let file = end.namespace.inside(|| tap::open(&end.interface))??;
    end.namespace.ip(&format!(
        "link set {} txqueuelen {KERNEL_QUEUE}",
        end.interface
    ))?;
    Ok(file)
}

/// The thread: carries frames until it is told to end or a device is gone.
fn carry(shared: &Shared, taps: &[File; 2]) {
    let mut due = Vec::new();
    loop {
        let next = {
            let mut state = shared.lock();
            if state.ended {
                return;
            }
            let now = shared.begin.elapsed();
            for (side, tap) in taps.iter().enumerate() {
                if !take_in(tap, side, now, &mut state) {
                    return;
                }
            }
            for side in [NEAR, FAR] {
                due.extend(
                    std::iter::from_fn(|| state.lines[side].pop(now)).map(|frame| (side, frame)),
                );
            }
            let times = state.lines.iter().filter_map(Line::next_due);
            times.min().map(|due| due.saturating_sub(now))
        };
        for (side, frame) in due.drain(..) {
            // A device that is down or full loses the frame, as a cable would.
            let _ = (&taps[1 - side]).write(&frame);
        }
        if wait(shared, taps, next).is_err() {
            return;
        }
    }
}

/// Reads what waits at one side; false when the device is gone.
fn take_in(mut tap: &File, side: usize, now: Duration, state: &mut State) -> bool {
    let mut buffer = [0; FRAME];
    for _ in 0..BATCH {
        match tap.read(&mut buffer) {
            Ok(length) => {
                state.flows.note(side, &buffer[..length]);
                state.lines[side].push(now, buffer[..length].to_vec());
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Down for now (the cable is cut): nothing to read.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                return true;
            }
            Err(_) => return false,
        }
    }
    true
}

/// Waits until a frame comes, a setting changes, or `next` has passed.
fn wait(shared: &Shared, taps: &[File; 2], next: Option<Duration>) -> rustix::io::Result<()> {
    let mut watched = [
        PollFd::new(&taps[0], PollFlags::IN),
        PollFd::new(&taps[1], PollFlags::IN),
        PollFd::new(&shared.wake, PollFlags::IN),
    ];
    let limit = next.and_then(|next| Timespec::try_from(next).ok());
    match poll(&mut watched, limit.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error),
    }
    if watched[2].revents().contains(PollFlags::IN) {
        let _ = rustix::io::read(&shared.wake, &mut [0u8; 8]);
    }
    // A TAP device that is down reports an error without end; do not spin on it.
    if watched[..2]
        .iter()
        .any(|fd| fd.revents().contains(PollFlags::ERR))
    {
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
