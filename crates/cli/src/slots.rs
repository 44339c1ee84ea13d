//! How the cells of a grid share the cores of this machine.
//!
//! A slot is a place for one cell: a number of threads, and the cores they keep to. With at least as many cells as cores
//! every slot is one thread on one core, since runs side by side lose nothing to waiting for each other's threads; with
//! fewer cells the cores are shared out. A cell that ends leaves its slot to the next one.

use std::collections::BTreeSet;

use lm_train::cores;

/// What this process may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Threads that can run at once: cores, unless a quota (cgroup) is lower.
    pub parallelism: usize,
    /// Numbers of the cores, where the system tells.
    pub cores: Option<Vec<usize>>,
}

impl Machine {
    /// This machine, as far as this process may use it.
    pub fn here() -> Self {
        let parallelism = std::thread::available_parallelism().map_or(1, usize::from);
        Self { parallelism, cores: cores::allowed() }
    }
}

/// A place for one cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Threads of the cell.
    pub threads: usize,
    /// Numbers of the cores that it keeps to; none where the scheduler is left to decide.
    pub cores: Option<Vec<usize>>,
}

/// The slots of a sweep, and which of them are free.
#[derive(Debug)]
pub struct Slots {
    slots: Vec<Slot>,
    free: BTreeSet<usize>,
}

impl Slots {
    /// Slots for `cells` cells: `jobs` of them (0: one per thread, though no more than cells), which share `threads` threads
    /// (0: all of the machine's).
    ///
    /// They are pinned if together they take exactly all cores. Otherwise a pin would do harm: with fewer threads, or under
    /// a quota, other processes run beside this one, and those that pin as we do would all choose the same cores; with
    /// more, cells would be tied to a core while another one is idle.
    pub fn new(machine: &Machine, threads: usize, jobs: usize, cells: usize) -> Self {
        let threads = if threads > 0 { threads } else { machine.parallelism }.max(1);
        let jobs = if jobs > 0 { jobs } else { threads }.min(cells).max(1);
        let share = |slot: usize| threads / jobs + usize::from(slot < threads % jobs);
        let mut cores = machine.cores.as_deref().filter(|cores| {
            cores.len() == threads && threads <= machine.parallelism && (2..=threads).contains(&jobs)
        });
        let mut slots = Vec::with_capacity(jobs);
        for slot in 0..jobs {
            let own = cores.map(|left| left.split_at(share(slot)));
            cores = own.map(|(_, left)| left);
            slots.push(Slot { threads: share(slot).max(1), cores: own.map(|(own, _)| own.to_vec()) });
        }
        Self { free: (0..jobs).collect(), slots }
    }

    /// Takes a free slot.
    pub fn take(&mut self) -> Option<usize> {
        self.free.pop_first()
    }

    /// Gives a slot back for the next cell.
    pub fn give_back(&mut self, slot: usize) {
        self.free.insert(slot);
    }

    /// The slot of this number.
    pub fn get(&self, slot: usize) -> &Slot {
        &self.slots[slot]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(cores: &[usize]) -> Machine {
        Machine { parallelism: cores.len(), cores: Some(cores.to_vec()) }
    }

    /// Threads and cores of every slot.
    fn plan(
        machine: &Machine,
        threads: usize,
        jobs: usize,
        cells: usize,
    ) -> (Vec<usize>, Vec<Option<Vec<usize>>>) {
        Slots::new(machine, threads, jobs, cells)
            .slots
            .into_iter()
            .map(|slot| (slot.threads, slot.cores))
            .unzip()
    }

    #[test]
    fn many_cells_take_a_core_each_and_few_share_them_out() {
        let four = machine(&[2, 3, 5, 7]);
        let one_each = || vec![Some(vec![2]), Some(vec![3]), Some(vec![5]), Some(vec![7])];
        assert_eq!(plan(&four, 0, 0, 27), (vec![1; 4], one_each()));
        assert_eq!(plan(&four, 0, 0, 4), (vec![1; 4], one_each()));
        let uneven = vec![Some(vec![2, 3]), Some(vec![5]), Some(vec![7])];
        assert_eq!(plan(&four, 0, 0, 3), (vec![2, 1, 1], uneven));
        let halves = || vec![Some(vec![2, 3]), Some(vec![5, 7])];
        assert_eq!(plan(&four, 0, 0, 2), (vec![2, 2], halves()));
        assert_eq!(plan(&four, 0, 2, 27), (vec![2, 2], halves()), "--jobs overrides");
        assert_eq!(plan(&four, 0, 9, 2), (vec![2, 2], halves()), "no more jobs than cells");
    }

    #[test]
    fn nothing_is_pinned_unless_all_cores_are_taken_once() {
        let four = machine(&[0, 1, 2, 3]);
        assert_eq!(plan(&four, 0, 0, 1), (vec![4], vec![None]), "one cell has the machine");
        assert_eq!(plan(&four, 2, 0, 27), (vec![1; 2], vec![None; 2]), "--threads below the cores");
        assert_eq!(plan(&four, 8, 4, 27), (vec![2; 4], vec![None; 4]), "--threads above the cores");
        assert_eq!(plan(&four, 0, 6, 27), (vec![1; 6], vec![None; 6]), "more jobs than cores");
        let quota = Machine { parallelism: 2, ..four };
        assert_eq!(plan(&quota, 0, 0, 27), (vec![1; 2], vec![None; 2]), "a quota below the cores");
        assert_eq!(plan(&quota, 4, 0, 27), (vec![1; 4], vec![None; 4]));
        let untold = Machine { parallelism: 2, cores: None };
        assert_eq!(plan(&untold, 0, 0, 27), (vec![1; 2], vec![None; 2]));
        assert_eq!(plan(&machine(&[6]), 0, 0, 27), (vec![1], vec![None]));
        assert_eq!(plan(&machine(&[6]), 0, 0, 0), (vec![1], vec![None]), "nothing to do is no special case");
    }

    #[test]
    fn the_cores_of_a_cell_that_ends_go_to_the_next() {
        let mut slots = Slots::new(&machine(&[4, 8]), 0, 0, 5);
        let (a, b) = (slots.take().unwrap(), slots.take().unwrap());
        assert_eq!(
            (slots.get(a).cores.as_deref(), slots.get(b).cores.as_deref()),
            (Some(&[4][..]), Some(&[8][..]))
        );
        assert_eq!(slots.take(), None);
        slots.give_back(b);
        assert_eq!((slots.take(), slots.take()), (Some(b), None));
        slots.give_back(a);
        slots.give_back(b);
        assert_eq!((slots.take(), slots.take()), (Some(a), Some(b)));
    }

    #[test]
    fn this_machine_has_as_many_cores_as_it_has_numbers() {
        let here = Machine::here();
        if let Some(cores) = &here.cores {
            assert!(cores.len() >= here.parallelism, "{here:?}");
        }
    }
}
