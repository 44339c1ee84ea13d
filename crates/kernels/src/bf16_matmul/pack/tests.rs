use super::*;
use crate::testing::*;
use proptest::prelude::*;

/// Of any bits those of a number between 2^-63 and 2 with 16 significant ones.
fn of_sixteen(bits: u32) -> u32 {
    bits & 0xbfff_ff00 | 0x2000_0000
}

proptest! {
    #![proptest_config(cases(64))]

    /// Every bit, and what is said of them.
    #[test]
    fn the_packers_agree(
        [lines, steps] in [1..=LINES, 1..=3 * STEPS],
        (by_line, left, strange) in (any::<bool>(), any::<bool>(), any::<bool>()),
        bits in proptest::collection::vec(any::<u32>(), LINES * 3 * STEPS + 40),
        gap in 0..5usize,
    ) {
        if isa() < Isa::Avx512 {
            return Ok(());
        }
        let side = if left { Side::Left } else { Side::Right };
        for (parts, rounding) in
            [(Parts::One, Rounding::Done), (Parts::One, Rounding::ToBf16), (Parts::Two, Rounding::Done)]
        {
            let number = |bits: &u32| match (strange, parts) {
                // What is left of a number in two parts has 15 bits.
                (true, _) => bits & 0xffff_0000 | 0x4001,
                (false, Parts::One) if rounding == Rounding::ToBf16 => *bits,
                (false, Parts::One) => bits & 0xffff_0000,
                (false, Parts::Two) => of_sixteen(*bits),
            };
            let values: Vec<_> = bits.iter().map(|bits| f32::from_bits(number(bits))).collect();
            let strides = if by_line { [steps, 1] } else { [1, lines] };
            let view = Mat::new(&values, [lines, steps], strides).window([0, gap.min(steps - 1)], [lines, steps]);
            let mut tiles = [Tile([[7; 16]; 16]), Tile::ZERO].map(|tile| vec![tile; parts.tiles(view.cols)]);
            // SAFETY: the packers write tiles.
            let [found, expected] = tiles.each_mut().map(|tiles| unsafe { to_write(tiles) });
            let exact = pack(found, side, parts, rounding, view);
            let expected_exact = match parts {
                Parts::One => pack_one(expected, side, rounding, view),
                Parts::Two => pack_two(expected, side, view),
            };
            prop_assert_eq!(exact, expected_exact);
            // Of rounded values those are strange that are NaN with lower bits.
            prop_assert!(rounding == Rounding::ToBf16 || exact != strange);
            prop_assert!(!exact || tiles[0].iter().zip(&tiles[1]).all(|(a, b)| a.0 == b.0));
        }
    }

    /// Parts are bf16 numbers that come to what was split.
    #[test]
    fn two_parts_are_the_whole(bits in any::<u32>()) {
        let x = f32::from_bits(of_sixteen(bits));
        let parts = split(x);
        prop_assert!(parts.iter().all(|part| part.to_bits() & 0xffff == 0), "{parts:?}");
        prop_assert_eq!(f64::from(parts[0]) + f64::from(parts[1]), f64::from(x));
    }
}
