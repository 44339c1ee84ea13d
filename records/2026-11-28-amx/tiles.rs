//! What a load of a tile and a product of two take, alone and together: nanoseconds each, ten times within two seconds.
//! A program of its own, with the `libc` crate.
use std::arch::asm;
use std::time::{Duration, Instant};

#[repr(C, align(64))]
struct Aligned<const N: usize>([u8; N]);

macro_rules! time {
    ($tiles:expr, $($line:literal),+) => {{
        let turns = 10_000usize;
        let start = Instant::now();
        // SAFETY: the CPU has tiles, which are configured, and four KiB are read.
        unsafe {
            asm!("2:", $($line),+, "dec {turns}", "jnz 2b", turns = inout(reg) turns => _,
                a = in(reg) $tiles.0.as_ptr(), row = in(reg) 64usize);
        }
        start.elapsed().as_secs_f64() * 1e9 / (4 * turns) as f64
    }};
}

fn main() {
    // SAFETY: Linux is asked for tiles' data, as in `numerics::simd`; then all eight are configured to their full size.
    unsafe {
        assert_eq!(libc::syscall(libc::SYS_arch_prctl, 0x1023, 18), 0);
        let mut config = Aligned([0u8; 64]);
        config.0[0] = 1;
        for tile in 0..8 {
            (config.0[16 + 2 * tile], config.0[48 + tile]) = (64, 16);
        }
        asm!("ldtilecfg [{}]", in(reg) config.0.as_ptr());
    }
    let tiles = Aligned([0u8; 4096]);
    for _ in 0..10 {
        let products = time!(tiles, "/* {a} {row} */", "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7");
        let loads = time!(tiles, "tileloadd tmm4, [{a} + {row}*1]", "tileloadd tmm5, [{a} + {row}*1 + 1024]",
            "tileloadd tmm6, [{a} + {row}*1 + 2048]", "tileloadd tmm7, [{a} + {row}*1 + 3072]");
        let both = time!(tiles, "tileloadd tmm4, [{a} + {row}*1]", "tileloadd tmm5, [{a} + {row}*1 + 1024]",
            "tileloadd tmm6, [{a} + {row}*1 + 2048]", "tileloadd tmm7, [{a} + {row}*1 + 3072]",
            "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7", "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7");
        println!("a product {products:.1} ns, a load {loads:.1} ns, one of each {both:.1} ns");
        std::thread::sleep(Duration::from_millis(200));
    }
}
