//! Intel AMX: eight tiles of 16 rows of 64 bytes, and an instruction that multiplies two and adds to a third.

use super::pack::Tile;
use super::unit::{Start, Sums, TileUnit, Tiles, common_length, common_steps};
use numerics::simd::{Isa, isa};
use std::arch::asm;
use std::marker::PhantomData;

/// What LDTILECFG reads (Intel SDM, volume 1, "Programming with Intel AMX").
#[repr(C, align(64))]
struct TileConfig([u8; 64]);

/// Eight full tiles: byte 0 is the palette, 16-bit numbers from byte 16 on are the bytes of a row, bytes from 48 on
/// the rows. All else is zero.
static FULL_TILES: TileConfig = {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    let mut tile = 0;
    while tile < 8 {
        bytes[16 + 2 * tile] = 64;
        bytes[48 + tile] = 16;
        tile += 1;
    }
    TileConfig(bytes)
};

/// The knowledge that AMX instructions may be executed.
#[derive(Clone, Copy)]
pub(crate) struct Amx(());

impl Amx {
    /// AMX, if it is the instruction set that runs.
    pub(crate) fn new() -> Option<Self> {
        #[cfg(all(test, target_os = "linux"))]
        if super::tests::is_forced() {
            return Some(super::trap::amx());
        }
        (isa() == Isa::Amx).then_some(Self(()))
    }

    /// # Safety
    /// The process can execute AMX instructions, or has something that executes them in its place.
    #[cfg(all(test, target_os = "linux"))]
    pub(crate) unsafe fn assume() -> Self {
        Self(())
    }
}

/// The tiles of this thread, which cannot be handed to another.
pub(crate) struct Configured(PhantomData<*const ()>);

impl TileUnit for Amx {
    type Tiles = Configured;

    fn configure(self) -> Configured {
        // SAFETY: the instruction exists, as `self` knows, and reads the 64 bytes that it is given.
        unsafe {
            asm!(
                "ldtilecfg [{config}]",
                config = in(reg) FULL_TILES.0.as_ptr(),
                options(nostack, readonly, preserves_flags),
            );
        }
        Configured(PhantomData)
    }
}

impl Drop for Configured {
    /// Tiles that are in use cost every change of context 8 KiB.
    fn drop(&mut self) {
        // SAFETY: the instruction exists, since `configure` ran on this thread.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) }
    }
}

/// Sums in tiles 0 to 3: from zero or from memory, then as often as there are steps what is between, then to memory. Leaves pointers
/// to operands that are so many bytes further on at each step.
macro_rules! sum_steps {
    ($sums:expr, $start:expr, $a:expr, $b:expr, $steps:expr, $bytes:literal, $($line:expr),+ $(,)?) => {
        asm!(
            "test {zero:e}, {zero:e}",
            "jz 3f",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "jmp 2f",
            "3:",
            "tileloadd tmm0, [{sums} + {row}*1]",
            "tileloadd tmm1, [{sums} + {row}*1 + 1024]",
            "tileloadd tmm2, [{sums} + {row}*1 + 2048]",
            "tileloadd tmm3, [{sums} + {row}*1 + 3072]",
            "2:",
            $($line,)+
            concat!("add {a0}, ", $bytes),
            concat!("add {a1}, ", $bytes),
            concat!("add {b0}, ", $bytes),
            concat!("add {b1}, ", $bytes),
            "dec {steps}",
            "jnz 2b",
            "tilestored [{sums} + {row}*1], tmm0",
            "tilestored [{sums} + {row}*1 + 1024], tmm1",
            "tilestored [{sums} + {row}*1 + 2048], tmm2",
            "tilestored [{sums} + {row}*1 + 3072], tmm3",
            a0 = inout(reg) $a[0].as_ptr() => _,
            a1 = inout(reg) $a[1].as_ptr() => _,
            b0 = inout(reg) $b[0].as_ptr() => _,
            b1 = inout(reg) $b[1].as_ptr() => _,
            steps = inout(reg) $steps => _,
            zero = in(reg) u32::from($start == Start::Zero),
            row = in(reg) 64usize,
            sums = in(reg) $sums,
            out("tmm0") _,
            out("tmm1") _,
            out("tmm2") _,
            out("tmm3") _,
            out("tmm4") _,
            out("tmm5") _,
            out("tmm6") _,
            out("tmm7") _,
            options(nostack),
        )
    };
}

