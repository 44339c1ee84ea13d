#!/usr/bin/env python3
"""Golden codes of number formats and scaled quantisation, from independent implementations.

    python3 -m venv venv && venv/bin/pip install numpy ml_dtypes gfloat torch torchao
    venv/bin/python scripts/golden/formats.py > crates/numerics/tests/data/golden_formats.json

Which implementation gives what:

- codes to values, and rounding to nearest even with overflow: ml_dtypes (numpy for fp16);
- rounding toward zero, saturation, and tf32: gfloat;
- MX blocks of fp8, fp6 and fp4: torchao's `to_mx` in its FLOOR mode, which is MX v1.0, section 6.3; of int8: gfloat;
- NVFP4: torchao's `nvfp4_quantize`. It multiplies by a rounded reciprocal where we divide; no element of the inputs
  here lies so close to a midpoint that it matters, which the script checks with a plain division;
- absmean: the published lines of BitNet b1.58 in torch; absmedian: the same with torch's median;
- fp32 scales per tensor, row and block: amax / max in numpy, elements by ml_dtypes and numpy's rint.

Inputs come from a 32-bit integer hash that both sides compute. NaN codes are written as the format's first NaN.
"""
import json
import platform
import sys
import warnings
from importlib.metadata import version

import gfloat
import gfloat.formats as gf
import ml_dtypes
import numpy as np

warnings.filterwarnings("ignore")
import torch  # noqa: E402
import torchao  # noqa: E402
from torchao.prototype.mx_formats.kernels import unpack_uint4  # noqa: E402
from torchao.prototype.mx_formats.mx_tensor import ScaleCalculationMode, to_mx  # noqa: E402
from torchao.prototype.mx_formats.nvfp4_tensor import nvfp4_quantize  # noqa: E402

COUNT = 768  # hashed inputs per format

# name: (bits, mantissa bits, smallest and largest exponent, numpy type, gfloat's description)
TF32 = gfloat.FormatInfo(
    name="tf32", k=19, precision=11, bias=127, is_signed=True, has_nz=True, domain=gfloat.Domain.Extended,
    num_high_nans=2**10 - 1, has_subnormals=True, is_twos_complement=False,
)
FORMATS = {
    "tf32": (19, 10, -126, 127, None, TF32),
    "bf16": (16, 7, -126, 127, ml_dtypes.bfloat16, gf.format_info_bfloat16),
    "fp16": (16, 10, -14, 15, np.float16, gf.format_info_binary16),
    "e4m3": (8, 3, -6, 8, ml_dtypes.float8_e4m3fn, gf.format_info_ocp_e4m3),
    "e5m2": (8, 2, -14, 15, ml_dtypes.float8_e5m2, gf.format_info_ocp_e5m2),
    "e3m2": (6, 2, -2, 4, ml_dtypes.float6_e3m2fn, gf.format_info_ocp_e3m2),
    "e2m3": (6, 3, 0, 2, ml_dtypes.float6_e2m3fn, gf.format_info_ocp_e2m3),
    "e2m1": (4, 1, 0, 2, ml_dtypes.float4_e2m1fn, gf.format_info_ocp_e2m1),
    "e8m0": (8, 0, -127, 127, ml_dtypes.float8_e8m0fnu, gf.format_info_ocp_e8m0),
    "int4": (4, 3, 0, 2, ml_dtypes.int4, None),
}
MX = {
    "e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2, "e3m2": "fp6_e3m2", "e2m3": "fp6_e2m3",
    "e2m1": torch.float4_e2m1fn_x2,
}


def hash32(x):
    """The lowbias32 integer hash on a uint64 array holding 32-bit values."""
    m = np.uint64(0xFFFFFFFF)
    x = x & m
    x ^= x >> np.uint64(16)
    x = (x * np.uint64(0x7FEB352D)) & m
    x ^= x >> np.uint64(15)
    x = (x * np.uint64(0x846CA68B)) & m
    return x ^ (x >> np.uint64(16))


def inputs(name):
    """f32 of all exponents around the format's range, most of them on a quarter of a step so that ties are common."""
    _, mantissa, low, high, *_ = FORMATS[name]
    i = np.arange(COUNT, dtype=np.uint64)
    a, b, c = (hash32(3 * i + np.uint64(k)) for k in range(3))
    low, high = max(low - mantissa - 3, -149), min(high + 2, 127)
    exponent = low + (a >> np.uint64(8)).astype(np.int64) % (high - low + 1)
    kept = np.minimum(mantissa + (c % np.uint64(4)).astype(np.int64), 23)
    fraction = (b & np.uint64(0x7FFFFF)).astype(np.int64) >> (23 - kept) << (23 - kept)
    x = np.ldexp(1.0 + fraction / 2.0**23, exponent).astype(np.float32)  # subnormal f32 round, the same way in Rust
    if name == "e8m0":
        return x
    return np.where(a & np.uint64(1), -x, x).astype(np.float32)


