//! The handler of SIGBUS: faults inside guarded ranges read as zeros and are remembered; others are as before.
//!
//! Invariants:
//! - The handler calls nothing but `mmap(2)` and, outside the guarded ranges, what was there before it.
//! - A range is in the table from before its first access until after its last.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Ranges that can be guarded at the same time.
const GUARDS_MAX: usize = 1024;

/// One guarded range. `start` is 0 while it is free.
#[derive(Debug)]
struct Slot {
    taken: AtomicBool,
    start: AtomicUsize,
    end: AtomicUsize,
    hit: AtomicBool,
}

static SLOTS: [Slot; GUARDS_MAX] = [const {
    Slot {
        taken: AtomicBool::new(false),
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        hit: AtomicBool::new(false),
    }
}; GUARDS_MAX];

/// What handled the signal before.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// A guarded range of addresses, until [`Guard::release`].
#[derive(Debug)]
pub(super) struct Guard(&'static Slot);

/// Guards the `bytes` from `start`, which are a mapping of the caller.
pub(super) fn guard(start: usize, bytes: usize) -> io::Result<Guard> {
    install()?;
    // Acquire: pairs with the Release of who gave the slot back, and is done with it.
    let free = |slot: &&Slot| !slot.taken.swap(true, Ordering::Acquire);
    let slot = SLOTS.iter().find(free).ok_or(rustix::io::Errno::NFILE)?;
    slot.hit.store(false, Ordering::Relaxed);
    slot.end.store(start.saturating_add(bytes), Ordering::Relaxed);
    // Release: a handler that sees the start sees the end that belongs to it.
    slot.start.store(start, Ordering::Release);
    Ok(Guard(slot))
}

impl Guard {
    /// Whether a fault was answered with zeros.
    #[inline]
    pub(super) fn is_hit(&self) -> bool {
        self.0.hit.load(Ordering::Relaxed)
    }

    /// Ends the guard; the range is not touched from here on.
    pub(super) fn release(&mut self) {
        // A slot that was given back belongs to somebody else: `start` is cleared by its owner, once.
        if self.0.start.swap(0, Ordering::Relaxed) != 0 {
            // Release: pairs with the Acquire of the next to take it.
            self.0.taken.store(false, Ordering::Release);
        }
    }
}

/// Installs the handler, once.
fn install() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    let install = || {
        // SAFETY: an all-zero sigaction is a valid one: the default action, no flags, no blocked signals.
        let mut previous: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to a live local; no new action is given.
        let asked = unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut previous) };
        if asked != 0 {
            return Err(io::Error::last_os_error().raw_os_error().unwrap_or(0));
        }
        let mut action = previous;
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_bus_error;
        action.sa_sigaction = (handler as *const ()).expose_provenance();
        // On the alternate stack: the fault may be one of a stack that overflowed.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        let _first = PREVIOUS.set(previous);
        // SAFETY: the action is a valid one, whose handler does only what a handler may.
        let installed = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) };
        if installed == 0 { Ok(()) } else { Err(io::Error::last_os_error().raw_os_error().unwrap_or(0)) }
    };
    INSTALLED.get_or_init(install).map_err(io::Error::from_raw_os_error)
}

extern "C" fn on_bus_error(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a pointer to a siginfo that lives as long as the handler runs.
    if let Some(details) = unsafe { info.as_ref() } {
        // SAFETY: SIGBUS carries an address.
        let address = unsafe { details.si_addr() }.addr();
        if details.si_code == libc::BUS_ADRERR && answer(address) {
            return;
        }
    }
    hand_on(signal, info, context);
}

/// Puts zeros from the page of `address` to the end of its guarded range; false where there is none.
fn answer(address: usize) -> bool {
    let inside = |slot: &&Slot| {
        // Acquire: pairs with the Release of `guard`.
        let start = slot.start.load(Ordering::Acquire);
        start != 0 && start <= address && address < slot.end.load(Ordering::Relaxed)
    };
    let Some(slot) = SLOTS.iter().find(inside) else { return false };
    let page = rustix::param::page_size();
    let from = address - address % page;
    let bytes = slot.end.load(Ordering::Relaxed) - from;
    // Before the zeros are there: whoever reads them and looks afterwards sees it.
    slot.hit.store(true, Ordering::SeqCst);
    // SAFETY: the function has no preconditions.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: it returned a pointer to an integer of this thread.
    let saved = unsafe { errno.read() };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    let pages = std::ptr::without_provenance_mut(from);
    // SAFETY: the range lies inside a mapping that its guard's owner reads only and has not unmapped: it is touched
    // right now. It is replaced in one step by memory of the same protection.
    let zeros = unsafe { libc::mmap(pages, bytes, libc::PROT_READ, flags, -1, 0) };
    // SAFETY: as above.
    unsafe { errno.write(saved) };
    zeros != libc::MAP_FAILED
}

/// Lets the handler before ours have it, or lets the fault end the process as it would have.
fn hand_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
    let previous = PREVIOUS.get().filter(|previous| {
        previous.sa_flags & libc::SA_SIGINFO != 0 && previous.sa_sigaction > libc::SIG_IGN
    });
    if let Some(previous) = previous {
        let function = std::ptr::with_exposed_provenance::<()>(previous.sa_sigaction);
        // SAFETY: with SA_SIGINFO, what is neither the default nor ignored is a function of this type.
        let handler = unsafe { std::mem::transmute::<*const (), Handler>(function) };
        handler(signal, info, context);
        return;
    }
    // Back to the default: the instruction is run again on return, faults again, and that ends the process.
    // SAFETY: resetting a signal to its default is always valid.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}
