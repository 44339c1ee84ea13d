"""Writes activations.tsv: name, x, value and derivative of every activation, to 20 digits.

Run with Python 3 and mpmath: python3 make_activations.py > activations.tsv
Each function is written here from its published formula; derivatives are mpmath's numerical ones at
1000 digits, so neither column shares a line of reasoning with the Rust code. Kinks are left out.
"""

import platform

import mpmath as mp

mp.mp.dps = 1000  # so many because 1 + tanh cancels 857 of them at -30

LAMBDA = mp.mpf("1.0507009873554804934193349852946")
ALPHA = mp.mpf("1.6732632423543772848170429916717")


def sigmoid(x):
    return 1 / (1 + mp.exp(-x))


FUNCTIONS = {
    "identity": lambda x: x,
    "relu": lambda x: max(x, mp.mpf(0)),
    "leaky_relu": lambda x: max(x, x / 100),
    "relu6": lambda x: min(max(x, mp.mpf(0)), mp.mpf(6)),
    "elu": lambda x: x if x > 0 else mp.expm1(x),
    "selu": lambda x: LAMBDA * (x if x > 0 else ALPHA * mp.expm1(x)),
    "gelu_erf": lambda x: x * mp.ncdf(x),
    "gelu_tanh": lambda x: x / 2 * (1 + mp.tanh(mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3))),
    "silu": lambda x: x * sigmoid(x),
    "swish(beta=1.5)": lambda x: x * sigmoid(x * 3 / 2),
    "swish(beta=-0.5)": lambda x: x * sigmoid(-x / 2),
    "hardswish": lambda x: x * min(max(x + 3, mp.mpf(0)), mp.mpf(6)) / 6,
    "mish": lambda x: x * mp.tanh(mp.log1p(mp.exp(x))),
    "softplus": lambda x: mp.log1p(mp.exp(x)),
    "sigmoid": sigmoid,
    "tanh": mp.tanh,
    "relu_squared": lambda x: max(x, mp.mpf(0)) ** 2,
    "leaky_relu_squared": lambda x: max(x, x / 2) ** 2,
}

# Exact in binary, so that Rust reads the same points.
POINTS = [
    "-30", "-12.5", "-7", "-4", "-2.75", "-1.28125", "-1", "-0.5", "-0.125", "-0.0009765625",
    "0.0009765625", "0.125", "0.5", "1", "1.4140625", "2", "2.75", "3.5", "5", "7", "12.5", "30",
]

print(f"# make_activations.py, mpmath {mp.__version__}, Python {platform.python_version()}")
print("# name\tx\tvalue\tderivative")
for name, function in FUNCTIONS.items():
    for point in POINTS:
        x = mp.mpf(point)
        value, derivative = function(x), mp.diff(function, x)
        print(name, point, mp.nstr(value, 20), mp.nstr(derivative, 20), sep="\t")