def matrix(rows, cols, spread):
    """About normal, each row times a power of two below 2^spread, exactly."""
    i = np.arange(rows * cols, dtype=np.uint64)
    u = [hash32(4 * i + np.uint64(k)).astype(np.float64) / 2**32 for k in range(4)]
    x = ((u[0] + u[1]) + (u[2] + u[3]) - 2.0).reshape(rows, cols)
    power = (hash32(np.arange(rows, dtype=np.uint64) + np.uint64(1 << 20)) % np.uint64(spread)).astype(np.int64)
    return np.ldexp(x, power[:, None]).astype(np.float32)


def hexes(codes, bits):
    return "".join(f"{int(code):0{(bits + 3) // 4}x}" for code in np.asarray(codes).ravel())


def codes_of(values, name):
    """Codes of values that the format holds, by ml_dtypes, or from the bits of f32 for tf32."""
    bits, mantissa, _, _, dtype, _ = FORMATS[name]
    values = np.asarray(values, dtype=np.float32)
    if dtype is None:
        codes = values.view(np.uint32) >> (23 - mantissa)
        nan = (0xFF << mantissa) | (1 << (mantissa - 1))
    else:
        codes = values.astype(dtype).view(np.uint16 if bits == 16 else np.uint8).astype(np.uint32)
        nan = int(np.array([np.nan], dtype=np.float32).astype(dtype).view(codes_view(bits))[0])
        if name in ("bf16", "fp16", "e4m3", "e5m2"):
            nan &= (1 << (bits - 1)) - 1
    if np.isnan(values).any():
        codes = np.where(np.isnan(values), nan, codes)
    return codes & ((1 << bits) - 1)


def codes_view(bits):
    return np.uint16 if bits == 16 else np.uint8


def fnv1a(words):
    """64-bit FNV-1a over 32-bit words."""
    h = 0xCBF29CE484222325
    for word in words:
        h = ((h ^ int(word)) * 0x100000001B3) & (2**64 - 1)
    return f"{h:016x}"


def decoded(name):
    """Bits of the f32 values of all codes, one NaN for all."""
    bits, _, _, _, dtype, info = FORMATS[name]
    if dtype is None:
        values = np.array([gfloat.decode_float(info, code).fval for code in range(2**bits)], dtype=np.float32)
    else:
        values = np.arange(2**bits).astype(codes_view(bits)).view(dtype).astype(np.float32)
    return np.where(np.isnan(values), 0x7FC00000, values.view(np.uint32))


def gfloat_codes(name, x, mode, saturate):
    """Codes by gfloat; None where the format cannot overflow."""
    info = FORMATS[name][5]
    values = [gfloat.round_float(info, float(v), mode, saturate) for v in x]
    return codes_of(np.array(values, dtype=np.float32), name)


def format_goldens(name):
    bits, _, _, _, dtype, info = FORMATS[name]
    words = decoded(name)
    golden = {"decoded_fnv1a": fnv1a(words)}
    if bits <= 8:
        golden["decoded"] = hexes(words, 32)
    if info is None:
        return golden
    x = inputs(name)
    special = name in ("tf32", "bf16", "fp16", "e4m3", "e5m2", "e8m0")
    # e8m0: below half of the smallest number ml_dtypes and gfloat have ideas of their own.
    if name == "e8m0":
        x = x[x >= 2.0**-127]
    if dtype is None:
        golden["nearest_even"] = hexes(gfloat_codes(name, x, gfloat.RoundMode.TiesToEven, False), bits)
    else:
        with np.errstate(over="ignore"):
            golden["nearest_even"] = hexes(codes_of(x.astype(dtype).astype(np.float32), name), bits)
    if name != "e8m0":  # gfloat's ties of one-bit significands are not those of IEEE 754-2019
        golden["nearest_even_saturate"] = hexes(gfloat_codes(name, x, gfloat.RoundMode.TiesToEven, True), bits)
    golden["toward_zero"] = hexes(gfloat_codes(name, x, gfloat.RoundMode.TowardZero, not special), bits)
    return golden


def mx_goldens():
    x = matrix(12, 96, 24)
    x[5, 32:64] = 0.0
    goldens = {}
    for name, dtype in MX.items():
        scales, data = to_mx(torch.from_numpy(x), dtype, 32, ScaleCalculationMode.FLOOR)
        if name == "e2m1":
            data = unpack_uint4(data)
        codes = data.contiguous().view(torch.uint8).numpy()
        goldens[name] = {"scales": hexes(scales.view(torch.uint8).numpy(), 8), "codes": hexes(codes, 8)}
    info = gf.format_info_mxint8
    scales, codes = [], []
    for block in x.reshape(-1, 32).astype(np.float64):
        # The block's largest exponent; gfloat's own scale rule rounds. A block of zeros takes the smallest scale.
        amax = np.abs(block).max()
        scale = 2.0 ** np.floor(np.log2(amax)) if amax > 0 else 2.0**-127
        # The standard leaves -2 to the implementation; ours is symmetric.
        element = [max(gfloat.round_float(info.etype, v / scale, sat=True), -127 / 64) for v in block]
        scales.append(int(np.log2(scale)) + 127)
        codes += [gfloat.encode_float(info.etype, v) for v in element]
    goldens["int8"] = {"scales": hexes(scales, 8), "codes": hexes(codes, 8)}
    return goldens


