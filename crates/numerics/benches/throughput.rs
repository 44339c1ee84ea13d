//! Speed of every kind of quantisation on a [4096, 688] matrix, as GB/s of input and output together and as a
//! multiple of the time that copying the matrix takes.
//!
//!     cargo bench -p numerics

use std::hint::black_box;
use std::time::Instant;

use numerics::{
    Contraction, NumericFormat, Overflow, QuantSpec, Rounding, RoundingMode, ScaleKind, Scaling, quantize,
    round_slice,
};

const ROWS: usize = 4096;
const COLS: usize = 688;
const REPEATS: usize = 15;

/// The shortest of several runs, in seconds: what is longer was disturbed.
fn seconds(mut run: impl FnMut()) -> f64 {
    run();
    let time = |_| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    };
    (0..REPEATS).map(time).fold(f64::INFINITY, f64::min)
}

fn main() {
    // Roughly normal: a sum of four uniform numbers from an integer hash.
    let uniform = |i: u32| {
        (i.wrapping_mul(0x9e37_79b1) ^ 0x5bd1).wrapping_mul(0x85eb_ca6b) as i32 as f32 / 2f32.powi(31)
    };
    let x: Vec<f32> = (0..(ROWS * COLS) as u32).map(|i| (0..4).map(|k| uniform(4 * i + k)).sum()).collect();
    let mut copy = vec![0.0f32; x.len()];
    // In tasks of the size that quantisation uses, and on as many threads.
    let memcpy = seconds(|| {
        use rayon::prelude::*;
        let tasks = copy.par_chunks_mut(1 << 14).zip(x.par_chunks(1 << 14));
        tasks.for_each(|(to, from)| to.copy_from_slice(from));
        black_box(&mut copy);
    });
    // A fresh matrix, as `quantize` returns one: the pages are mapped and cleared first.
    let to_vec = seconds(|| drop(black_box(x.to_vec())));
    let report = |name: &str, time: f64| {
        let bytes = (2 * size_of_val(&x[..])) as f64;
        println!("{name:<44} {:6.1} GB/s {:6.2} x copy", bytes / time / 1e9, time / memcpy);
    };
    println!("[{ROWS}, {COLS}] f32, {} threads, {:?}", rayon::current_num_threads(), numerics::simd::isa());
    report("copy", memcpy);
    report("copy into a fresh vector, one thread", to_vec);

    for format in [NumericFormat::Bf16, NumericFormat::Tf32, NumericFormat::Fp16, NumericFormat::E4m3] {
        for rounding in [Rounding::NEAREST_EVEN, Rounding::TOWARD_ZERO, Rounding::stochastic(1)] {
            copy.copy_from_slice(&x);
            let time = seconds(|| round_slice(black_box(&mut copy), format, rounding, Overflow::Propagate));
            report(&format!("round_slice {format} {}", rounding.mode), time);
        }
    }

    use NumericFormat::{E2m1, E4m3, Int8, Ternary};
    let cases = [
        (E4m3, Scaling::None),
        (E4m3, Scaling::Tensor),
        (E4m3, Scaling::Delayed { history: 16, margin: 0 }),
        (E4m3, Scaling::Row),
        (Int8, Scaling::Row),
        (E4m3, Scaling::Block { size: 16 }),
        (E4m3, Scaling::Block2d { rows: 128, cols: 172 }),
        (E4m3, Scaling::Mx),
        (E2m1, Scaling::Nvfp4),
        (E2m1, Scaling::Nvfp4Weight),
        (Ternary, Scaling::Absmean),
        (Ternary, Scaling::Absmedian),
    ];
    for (format, scaling) in cases {
        for contraction in Contraction::ALL {
            for rounding in [RoundingMode::NearestEven, RoundingMode::Stochastic] {
                let spec = QuantSpec {
                    format,
                    scaling,
                    scale: ScaleKind::Float,
                    rounding,
                    overflow: Overflow::Saturate,
                };
                // 688 is no multiple of 32; MX along columns is measured on the same memory in another shape.
                let (rows, cols) = match (scaling, contraction) {
                    (Scaling::Mx, Contraction::Columns) => (ROWS * 43 / 32, COLS * 32 / 43),
                    _ => (ROWS, COLS),
                };
                let given = matches!(scaling, Scaling::Delayed { .. }).then_some(0.01);
                let time = seconds(|| {
                    drop(black_box(
                        quantize(&x, rows, cols, contraction, &spec, 1, given).expect("a valid case"),
                    ));
                });
                report(&format!("{format} {} {contraction:?} {rounding}", scaling.name()), time);
            }
        }
    }
}
