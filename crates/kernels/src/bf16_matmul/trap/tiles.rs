//! What the instructions do, step by step as in Intel's manual (SDM, volume 2, the pages of the instructions; palette 1),
//! and independently of the unit in plain Rust with which it is compared.

use super::decode::Instruction;
use std::ptr;

/// Bytes of a row of a tile, its rows, and the number of tiles (palette 1).
const ROW_BYTES: usize = 64;
const ROWS: usize = 16;
const TILES: usize = 8;

/// The state of a thread: TILECFG and TILEDATA.
pub(super) struct TileState {
    configured: bool,
    row_bytes: [usize; TILES],
    rows: [usize; TILES],
    data: [[[u8; ROW_BYTES]; ROWS]; TILES],
}

impl TileState {
    /// As a thread begins, and after TILERELEASE.
    pub(super) const INITIAL: Self = Self {
        configured: false,
        row_bytes: [0; TILES],
        rows: [0; TILES],
        data: [[[0; ROW_BYTES]; ROWS]; TILES],
    };

    /// Executes one instruction, or says which fault hardware would raise.
    ///
    /// # Safety
    /// The memory that the instruction reads or writes may be read or written.
    pub(super) unsafe fn execute(&mut self, instruction: Instruction) -> Result<(), &'static str> {
        match instruction {
            Instruction::LoadConfig { from } => {
                // SAFETY: by the contract. The address need not be aligned.
                self.configure(unsafe { ptr::read_unaligned(from as *const [u8; 64]) })?;
            }
            Instruction::Release => *self = Self::INITIAL,
            Instruction::Zero { tile } => {
                self.check(tile)?;
                self.data[tile] = [[0; ROW_BYTES]; ROWS];
            }
            Instruction::Load { tile, from, stride } => {
                self.check(tile)?;
                let (rows, row_bytes) = (self.rows[tile], self.row_bytes[tile]);
                let mut data = [[0; ROW_BYTES]; ROWS]; // what is not loaded becomes zero
                for (row, data) in data[..rows].iter_mut().enumerate() {
                    let from = from.wrapping_add(row.wrapping_mul(stride)) as *const u8;
                    // SAFETY: by the contract.
                    unsafe { ptr::copy_nonoverlapping(from, data.as_mut_ptr(), row_bytes) };
                }
                self.data[tile] = data;
            }
            Instruction::Store { tile, to, stride } => {
                self.check(tile)?;
                for (row, data) in self.data[tile][..self.rows[tile]].iter().enumerate() {
                    let to = to.wrapping_add(row.wrapping_mul(stride)) as *mut u8;
                    // SAFETY: by the contract.
                    unsafe { ptr::copy_nonoverlapping(data.as_ptr(), to, self.row_bytes[tile]) };
                }
            }
            Instruction::MultiplyAdd { sums, a, b } => self.multiply_add(sums, a, b)?,
        }
        Ok(())
    }

    fn configure(&mut self, bytes: [u8; 64]) -> Result<(), &'static str> {
        let mut new = Self::INITIAL;
        match bytes[0] {
            0 => {
                *self = new;
                return Ok(());
            }
            1 => {}
            _ => return Err("#GP, LDTILECFG: a palette that does not exist"),
        }
        if bytes[1] != 0 {
            return Err("LDTILECFG: going on in the middle of a tile is not emulated");
        }
        if bytes[2..16].iter().chain(&bytes[32..48]).chain(&bytes[56..]).any(|byte| *byte != 0) {
            return Err("#GP, LDTILECFG: reserved bytes are set");
        }
        for tile in 0..TILES {
            let row_bytes = u16::from_le_bytes([bytes[16 + 2 * tile], bytes[17 + 2 * tile]]);
            (new.row_bytes[tile], new.rows[tile]) = (usize::from(row_bytes), usize::from(bytes[48 + tile]));
            if new.row_bytes[tile] > ROW_BYTES || new.rows[tile] > ROWS {
                return Err("#GP, LDTILECFG: a tile is too large");
            }
            if (new.row_bytes[tile] == 0) != (new.rows[tile] == 0) {
                return Err("#GP, LDTILECFG: a tile has rows or columns, but not both");
            }
        }
        new.configured = true;
        *self = new;
        Ok(())
    }

    /// That the tile may be named in an instruction.
    fn check(&self, tile: usize) -> Result<(), &'static str> {
        if !self.configured {
            return Err("#UD: no tiles are configured");
        }
        if self.rows.get(tile).is_none_or(|rows| *rows == 0) {
            return Err("#UD: a tile that is not configured");
        }
        Ok(())
    }

    fn multiply_add(&mut self, sums: usize, a: usize, b: usize) -> Result<(), &'static str> {
        for tile in [sums, a, b] {
            self.check(tile)?;
            if !self.row_bytes[tile].is_multiple_of(4) {
                return Err("#UD, TDPBF16PS: a row that is not made of pairs");
            }
        }
        if sums == a || a == b || sums == b {
            return Err("#UD, TDPBF16PS: a tile is named twice");
        }
        let shapes_fit = self.rows[sums] == self.rows[a]
            && self.row_bytes[a] / 4 == self.rows[b]
            && self.row_bytes[sums] == self.row_bytes[b];
        if !shapes_fit {
            return Err("#UD, TDPBF16PS: shapes do not fit");
        }
        let columns = self.row_bytes[sums] / 4;
        for m in 0..self.rows[sums] {
            let mut temporary = [0u32; 2 * ROW_BYTES / 4];
            for k in 0..self.row_bytes[a] / 4 {
                for (n, sum) in temporary[..2 * columns].iter_mut().enumerate() {
                    let left = self.bf16(a, m, 2 * k + n % 2);
                    *sum = multiply_add(left, self.bf16(b, k, n), *sum);
                }
            }
            for n in 0..columns {
                let sum = add(temporary[2 * n], temporary[2 * n + 1]);
                let bytes = &mut self.data[sums][m][4 * n..][..4];
                let old = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                bytes.copy_from_slice(&add(old, sum).to_le_bytes());
            }
            self.data[sums][m][4 * columns..].fill(0);
        }
        let rows = self.rows[sums];
        self.data[sums][rows..].fill([0; ROW_BYTES]);
        Ok(())
    }

    /// An element of a row of bf16, as the bits of an f32.
    fn bf16(&self, tile: usize, row: usize, column: usize) -> u32 {
        let bytes = &self.data[tile][row][2 * column..];
        u32::from_le_bytes([0, 0, bytes[0], bytes[1]])
    }
}