def nvfp4_goldens():
    x = matrix(12, 96, 6)
    tensor_scale = np.float32(np.abs(x).max()) / np.float32(6 * 448)
    scales, data = nvfp4_quantize(torch.from_numpy(x), 16, torch.tensor(tensor_scale))
    codes = unpack_uint4(data).numpy()
    # Same with a plain division, and no block so small that torchao's clamp of the scale acts.
    block_scales = scales.float().numpy().reshape(12, 6, 1)
    assert block_scales.min() > 2.0**-6
    quotients = (x.reshape(12, 6, 16) / (block_scales * tensor_scale).astype(np.float32)).clip(-6, 6)
    divided = quotients.astype(ml_dtypes.float4_e2m1fn).view(np.uint8).reshape(12, 96)
    assert (divided == codes).all(), f"{(divided != codes).sum()} elements depend on the reciprocal"
    return {
        "tensor_scale": f"{np.array([tensor_scale]).view(np.uint32)[0]:08x}",
        "scales": hexes(scales.view(torch.uint8).numpy(), 8),
        "codes": hexes(codes, 4),
    }


def float_scale_goldens():
    """amax / max per tensor, row, column, run of 32 and 4 x 32 rectangle; e4m3 and int8."""
    x = matrix(12, 96, 8)
    goldens = {}
    for name, largest in (("e4m3", 448.0), ("int8", 127.0)):
        for scaling, tile in {
            "tensor": (12, 96), "row_columns": (1, 96), "row_rows": (12, 1), "block_columns": (1, 32),
            "block_rows": (4, 1), "block2d": (4, 32),
        }.items():
            tiles = x.reshape(12 // tile[0], tile[0], 96 // tile[1], tile[1])
            scales = np.abs(tiles).max(axis=(1, 3), keepdims=True) / np.float32(largest)
            quotients = (tiles / scales).reshape(12, 96)
            assert quotients.dtype == np.float32
            if name == "e4m3":
                codes = quotients.astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
            else:
                codes = np.rint(quotients).clip(-127, 127).astype(np.int8).view(np.uint8)
            goldens[f"{name}_{scaling}"] = {"scales": hexes(scales.view(np.uint32), 32), "codes": hexes(codes, 8)}
    return goldens


def ternary_goldens():
    w = torch.from_numpy(matrix(12, 96, 1) / np.float32(16))
    goldens = {}
    for name, average in (("absmean", w.abs().mean()), ("absmedian", w.abs().median())):
        scale = 1.0 / average.clamp(min=1e-5)
        u = (w * scale).round().clamp(-1, 1).to(torch.int8).numpy().view(np.uint8) & 3
        goldens[name] = {"scale": float(average), "codes": hexes(u, 2)}
    return goldens


def random_goldens():
    """Which of 96 indices round 0.5 up to 1: those whose 24 random bits are below half. Written from the definition."""
    def half_goes_up(key, index):
        m = 2**64 - 1
        z = (key + 0x9E3779B97F4A7C15) & m
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & m
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & m
        z ^= z >> 31
        m = 2**32 - 1
        h = ((index * 0x9E3779B1) & m) ^ (z & m)
        h = (((h ^ (h >> 16)) * 0x7FEB352D) & m) ^ (z >> 32)
        h = ((h ^ (h >> 15)) * 0x846CA68B) & m
        return (h ^ (h >> 16)) >> 8 < 2**23

    return {str(key): "".join(str(int(half_goes_up(key, i))) for i in range(96)) for key in (0, 1, 2**64 - 1)}


def main():
    json.dump(
        {
            "made_by": "scripts/golden/formats.py",
            "versions": {
                "python": platform.python_version(), "numpy": np.__version__, "ml_dtypes": ml_dtypes.__version__,
                "gfloat": version("gfloat"), "torch": torch.__version__, "torchao": torchao.__version__,
            },
            "count": COUNT,
            "formats": {name: format_goldens(name) for name in FORMATS},
            "mx": mx_goldens(),
            "nvfp4": nvfp4_goldens(),
            "float_scales": float_scale_goldens(),
            "ternary": ternary_goldens(),
            "random": random_goldens(),
        },
        sys.stdout,
        indent=1,
    )
    print()


if __name__ == "__main__":
    main()