/// An instruction on tiles, then eight prefetches of 64 bytes from `$offset` behind `$pointer` on: half a tile of the next step.
/// (What is fetched behind the last step is of no use and does no harm.)
///
/// On a core whose other half is at work, instructions on tiles that follow each other wait for it, also where all tiles are in the
/// L1 cache: with something between them a product takes 18 ns instead of 30 there, and on a core of its own 8 to 10 either way
/// (Xeon with a shared core; even instructions that do nothing help).
macro_rules! then_fetch {
    ($line:expr, $pointer:literal, $offset:expr) => {
        concat!(
            $line,
            then_fetch!(@ $pointer, $offset, "0"),
            then_fetch!(@ $pointer, $offset, "64"),
            then_fetch!(@ $pointer, $offset, "128"),
            then_fetch!(@ $pointer, $offset, "192"),
            then_fetch!(@ $pointer, $offset, "256"),
            then_fetch!(@ $pointer, $offset, "320"),
            then_fetch!(@ $pointer, $offset, "384"),
            then_fetch!(@ $pointer, $offset, "448"),
        )
    };
    (@ $pointer:literal, $offset:expr, $line:literal) => {
        concat!("\nprefetcht0 [{", $pointer, "} + ", $offset, " + ", $line, "]")
    };
}

/// Loads a tile of an operand, so many bytes from where this step's begin: of a into 4 and 5, of b into 6 and 7.
macro_rules! load {
    ($tile:literal, $pointer:literal, $offset:literal) => {
        concat!("tileloadd tmm", $tile, ", [{", $pointer, "} + {row}*1 + ", $offset, "]")
    };
}

/// The product of a tile of a and one of b, added to its sums.
macro_rules! product {
    (0) => {
        "tdpbf16ps tmm0, tmm4, tmm6"
    };
    (1) => {
        "tdpbf16ps tmm1, tmm4, tmm7"
    };
    (2) => {
        "tdpbf16ps tmm2, tmm5, tmm6"
    };
    (3) => {
        "tdpbf16ps tmm3, tmm5, tmm7"
    };
}

/// Four products: as many as loads, where a single tile of sums would take two loads a product. Beside them the tiles of two
/// pointers are fetched, so many bytes ahead.
macro_rules! products {
    ($first:literal, $second:literal, $offset:literal) => {
        concat!(
            then_fetch!(product!(0), $first, $offset),
            "\n",
            then_fetch!(product!(1), $first, concat!($offset, " + 512")),
            "\n",
            then_fetch!(product!(2), $second, $offset),
            "\n",
            then_fetch!(product!(3), $second, concat!($offset, " + 512")),
        )
    };
}

impl Tiles for Configured {
    fn multiply(&mut self, sums: &mut Sums, start: Start, a: [&[Tile]; 2], b: [&[Tile]; 2]) {
        let steps = common_length(a, b);
        // SAFETY: this thread's tiles are configured, all of them to 16 rows of 64 bytes. A load reads one `Tile`, of
        // which there are `steps` behind each pointer and `steps` turns of the loop; the four matrices of `sums`, 1024 bytes
        // apart, are read and written.
        unsafe {
            sum_steps!(
                sums,
                start,
                a,
                b,
                steps,
                1024,
                then_fetch!(load!(4, "a0", 0), "a0", 1024),
                then_fetch!(load!(6, "b0", 0), "a0", 1536),
                then_fetch!(product!(0), "b0", 1024),
                then_fetch!(load!(7, "b1", 0), "b0", 1536),
                then_fetch!(product!(1), "b1", 1024),
                then_fetch!(load!(5, "a1", 0), "b1", 1536),
                then_fetch!(product!(2), "a1", 1024),
                then_fetch!(product!(3), "a1", 1536),
            )
        }
    }

    /// A product loads the tiles of one operand and has those of the other from the product before it.
    fn multiply_split(&mut self, sums: &mut Sums, start: Start, a: [&[Tile]; 2], b: [&[Tile]; 2]) {
        let steps = common_steps(a, b);
        // SAFETY: as above, with two tiles behind each pointer at each step.
        unsafe {
            sum_steps!(
                sums,
                start,
                a,
                b,
                steps,
                2048,
                load!(4, "a0", 0),
                load!(5, "a1", 0),
                load!(6, "b0", 1024),
                load!(7, "b1", 1024),
                products!("a0", "a1", 2048),
                load!(4, "a0", 1024),
                load!(5, "a1", 1024),
                products!("a0", "a1", 3072),
                load!(6, "b0", 0),
                load!(7, "b1", 0),
                products!("b0", "b1", 2048),
                load!(4, "a0", 0),
                load!(5, "a1", 0),
                products!("b0", "b1", 3072),
            )
        }
    }
}