/// a b + c with one rounding to nearest even, subnormal numbers being zero before and after (DAZ = FTZ = 1).
fn multiply_add(a: u32, b: u32, c: u32) -> u32 {
    let [a, b, c] = [a, b, c].map(|bits| f32::from_bits(without_subnormal(bits)));
    without_subnormal(a.mul_add(b, c).to_bits())
}

/// a + b, likewise.
fn add(a: u32, b: u32) -> u32 {
    multiply_add(a, 1f32.to_bits(), b)
}

fn without_subnormal(bits: u32) -> u32 {
    let exponent_is_zero = bits & 0x7f80_0000 == 0;
    if exponent_is_zero { bits & 0x8000_0000 } else { bits }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A configuration with these tiles, \[rows, bytes of a row\].
    fn config(tiles: [[u8; 2]; 3]) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[0] = 1;
        for (tile, [rows, row_bytes]) in tiles.into_iter().enumerate() {
            (bytes[48 + tile], bytes[16 + 2 * tile]) = (rows, row_bytes);
        }
        bytes
    }

    fn configured(tiles: [[u8; 2]; 3]) -> TileState {
        let mut state = TileState::INITIAL;
        state.configure(config(tiles)).unwrap();
        state
    }

    #[test]
    fn what_hardware_refuses_is_refused() {
        let fits = [[2, 12], [2, 8], [2, 12]];
        let with = |byte: usize, value: u8| {
            let (mut state, mut bytes) = (TileState::INITIAL, config(fits));
            bytes[byte] = value;
            state.configure(bytes)
        };
        assert!(with(0, 1).is_ok());
        for (byte, value) in
            [(0, 2), (1, 1), (2, 1), (15, 1), (32, 1), (56, 1), (48, 17), (16, 65), (17, 1), (51, 1)]
        {
            assert!(with(byte, value).is_err(), "byte {byte} = {value}");
        }
        let mut state = configured(fits);
        assert!(state.multiply_add(0, 1, 2).is_ok());
        for [sums, a, b] in [[0, 0, 2], [0, 1, 1], [0, 1, 0], [0, 2, 1], [0, 1, 3], [8, 1, 2]] {
            assert!(state.multiply_add(sums, a, b).is_err(), "{sums} {a} {b}");
        }
        assert!(configured([[2, 12], [3, 8], [2, 12]]).multiply_add(0, 1, 2).is_err());
        assert!(configured([[2, 12], [2, 12], [2, 12]]).multiply_add(0, 1, 2).is_err());
        assert!(configured([[2, 10], [2, 8], [2, 10]]).multiply_add(0, 1, 2).is_err());
        // SAFETY: neither instruction touches memory.
        unsafe {
            state.execute(Instruction::Release).unwrap();
            assert!(state.execute(Instruction::Zero { tile: 0 }).is_err());
        }
    }

    /// Rows lie `stride` apart in memory; what lies between is neither read nor written.
    #[test]
    fn loads_and_stores_keep_to_their_rows() {
        let mut state = configured([[2, 12], [0, 0], [0, 0]]);
        let memory: [u8; 64] = std::array::from_fn(|i| i as u8);
        let mut stored = [0xff; 64];
        // SAFETY: two rows of 12 bytes, 20 apart, lie within 64 bytes.
        unsafe {
            state.execute(Instruction::Load { tile: 0, from: memory.as_ptr() as usize, stride: 20 }).unwrap();
            state
                .execute(Instruction::Store { tile: 0, to: stored.as_mut_ptr() as usize, stride: 20 })
                .unwrap();
        }
        for (i, byte) in stored.into_iter().enumerate() {
            let inside = i < 12 || (20..32).contains(&i);
            assert_eq!(byte, if inside { i as u8 } else { 0xff });
        }
    }

    /// \[1 2 3 4\] times columns of pairs, worked out by hand, with a tile of less than full size.
    #[test]
    fn pairs_of_rows_meet_pairs_of_columns() {
        let mut state = configured([[1, 8], [1, 8], [2, 8]]);
        let bf16 = |values: &[f32]| -> Vec<u8> {
            values.iter().flat_map(|x| [2, 3].map(|byte| x.to_le_bytes()[byte])).collect()
        };
        state.data[1][0][..8].copy_from_slice(&bf16(&[1., 2., 3., 4.]));
        // Steps 0 and 1 of both columns, then steps 2 and 3.
        state.data[2][0][..8].copy_from_slice(&bf16(&[1., 10., 2., 20.]));
        state.data[2][1][..8].copy_from_slice(&bf16(&[100., 1000., 200., 2000.]));
        for times in [1.0, 2.0] {
            state.multiply_add(0, 1, 2).unwrap();
            let sums = [1.0 + 20.0 + 300.0 + 4000.0, 2.0 + 40.0 + 600.0 + 8000.0];
            let expected: Vec<u8> =
                sums.into_iter().flat_map(|sum: f32| (times * sum).to_le_bytes()).collect();
            assert_eq!(state.data[0][0][..8], expected);
        }
    }
}
