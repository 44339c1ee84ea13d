//! The instructions of AMX that `amx.rs` uses, from their bytes (Intel SDM, volume 2, "VEX prefix" and the pages of the
//! instructions).

/// What to do, with addresses worked out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Instruction {
    /// LDTILECFG
    LoadConfig { from: usize },
    /// TILERELEASE
    Release,
    /// TILEZERO
    Zero { tile: usize },
    /// TILELOADD
    Load { tile: usize, from: usize, stride: usize },
    /// TILESTORED
    Store { tile: usize, to: usize, stride: usize },
    /// TDPBF16PS: sums ← sums + a b
    MultiplyAdd { sums: usize, a: usize, b: usize },
}

/// The bytes of an instruction, read one by one: behind the last there may be none.
struct Bytes {
    at: *const u8,
    read: usize,
}

impl Bytes {
    /// # Safety
    /// The instruction has another byte.
    unsafe fn next(&mut self) -> u8 {
        // SAFETY: by the contract.
        let byte = unsafe { *self.at.add(self.read) };
        self.read += 1;
        byte
    }
}

/// The extensions of register numbers by a fourth bit: of ModRM.reg, of the index, of the base.
struct Extensions {
    reg: usize,
    index: usize,
    base: usize,
}

/// Memory operands, as far as they are told apart here.
struct Address {
    /// Base and displacement.
    start: usize,
    /// Index times scale, 0 without one.
    index: usize,
    /// There is a SIB byte.
    sib: bool,
}

/// The instruction at `at` and its length, if it is one of ours. `general` are the general registers by number.
///
/// # Safety
/// At `at` there is a whole instruction.
pub(super) unsafe fn decode(at: *const u8, general: &[usize; 16]) -> Option<(Instruction, usize)> {
    let mut bytes = Bytes { at, read: 0 };
    // SAFETY: each byte is read only after those before it have shown that the instruction goes on.
    let (opcode, prefix, v, extensions, modrm) = unsafe {
        if bytes.next() != 0xc4 {
            return None; // no VEX prefix of three bytes
        }
        let (first, second) = (bytes.next(), bytes.next());
        let extension = |bit: u8| usize::from(!first >> bit & 1) << 3;
        let extensions = Extensions { reg: extension(7), index: extension(6), base: extension(5) };
        let (map, w, l) = (first & 0x1f, second >> 7, second >> 2 & 1);
        if (map, w, l) != (2, 0, 0) {
            return None; // not VEX.128.0F38.W0
        }
        let v = usize::from(!second >> 3 & 15);
        let opcode = bytes.next();
        if !matches!(opcode, 0x49 | 0x4b | 0x5c) {
            return None;
        }
        (opcode, second & 3, v, extensions, bytes.next())
    };
    let tile = usize::from(modrm >> 3 & 7) | extensions.reg;
    let rm = usize::from(modrm & 7);
    let in_memory = modrm >> 6 != 3;
    // SAFETY: ModRM says that a memory operand follows, and which bytes it has.
    let mut operand = || unsafe { address(&mut bytes, modrm, &extensions, general) };
    // The prefix is one of none, 66, F3, F2.
    let instruction = match (opcode, prefix, in_memory) {
        (0x49, 0, true) if tile == 0 && v == 0 => {
            let Address { start, index, .. } = operand();
            Instruction::LoadConfig { from: start.wrapping_add(index) }
        }
        (0x49, 0, false) if modrm == 0xc0 && v == 0 => Instruction::Release,
        (0x49, 3, false) if rm == 0 && v == 0 => Instruction::Zero { tile },
        (0x4b, 2 | 3, true) if v == 0 => {
            let Address { start, index, sib } = operand();
            if !sib {
                return None;
            }
            if prefix == 3 {
                Instruction::Load { tile, from: start, stride: index }
            } else {
                Instruction::Store { tile, to: start, stride: index }
            }
        }
        (0x5c, 2, false) => Instruction::MultiplyAdd { sums: tile, a: rm | extensions.base, b: v },
        _ => return None,
    };
    Some((instruction, bytes.read))
}

