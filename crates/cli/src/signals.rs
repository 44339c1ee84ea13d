//! SIGINT and SIGTERM as a flag that the training loop looks at between two steps.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};
use lm_train::trainer::Stop;
use signal_hook::consts::{SIGINT, SIGTERM};

static ASKED: OnceLock<Arc<AtomicUsize>> = OnceLock::new();

/// From now on the first SIGINT or SIGTERM sets the flag; a second one ends the process at once. May be called again.
///
/// # Errors
/// When the system refuses the handlers.
pub fn listen() -> Result<()> {
    // A second pair of handlers would take the first signal for the second.
    if ASKED.get().is_some() {
        return Ok(());
    }
    let asked = ASKED.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM] {
        let again = Arc::clone(asked);
        // SAFETY: the handler only reads and writes an atomic and calls _exit, both async-signal-safe.
        unsafe {
            signal_hook::low_level::register(signal, move || {
                if again.swap(signal as usize, Ordering::SeqCst) != 0 {
                    signal_hook::low_level::exit(128 + signal);
                }
            })
        }
        .context("cannot listen for signals")?;
    }
    Ok(())
}

/// Who asked the process to stop, if anybody did.
pub fn asked() -> Option<Stop> {
    match ASKED.get().map_or(0, |asked| asked.load(Ordering::SeqCst)) {
        0 => None,
        signal if signal == SIGTERM as usize => Some(Stop::Terminate),
        _ => Some(Stop::Interrupt),
    }
}

/// Number of the signal behind a stop.
pub fn number(stop: Stop) -> i32 {
    match stop {
        Stop::Interrupt => SIGINT,
        Stop::Terminate => SIGTERM,
    }
}

/// Exit code of a process that stopped on request.
pub fn exit_code(stop: Stop) -> std::process::ExitCode {
    std::process::ExitCode::from(128 + number(stop) as u8)
}
