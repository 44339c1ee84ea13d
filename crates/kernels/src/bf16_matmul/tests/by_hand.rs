//! Products of tiles, worked out by hand.

use super::*;

/// 2^k.
fn power(k: i32) -> f32 {
    f32::exp2(k as f32)
}

/// Rows of a and columns of b, and what comes of them; worked out by hand from the order of TDPBF16PS.
fn golden() -> Vec<(Vec<f32>, Vec<f32>, f32)> {
    let one_at = |step: usize, value: f32| {
        let mut line = vec![0.0; step];
        line.push(value);
        line
    };
    let ones_behind = |value: f32, zeros: usize| [vec![value], vec![0.0; zeros], vec![1.0, 1.0]].concat();
    vec![
        (vec![1.0, 2.0, 3.0, 4.0], vec![10.0, 20.0, 30.0, 40.0], 300.0),
        // Even steps: 2^24 + 1, a tie that goes to 2^24. Odd ones: 1 - 2^24. One after another, they would give 2.
        (vec![4096.0, -4096.0, 1.0, 1.0], vec![4096.0, 4096.0, 1.0, 1.0], 1.0),
        // In the second tile 1 + 1 come together before they meet 2^24; alone each would be lost.
        (ones_behind(4096.0, 31), ones_behind(4096.0, 31), power(24) + 2.0),
        // 2^128 is not rounded before it is added to -2^127.
        (vec![-power(127), 0.0, power(100)], vec![1.0, 0.0, power(28)], power(127)),
        // A subnormal operand is zero, and so is a subnormal result.
        (vec![power(-127)], vec![power(100)], 0.0),
        (vec![power(-64)], vec![power(-63)], 0.0),
        (vec![power(-63)], vec![power(-63)], power(-126)),
        (vec![power(-127)], vec![f32::INFINITY], f32::NAN),
        (vec![f32::INFINITY], vec![-1.0], f32::NEG_INFINITY),
        (vec![f32::NAN], vec![0.0], f32::NAN),
        // The last step of the second tile.
        (one_at(63, 3.0), one_at(63, 5.0), 15.0),
    ]
}

/// The unit alone, on tiles packed by hand: case i is row i times column i, in each block of sums.
fn check_golden(unit: impl TileUnit) {
    let cases = golden();
    let (mut left, mut right) = ([Tile::ZERO; 2], [Tile::ZERO; 2]);
    for (case, (a, b, _)) in cases.iter().enumerate() {
        for (step, (a, b)) in a.iter().zip(b).enumerate() {
            let (tile, pair) = (step / 32, step % 32 / 2);
            let half = |x: &f32| x.to_bits() >> 16 << (16 * (step % 2));
            left[tile].0[case][pair] |= half(a);
            right[tile].0[pair][case] |= half(b);
        }
    }
    let mut sums = Sums([[[[-1.0; 16]; 16]; 2]; 2]);
    let mut tiles = unit.configure();
    // Twice: nothing is left of the first time.
    for _ in 0..2 {
        tiles.multiply(&mut sums, Start::Zero, [&left, &[Tile::ZERO; 2]], [&[Tile::ZERO; 2], &right]);
    }
    let [[_, top], bottom] = &sums.0;
    for (case, (_, _, expected)) in cases.iter().enumerate() {
        assert_eq!(bits_but_nan(&[top[case][case]]), bits_but_nan(&[*expected]), "case {case}");
    }
    // A row of zeros times columns of which some hold infinity or NaN.
    assert!(bottom[0].as_flattened().iter().all(|sum| *sum == 0.0));
    assert!(bottom[1].as_flattened().iter().all(|sum| *sum == 0.0 || sum.is_nan()));
}

#[test]
fn one_product_of_tiles_by_hand() {
    check_golden(Plain);
    check_golden(unit());
}

/// Each block of sums is of its own two operands: 1 and 2 times 3 and 5, 32 steps a tile; from zero, or from what is there.
#[test]
fn blocks_do_not_mix() {
    let constant = |value: f32| [Tile([[value.to_bits() | value.to_bits() >> 16; 16]; 16]); 3];
    let (a, b) = ([1.0, 2.0].map(constant), [3.0, 5.0].map(constant));
    let mut sums = Sums::ZERO;
    for (turn, start) in [(1.0, Start::Zero), (2.0, Start::Sums), (3.0, Start::Sums), (1.0, Start::Zero)] {
        unit().configure().multiply(&mut sums, start, [&a[0], &a[1]], [&b[0], &b[1]]);
        for (i, j, each) in [(0, 0, 3.0), (0, 1, 5.0), (1, 0, 6.0), (1, 1, 10.0)] {
            let all = sums.0[i][j].as_flattened();
            assert!(all.iter().all(|sum| *sum == turn * 96.0 * each), "block {i}, {j}, time {turn}");
        }
    }
}

/// The same in two parts, of which each is multiplied with both of the other operand: two steps of tiles.
#[test]
fn blocks_and_parts_do_not_mix() {
    let constant = |value: f32| Tile([[value.to_bits() | value.to_bits() >> 16; 16]; 16]);
    let in_parts = |[high, low]: [f32; 2]| [high, low, high, low].map(constant);
    let (a, b) = ([[1.0, 0.5], [2.0, 0.25]].map(in_parts), [[3.0, 0.5], [5.0, 0.25]].map(in_parts));
    let (a, b) = ([&a[0][..], &a[1]], [&b[0][..], &b[1]]);
    let mut sums = Sums::ZERO;
    for (turn, start) in [(1.0, Start::Zero), (2.0, Start::Sums), (1.0, Start::Zero)] {
        unit().configure().multiply_split(&mut sums, start, a, b);
        for (i, j, each) in [(0, 0, 1.5 * 3.5), (0, 1, 1.5 * 5.25), (1, 0, 2.25 * 3.5), (1, 1, 2.25 * 5.25)] {
            let all = sums.0[i][j].as_flattened();
            assert!(all.iter().all(|sum| *sum == turn * 64.0 * each), "block {i}, {j}, time {turn}");
        }
    }
}

#[test]
#[should_panic(expected = "is_multiple_of(2)")]
fn two_parts_come_in_pairs_of_tiles() {
    let (tiles, mut sums) = (&[Tile::ZERO; 3][..], Sums::ZERO);
    unit().configure().multiply_split(&mut sums, Start::Zero, [tiles; 2], [tiles; 2]);
}

#[test]
#[should_panic(expected = "length > 0")]
fn units_refuse_operands_without_tiles() {
    common_length([&[], &[]], [&[], &[]]);
}
