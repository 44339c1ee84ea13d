//! The cores that a process may run on, and keeping to some of them.

/// Numbers of the cores that this process may run on, ascending; none where the system does not tell.
#[cfg(target_os = "linux")]
pub fn allowed() -> Option<Vec<usize>> {
    // SAFETY: an all-zero set is the empty one, and the call writes no more than the size it is given.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) != 0 {
            return None;
        }
        set
    };
    // SAFETY: every number is below the size of the set.
    Some((0..libc::CPU_SETSIZE as usize).filter(|&core| unsafe { libc::CPU_ISSET(core, &set) }).collect())
}

/// Numbers of the cores that this process may run on; this system does not tell.
#[cfg(not(target_os = "linux"))]
pub fn allowed() -> Option<Vec<usize>> {
    None
}

/// A set of cores to keep to.
#[derive(Clone, Copy)]
pub struct Pin(#[cfg(target_os = "linux")] libc::cpu_set_t);

impl Pin {
    /// A pin to the cores of these numbers, as [`allowed`] gives them.
    #[cfg(target_os = "linux")]
    pub fn to(cores: &[usize]) -> Self {
        // SAFETY: an all-zero set is the empty one.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        for &core in cores.iter().filter(|&&core| core < libc::CPU_SETSIZE as usize) {
            // SAFETY: the number is below the size of the set.
            unsafe { libc::CPU_SET(core, &mut set) };
        }
        Self(set)
    }

    /// A pin to the cores of these numbers; this system has none.
    #[cfg(not(target_os = "linux"))]
    pub fn to(_cores: &[usize]) -> Self {
        Self()
    }

    /// Keeps the calling thread, and whatever it will start, to the cores; whether the system did so. Safe between fork and
    /// exec: one system call, no memory.
    #[cfg(target_os = "linux")]
    pub fn apply(&self) -> bool {
        // SAFETY: the set outlives the call, which only reads it.
        unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &self.0) == 0 }
    }

    /// Does nothing on this system.
    #[cfg(not(target_os = "linux"))]
    pub fn apply(&self) -> bool {
        false
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_thread_keeps_to_its_cores() {
        let before = allowed().unwrap();
        assert!(!before.is_empty());
        let last = [*before.last().unwrap()];
        let seen = std::thread::spawn(move || Pin::to(&last).apply().then(allowed)).join().unwrap();
        // A sandbox may forbid it; then nothing has changed.
        if let Some(seen) = seen {
            assert_eq!(seen.unwrap(), last);
        }
        assert_eq!(allowed().unwrap(), before, "other threads are not touched");
        assert!(!Pin::to(&[]).apply(), "no core at all is refused");
    }
}
