//! A recipe at work: the maxima that delayed scaling remembers, the keys of stochastic rounding, and the health of the
//! tensors that were quantised.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{Result, Tensor};
use kernels::{Formats, Kernels, Matrix, Observer, Role};
use numerics::{Contraction, DelayedScale, Health, NumericFormat, Operand, QuantSpec, Scaling};

use super::recipe::Recipe;

/// A recipe with its state, shared by all layers of a model and by its view for evaluation.
#[derive(Clone, Debug)]
pub struct Precision {
    recipe: Arc<Recipe>,
    state: Arc<State>,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Tensors leave their maxima behind, and their health is looked at.
    Training,
    /// Nothing is remembered; scales are those that training left.
    Evaluation,
}

#[derive(Debug)]
struct State {
    key: u64,
    step: AtomicU64,
    pass: AtomicU64,
    sampling: AtomicBool,
    histories: Mutex<BTreeMap<String, DelayedScale>>,
    /// What a checkpoint held, until the layer that it belongs to asks.
    restored: Mutex<BTreeMap<String, Vec<f32>>>,
    health: Mutex<BTreeMap<(String, Role), TensorHealth>>,
    non_finite: AtomicU64,
}

/// How one operand of one layer fared in the step looked at.
#[derive(Clone, Debug)]
pub struct TensorHealth {
    /// Name of the layer, such as `model.layers.0.mlp.down_proj`.
    pub layer: String,
    /// Which operand.
    pub role: Role,
    /// Its format.
    pub format: NumericFormat,
    /// The counts.
    pub health: Health,
}

impl Precision {
    /// A recipe in training. `key` makes the bits of stochastic rounding, with the step and the layer's name.
    pub fn new(recipe: Recipe, key: u64) -> Self {
        let state = State {
            key,
            step: AtomicU64::new(0),
            pass: AtomicU64::new(0),
            sampling: AtomicBool::new(false),
            histories: Mutex::default(),
            restored: Mutex::default(),
            health: Mutex::default(),
            non_finite: AtomicU64::new(0),
        };
        Self { recipe: Arc::new(recipe), state: Arc::new(state), phase: Phase::Training }
    }

    /// Everything in f32.
    pub fn full() -> Self {
        Self::new(super::PrecisionPreset::Fp32.recipe(), 0)
    }

    /// The same recipe and state for a model that is only evaluated.
    #[must_use]
    pub fn for_evaluation(&self) -> Self {
        Self { phase: Phase::Evaluation, ..self.clone() }
    }

    /// The recipe.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// To be called before the forward passes of a step. `sampling`: look at the health of every operand.
    pub fn begin_step(&self, step: u64, sampling: bool) {
        self.state.step.store(step, Ordering::Relaxed);
        self.state.pass.store(0, Ordering::Relaxed);
        self.state.sampling.store(sampling, Ordering::Relaxed);
        self.state.non_finite.store(0, Ordering::Relaxed);
    }

    /// To be called before every forward pass after a step's first, so that micro-batches draw their own bits.
    pub fn next_pass(&self) {
        self.state.pass.fetch_add(1, Ordering::Relaxed);
    }

    /// NaN and infinities seen in operands since the step began.
    pub fn non_finite(&self) -> u64 {
        self.state.non_finite.load(Ordering::Relaxed)
    }

    /// What was seen of the operands since it was last asked for, by layer and role.
    pub fn take_health(&self) -> Vec<TensorHealth> {
        std::mem::take(&mut *lock(&self.state.health)).into_values().collect()
    }

    /// A key for the random bits of something stored, such as a weight, in the current step.
    pub fn storage_key(&self, name: &str) -> u64 {
        self.state.key_of(hash(name), 3)
    }

    /// What delayed scaling remembers, by operand; empty under other recipes.
    pub fn histories(&self) -> Vec<(String, Vec<f32>)> {
        let restored = lock(&self.state.restored).clone();
        let live = lock(&self.state.histories);
        let live = live.iter().map(|(name, history)| (name.clone(), history.history().to_vec()));
        restored.into_iter().chain(live).collect()
    }

    /// Puts back what [`Precision::histories`] gave.
    pub fn restore(&self, histories: impl IntoIterator<Item = (String, Vec<f32>)>) {
        lock(&self.state.histories).clear();
        *lock(&self.state.restored) = histories.into_iter().collect();
    }

