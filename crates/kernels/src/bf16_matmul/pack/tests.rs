use super::*;
use crate::testing::*;
use proptest::prelude::*;

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
        let mask = if strange { u32::MAX } else { 0xffff_0000 };
        let values: Vec<_> = bits.iter().map(|bits| f32::from_bits(bits & mask)).collect();
        let view = match by_line {
            true => Mat::new(&values, [lines, steps], [steps, 1]),
            false => Mat::new(&values, [lines, steps], [1, lines]),
        };
        let view = view.window([0, gap.min(steps - 1)], [lines, steps]);
        let side = if left { Side::Left } else { Side::Right };
        let mut tiles = [vec![Tile([[7; 16]; 16]); 3], vec![Tile::ZERO; 3]];
        let [found, expected] = tiles.each_mut().map(|tiles| &mut tiles[..view.cols.div_ceil(STEPS)]);
        let exact = pack(found, side, view);
        prop_assert_eq!(exact, pack_portably(expected, side, view));
        prop_assert_eq!(exact, !strange);
        prop_assert!(found.iter().zip(&*expected).all(|(a, b)| a.0 == b.0));
    }
}
