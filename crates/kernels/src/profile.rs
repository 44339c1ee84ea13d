//! Where the time of a step goes: spans that operations report, each with the work it had to do.
//!
//! Recording is off unless [`record`] has switched it on for the calling thread, which is the one that drives
//! the step; operations share work with other threads inside a span, never across one. Off, a span costs one
//! look at a thread-local flag. Where tasks take their rows through several operations, each operation gets the share of
//! the time that all tasks together spent on it.

use std::cell::RefCell;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a span does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Rows of the embedding table by id, and the gradient of the table.
    Embedding,
    /// RMSNorm.
    Norm,
    /// y = x wᵀ.
    MatmulForward,
    /// dx = dy w.
    MatmulInput,
    /// dw = dyᵀ x.
    MatmulWeight,
    /// Rounding of operands and results to a format below f32.
    Quantise,
    /// Rotary positions.
    Rope,
    /// Causal attention.
    Attention,
    /// Activations and gated products.
    Activation,
    /// Sums of the residual stream.
    Residual,
    /// Softmax and cross-entropy.
    Loss,
    /// Norm of the gradient, for clipping.
    GradNorm,
    /// AdamW.
    Optimizer,
}

impl Part {
    /// Every part, in the order of a step.
    pub const ALL: [Self; 13] = [
        Self::Embedding,
        Self::Norm,
        Self::MatmulForward,
        Self::MatmulInput,
        Self::MatmulWeight,
        Self::Quantise,
        Self::Rope,
        Self::Attention,
        Self::Activation,
        Self::Residual,
        Self::Loss,
        Self::GradNorm,
        Self::Optimizer,
    ];

    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Norm => "norm",
            Self::MatmulForward => "matmul y = x w'",
            Self::MatmulInput => "matmul dx = dy w",
            Self::MatmulWeight => "matmul dw = dy' x",
            Self::Quantise => "quantise",
            Self::Rope => "rope",
            Self::Attention => "attention",
            Self::Activation => "activation",
            Self::Residual => "residual",
            Self::Loss => "loss",
            Self::GradNorm => "gradient norm",
            Self::Optimizer => "optimizer",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The least that a span has to do, whatever its implementation: the basis of a floor for its time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Floating-point operations of matrix products.
    pub flops: f64,
    /// Bytes to be read and written once.
    pub bytes: f64,
}

impl Work {
    /// The product of an \[m, k\] and a \[k, n\] matrix of f32.
    pub fn matmul([m, k, n]: [usize; 3]) -> Self {
        let [m, k, n] = [m, k, n].map(|size| size as f64);
        Self { flops: 2.0 * m * k * n, bytes: 4.0 * (m * k + k * n + m * n) }
    }

    /// One pass over so many f32, read or written.
    pub fn floats(count: usize) -> Self {
        Self { flops: 0.0, bytes: 4.0 * count as f64 }
    }
}

/// One finished span.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// What was done.
    pub part: Part,
    /// \[m, k, n\] of a matrix product.
    pub shape: Option<[usize; 3]>,
    /// What had to be done.
    pub work: Work,
    /// How long it took.
    pub time: Duration,
}

thread_local! {
    static SPANS: RefCell<Option<Vec<Span>>> = const { RefCell::new(None) };
}

/// Runs `f` and returns what it returned with the spans that ended meanwhile on this thread, in order.
pub fn record<R>(f: impl FnOnce() -> R) -> (R, Vec<Span>) {
    SPANS.set(Some(Vec::new()));
    let result = f();
    (result, SPANS.take().unwrap_or_default())
}

/// Times `f` when somebody records.
pub(crate) fn span<R>(part: Part, work: Work, f: impl FnOnce() -> R) -> R {
    timed(part, None, work, f)
}

/// [`span`] of a matrix product of \[m, k\] and \[k, n\].
pub(crate) fn matmul_span<R>(part: Part, shape: [usize; 3], f: impl FnOnce() -> R) -> R {
    timed(part, Some(shape), Work::matmul(shape), f)
}

