//! `ffnlab formats`: number formats, down to every code.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use numerics::{NumericFormat, Specials};
use serde::Serialize;

use crate::output::{plain_table, print, print_json};

/// Number formats: limits of all of them, or every code of one with its value
#[derive(Debug, Args)]
pub struct Formats {
    /// Format whose codes are listed, such as e4m3 [default: the limits of all formats]
    format: Option<NumericFormat>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// What a format can hold.
#[derive(Serialize)]
struct Limits {
    format: NumericFormat,
    bits: u32,
    mantissa_bits: Option<u32>,
    exponent_bits: Option<u32>,
    max_finite: f32,
    min_normal: f32,
    min_positive: f32,
    infinity: bool,
    nan: bool,
    negative_zero: bool,
}

/// One code. JSON has no NaN and no infinity, so values are given as text there too.
#[derive(Serialize)]
struct Code {
    code: u32,
    bits: String,
    value: String,
}

/// Formats of more bits have too many codes to list.
const MOST_BITS: u32 = 16;

impl Formats {
    pub fn run(&self) -> Result<ExitCode> {
        match self.format {
            None => self.all()?,
            Some(format) => self.one(format)?,
        }
        Ok(ExitCode::SUCCESS)
    }

    fn all(&self) -> Result<()> {
        let rows: Vec<Limits> = NumericFormat::ALL.into_iter().map(limits).collect();
        if self.json {
            return print_json(&rows);
        }
        let mut table = plain_table(&[
            "format",
            "bits",
            "exponent",
            "mantissa",
            "largest",
            "least normal",
            "least positive",
            "infinity",
            "NaN",
            "-0",
        ]);
        for row in &rows {
            let bits = |bits: Option<u32>| bits.map_or("–".to_owned(), |bits| bits.to_string());
            let yes = |yes: bool| if yes { "yes" } else { "–" }.to_owned();
            table.add_row([
                row.format.to_string(),
                row.bits.to_string(),
                bits(row.exponent_bits),
                bits(row.mantissa_bits),
                number(row.max_finite),
                number(row.min_normal),
                number(row.min_positive),
                yes(row.infinity),
                yes(row.nan),
                yes(row.negative_zero),
            ]);
        }
        print(&format!("{}\n\n`ffnlab formats NAME` lists every code of a format.", table.trim_fmt()))
    }

    fn one(&self, format: NumericFormat) -> Result<()> {
        let limits = limits(format);
        let listed = format.bits() <= MOST_BITS;
        let codes: Vec<Code> = if listed { codes(format).collect() } else { Vec::new() };
        if self.json {
            return print_json(&serde_json::json!({ "limits": limits, "codes": codes }));
        }
        let mut text = format!(
            "{format}: {} bits, largest {}, least normal {}, least positive {}\n",
            limits.bits,
            number(limits.max_finite),
            number(limits.min_normal),
            number(limits.min_positive)
        );
        if !listed {
            text += &format!("2^{} codes are too many to list", limits.bits);
        }
        let width = format.bits().div_ceil(4) as usize;
        for Code { code, bits, value } in &codes {
            text += &format!("0x{code:0width$x}  {bits}  {value}\n");
        }
        print(&text)
    }
}

fn limits(format: NumericFormat) -> Limits {
    let spec = format.spec();
    let is_float = format.has_negative_zero();
    Limits {
        format,
        bits: spec.bits,
        mantissa_bits: is_float.then_some(spec.mantissa_bits),
        exponent_bits: match (is_float, spec.specials) {
            (true, _) => Some(spec.bits - 1 - spec.mantissa_bits),
            (false, Specials::NanOnly | Specials::Ieee) => Some(spec.bits),
            (false, Specials::None) => None,
        },
        max_finite: format.max_finite(),
        min_normal: format.min_normal(),
        min_positive: format.min_positive(),
        infinity: format.has_infinity(),
        nan: format.has_nan(),
        negative_zero: is_float,
    }
}

fn codes(format: NumericFormat) -> impl Iterator<Item = Code> {
    let bits = format.bits() as usize;
    (0..1u32 << bits).map(move |code| Code {
        code,
        bits: format!("{code:0bits$b}"),
        value: number(format.decode(code)),
    })
}

/// A number so short that it reads back as the same one.
fn number(value: f32) -> String {
    let magnitude = value.abs();
    if value == 0.0 || !value.is_finite() || (1e-4..1e7).contains(&magnitude) {
        value.to_string()
    } else {
        format!("{value:e}")
    }
}