/// The memory operand behind ModRM (SDM, volume 2, tables 2-2 and 2-3).
///
/// # Safety
/// The instruction has one.
unsafe fn address(bytes: &mut Bytes, modrm: u8, extensions: &Extensions, general: &[usize; 16]) -> Address {
    let (mode, rm) = (modrm >> 6, usize::from(modrm & 7));
    let sib = rm == 4;
    // SAFETY: which bytes there are is told by those before them.
    unsafe {
        let (mut base, mut index) = (rm, 0);
        if sib {
            let byte = bytes.next();
            let number = usize::from(byte >> 3 & 7) | extensions.index;
            index = if number == 4 { 0 } else { general[number] << (byte >> 6) }; // 4, the stack pointer, means none
            base = usize::from(byte & 7);
        }
        let base_is_register = base != 5 || mode != 0;
        let displacement = match mode {
            1 => isize::from(bytes.next() as i8),
            0 if base_is_register => 0,
            _ => i32::from_le_bytes([bytes.next(), bytes.next(), bytes.next(), bytes.next()]) as isize,
        };
        let base = match (base_is_register, sib) {
            (true, _) => general[base | extensions.base],
            (false, true) => 0,
            // Relative to the next instruction, and a displacement is the last part of all of ours.
            (false, false) => bytes.at as usize + bytes.read,
        };
        Address { start: base.wrapping_add_signed(displacement), index, sib }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Register `n` holds 1000 n.
    fn decoded(bytes: &[u8]) -> Option<Instruction> {
        let general: [usize; 16] = std::array::from_fn(|n| 1000 * n);
        // SAFETY: the tests give whole instructions.
        let (instruction, length) = unsafe { decode(bytes.as_ptr(), &general) }?;
        assert_eq!(length, bytes.len());
        Some(instruction)
    }

    /// Bytes as GNU as writes them for what stands beside them.
    #[test]
    fn instructions_are_those_of_another_assembler() {
        use Instruction::*;
        for (bytes, expected) in [
            // ldtilecfg [rdi]; [r13+r14*4-8]; [rsp+16]
            (&[0xc4, 0xe2, 0x78, 0x49, 0x07][..], LoadConfig { from: 7000 }),
            (&[0xc4, 0x82, 0x78, 0x49, 0x44, 0xb5, 0xf8], LoadConfig { from: 13000 + 4 * 14000 - 8 }),
            (&[0xc4, 0xe2, 0x78, 0x49, 0x44, 0x24, 0x10], LoadConfig { from: 4016 }),
            // tilerelease; tilezero tmm5
            (&[0xc4, 0xe2, 0x78, 0x49, 0xc0], Release),
            (&[0xc4, 0xe2, 0x7b, 0x49, 0xe8], Zero { tile: 5 }),
            // tileloadd tmm3, [rax+rcx*1]; tmm7, [r9+r10*2+0x400]; tmm1, [rbp+rdx*8+0]; tmm2, [rbx]
            (&[0xc4, 0xe2, 0x7b, 0x4b, 0x1c, 0x08], Load { tile: 3, from: 0, stride: 1000 }),
            (
                &[0xc4, 0x82, 0x7b, 0x4b, 0xbc, 0x51, 0x00, 0x04, 0x00, 0x00],
                Load { tile: 7, from: 10024, stride: 20000 },
            ),
            (&[0xc4, 0xe2, 0x7b, 0x4b, 0x4c, 0xd5, 0x00], Load { tile: 1, from: 5000, stride: 16000 }),
            (&[0xc4, 0xe2, 0x7b, 0x4b, 0x14, 0x23], Load { tile: 2, from: 3000, stride: 0 }),
            // tileloadd tmm0, [rsi*1+0x40]; tilestored [r8+r12*1-64], tmm6
            (
                &[0xc4, 0xe2, 0x7b, 0x4b, 0x04, 0x35, 0x40, 0x00, 0x00, 0x00],
                Load { tile: 0, from: 64, stride: 6000 },
            ),
            (&[0xc4, 0x82, 0x7a, 0x4b, 0x74, 0x20, 0xc0], Store { tile: 6, to: 7936, stride: 12000 }),
            // tdpbf16ps tmm0, tmm4, tmm6; tmm3, tmm2, tmm1
            (&[0xc4, 0xe2, 0x4a, 0x5c, 0xc4], MultiplyAdd { sums: 0, a: 4, b: 6 }),
            (&[0xc4, 0xe2, 0x72, 0x5c, 0xda], MultiplyAdd { sums: 3, a: 2, b: 1 }),
        ] {
            assert_eq!(decoded(bytes), Some(expected), "{bytes:x?}");
        }
    }

    #[test]
    fn an_address_may_be_relative_to_the_next_instruction() {
        let bytes = [0xc4, 0xe2, 0x78, 0x49, 0x05, 0x10, 0x00, 0x00, 0x00]; // ldtilecfg [rip+16]
        let next = bytes.as_ptr() as usize + bytes.len();
        assert_eq!(decoded(&bytes), Some(Instruction::LoadConfig { from: next + 16 }));
    }

    #[test]
    fn other_instructions_are_left_alone() {
        for bytes in [
            &[0x0f, 0x0b][..],                     // ud2
            &[0xc4, 0xe2, 0x79, 0x49, 0x07],       // sttilecfg [rdi]
            &[0xc4, 0xe2, 0x79, 0x4b, 0x1c, 0x08], // tileloaddt1 tmm3, [rax+rcx*1]
            &[0xc4, 0xe2, 0x72, 0x5e, 0xda],       // tdpbsud tmm3, tmm2, tmm1
            &[0xc4, 0xe2, 0x7b, 0x4b, 0x18],       // tileloadd without SIB byte
            &[0xc4, 0xe2, 0xfb, 0x49, 0xe8],       // tilezero with W set
            &[0xc5, 0xf8, 0x77],                   // vzeroupper
        ] {
            assert_eq!(decoded(bytes), None, "{bytes:x?}");
        }
    }
}