    /// Whether delayed scaling has seen anything yet.
    pub fn has_history(&self) -> bool {
        !lock(&self.state.histories).is_empty() || !lock(&self.state.restored).is_empty()
    }

    /// x in the type between operations.
    ///
    /// # Errors
    /// When x is not f32 on the CPU and has to be rounded.
    pub fn round(&self, kernels: Kernels, x: &Tensor) -> Result<Tensor> {
        kernels::round(kernels, x, self.recipe.compute.format())
    }

    /// x in the type of the residual stream.
    ///
    /// # Errors
    /// As [`Precision::round`].
    pub fn round_residual(&self, kernels: Kernels, x: &Tensor) -> Result<Tensor> {
        kernels::round(kernels, x, self.recipe.residual.format())
    }

    /// Types between the operations of a fused block.
    pub fn formats(&self) -> Formats {
        let Recipe { compute, residual, .. } = &*self.recipe;
        Formats { compute: compute.format(), residual: residual.format() }
    }

    /// The keeper of one layer's state.
    pub(crate) fn observer(&self, layer: String) -> Arc<dyn Observer> {
        let hash = hash(&layer);
        Arc::new(LayerObserver { state: self.state.clone(), phase: self.phase, layer, hash })
    }
}

#[derive(Debug)]
struct LayerObserver {
    state: Arc<State>,
    phase: Phase,
    layer: String,
    hash: u64,
}

impl LayerObserver {
    /// Calls `f` with what delayed scaling remembers of an operand.
    fn with_history<R>(
        &self,
        role: Role,
        spec: &QuantSpec,
        f: impl FnOnce(&mut DelayedScale) -> R,
    ) -> Option<R> {
        let Scaling::Delayed { history, margin } = spec.scaling else { return None };
        let name = format!("{}.{}", self.layer, role.name());
        let mut histories = lock(&self.state.histories);
        let entry = histories.entry(name).or_insert_with_key(|name| {
            let mut fresh = DelayedScale::new(history, margin);
            let restored = lock(&self.state.restored).remove(name).unwrap_or_default();
            restored.into_iter().for_each(|amax| fresh.push(amax));
            fresh
        });
        Some(f(entry))
    }
}

impl Observer for LayerObserver {
    fn delayed_scale(&self, role: Role, spec: &QuantSpec) -> Option<f32> {
        self.with_history(role, spec, |history| history.scale(spec.format))?
    }

    fn key(&self, role: Role) -> u64 {
        self.state.key_of(self.hash, role as u64)
    }

    fn looks(&self) -> bool {
        self.phase == Phase::Training && self.state.sampling.load(Ordering::Relaxed)
    }

    fn passed(&self, _: Role, non_finite: u64) {
        if self.phase == Phase::Training {
            self.state.non_finite.fetch_add(non_finite, Ordering::Relaxed);
        }
    }

    fn measured(&self, role: Role, spec: &QuantSpec, amax: f32) {
        if self.phase == Phase::Training {
            self.with_history(role, spec, |history| history.push(amax));
        }
    }

    fn quantised(&self, role: Role, matrix: Matrix<'_>, spec: &QuantSpec, operand: &Operand) {
        if self.phase == Phase::Evaluation {
            return;
        }
        self.measured(role, spec, operand.amax);
        self.passed(role, operand.non_finite);
        if self.looks() && spec.format != NumericFormat::Fp32 {
            let Matrix { values, rows, cols } = matrix;
            let seen = numerics::health(values, rows, cols, Contraction::Columns, spec, operand);
            let mut all = lock(&self.state.health);
            let entry = all.entry((self.layer.clone(), role)).or_insert_with(|| TensorHealth {
                layer: self.layer.clone(),
                role,
                format: spec.format,
                health: Health::default(),
            });
            entry.health = entry.health.merge(&seen);
        }
    }
}

impl State {
    /// One key per step, pass, layer and purpose.
    fn key_of(&self, layer: u64, purpose: u64) -> u64 {
        let (step, pass) = (self.step.load(Ordering::Relaxed), self.pass.load(Ordering::Relaxed));
        [layer, step, pass, purpose].into_iter().fold(self.key, |key, part| mix(key ^ part))
    }
}

/// A poisoned lock means that a panic is on its way up; what it guards is whole, since entries are added in one go.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// FNV-1a, 64 bits.
fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// One step of SplitMix64 (Steele, Lea and Flood 2014).
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
