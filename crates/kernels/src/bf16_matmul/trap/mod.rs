//! AMX for CPUs that have none, so that the instructions of `amx.rs` are run and tested everywhere.
//!
//! A CPU without AMX raises #UD at such an instruction, which Linux delivers as SIGILL. The handler here decodes the
//! instruction at fault, does to this thread's tiles what Intel's manual says, and goes on behind it: the very bytes
//! that hardware would execute are those that are tested. A CPU with AMX executes them itself; nothing is installed
//! there, and the same tests test the hardware.
//!
//! Tiles live in memory of the thread, not in the state that XSAVE keeps, so the kernel need not know of AMX.

mod decode;
mod tiles;

use super::amx::Amx;
use decode::decode;
use numerics::simd::{Isa, widest};
use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};
use std::sync::Once;
use tiles::TileState;

thread_local! {
    // Neither initialised when first used nor destroyed, hence no code that a signal handler must not run.
    static TILES: UnsafeCell<TileState> = const { UnsafeCell::new(TileState::INITIAL) };
}

/// AMX: that of the CPU, else emulated.
pub(super) fn amx() -> Amx {
    static INSTALLED: Once = Once::new();
    if widest() != Isa::Amx {
        INSTALLED.call_once(install);
    }
    // SAFETY: either the CPU has it or the handler is in place.
    unsafe { Amx::assume() }
}

fn install() {
    // SAFETY: all zeros are a valid `sigaction`, which is then filled in. The handler has the type that SA_SIGINFO asks
    // for, and calls nothing that a signal handler must not call.
    let status = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_illegal_instruction as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGILL, &action, std::ptr::null_mut())
    };
    assert_eq!(status, 0, "a handler of SIGILL can be installed");
}

/// Where the registers are in a context, in the order of their numbers in instructions.
const GENERAL: [c_int; 16] = {
    use libc::*;
    [
        REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI, REG_R8, REG_R9, REG_R10,
        REG_R11, REG_R12, REG_R13, REG_R14, REG_R15,
    ]
};

extern "C" fn on_illegal_instruction(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: with SA_SIGINFO the third argument is the context of this thread, which only this handler has now.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let at = registers[libc::REG_RIP as usize] as usize;
    let general = GENERAL.map(|index| registers[index as usize] as usize);
    // SAFETY: the CPU has just read an instruction there.
    let Some((instruction, length)) = (unsafe { decode(at as *const u8, &general) }) else {
        // SAFETY: none of ours. The default action ends the process once the instruction runs again.
        unsafe { libc::signal(libc::SIGILL, libc::SIG_DFL) };
        return;
    };
    // SAFETY: the tiles are this thread's, which is in this handler; the instruction's memory is the business of the one
    // who wrote it, as on a CPU.
    let result = TILES.with(|tiles| unsafe { (*tiles.get()).execute(instruction) });
    if let Err(fault) = result {
        abort(fault);
    }
    registers[libc::REG_RIP as usize] = (at + length) as i64;
}

fn abort(fault: &str) -> ! {
    for text in ["emulated AMX: ", fault, "\n"] {
        // SAFETY: the bytes are those of the text. Nobody is left to hear of a failure.
        unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
    }
    // SAFETY: abort may be called anywhere.
    unsafe { libc::abort() }
}