fn timed<R>(part: Part, shape: Option<[usize; 3]>, work: Work, f: impl FnOnce() -> R) -> R {
    if SPANS.with_borrow(Option::is_none) {
        return f();
    }
    let started = Instant::now();
    let result = f();
    let time = started.elapsed();
    SPANS.with_borrow_mut(|spans| {
        if let Some(spans) = spans {
            spans.push(Span { part, shape, work, time });
        }
    });
    result
}

/// Spans whose parts tasks on several threads do in turn, each for its share of the work.
pub(crate) struct Shared<const N: usize> {
    /// Without their times.
    spans: [Span; N],
    clocks: [Clock; N],
}

/// The time that tasks spent on one part; without anybody who records, nothing.
pub(crate) struct Clock(Option<AtomicU64>);

impl Clock {
    /// Times `f`, if somebody records.
    pub(crate) fn time<R>(&self, f: impl FnOnce() -> R) -> R {
        let Some(nanoseconds) = &self.0 else { return f() };
        let started = Instant::now();
        let result = f();
        nanoseconds.fetch_add(started.elapsed().as_nanos() as u64, Ordering::Relaxed);
        result
    }

    fn nanoseconds(&self) -> f64 {
        self.0.as_ref().map_or(0.0, |nanoseconds| nanoseconds.load(Ordering::Relaxed) as f64)
    }
}

/// What a part of [`Shared`] has to do: a pass over memory.
pub(crate) fn pass(part: Part, floats: usize) -> Span {
    Span { part, shape: None, work: Work::floats(floats), time: Duration::ZERO }
}

/// What a part of [`Shared`] has to do: a product of \[m, k\] and \[k, n\].
pub(crate) fn product(part: Part, shape: [usize; 3]) -> Span {
    Span { part, shape: Some(shape), work: Work::matmul(shape), time: Duration::ZERO }
}

impl<const N: usize> Shared<N> {
    /// For the parts that [`pass`] and [`product`] describe.
    pub(crate) fn new(spans: [Span; N]) -> Self {
        let on = SPANS.with_borrow(Option::is_some);
        Self { spans, clocks: std::array::from_fn(|_| Clock(on.then(AtomicU64::default))) }
    }

    /// Runs `f` with a clock for each part. The time it takes is divided among them as the clocks say; a part whose clock nobody
    /// started is none.
    pub(crate) fn run<R>(self, f: impl FnOnce(&[Clock; N]) -> R) -> R {
        let started = Instant::now();
        let result = f(&self.clocks);
        let all: f64 = self.clocks.iter().map(Clock::nanoseconds).sum();
        let passed = started.elapsed();
        SPANS.with_borrow_mut(|recorded| {
            let Some(recorded) = recorded else { return };
            let parts = self.spans.into_iter().zip(&self.clocks);
            for (span, clock) in parts.filter(|(_, clock)| clock.nanoseconds() > 0.0) {
                let time = passed.mul_f64(clock.nanoseconds() / all.max(1.0));
                recorded.push(Span { time, ..span });
            }
        });
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_kept_only_while_recording() {
        assert_eq!(span(Part::Norm, Work::floats(3), || 7), 7);
        let (result, spans) = record(|| {
            span(Part::Norm, Work::floats(3), || ());
            matmul_span(Part::MatmulInput, [2, 3, 4], || 5)
        });
        assert_eq!(result, 5);
        let seen: Vec<_> = spans.iter().map(|span| (span.part, span.shape, span.work)).collect();
        let matmul = Work { flops: 48.0, bytes: 4.0 * 26.0 };
        assert_eq!(
            seen,
            [
                (Part::Norm, None, Work { flops: 0.0, bytes: 12.0 }),
                (Part::MatmulInput, Some([2, 3, 4]), matmul)
            ]
        );
        assert!(record(|| ()).1.is_empty());
    }
}
