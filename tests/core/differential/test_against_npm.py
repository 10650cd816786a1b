"""Our bytes beside those of another author in another language: npm's `canonicalize` under node, whose numbers are ECMAScript's own.

The package is installed once for each lock into pytest's cache folder; the lock holds a hash and no address.
"""

import json
import math
import random
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
import rfc8785

from sigilcore import canonical, digest

HERE = Path(__file__).parent
INPUTS = ("package.json", "package-lock.json", ".npmrc", "canonicalize.cjs")
SEED = 8785

BIG_INTEGER = re.compile(rb"-?[0-9]{16,21}")
PIECES = (
    "",
    "a",
    "b",
    "A",
    "0",
    "10",
    "9",
    " ",
    "/",
    '"',
    "\\",
    "\x00",
    "\x1f",
    "\b\t\n\f\r",
    "\x7f",
    "\x80",
    "\xe9",
    "e\u0301",
    "\u2028",
)
BORDERS = (
    "\ud7ff",
    "\ue000",
    "\ufb33",
    "\ufffd",
    "\uffff",
    "\U00010000",
    "\U0001f600",
    "\U0010ffff",
    "__proto__",
    "toJSON",
    "length",
)


def program(name, package):
    path = shutil.which(name)
    if path is None:
        pytest.fail(
            f"{name} is missing: this test compares with a JavaScript package, install the Debian package `{package}`"
        )
    return path


@pytest.fixture(scope="module")
def ask(request):
    """A function that sends lines to one node process and returns its answers."""
    node, npm = program("node", "nodejs"), program("npm", "npm")
    lock = (HERE / "package-lock.json").read_bytes()
    folder = Path(request.config.cache.mkdir(f"npm-{digest.sha256_hex(lock)[:16]}"))
    for name in INPUTS:
        shutil.copyfile(HERE / name, folder / name)
    if not (folder / "node_modules" / "canonicalize" / "package.json").is_file():
        command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, f"npm could not install the package of the lock:\n{done.stderr}"
    assert (folder / "package-lock.json").read_bytes() == lock

    def send(questions):
        text = "".join(json.dumps(question) + "\n" for question in questions)
        command = [node, "canonicalize.cjs"]
        done = subprocess.run(command, cwd=folder, input=text.encode(), capture_output=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr.decode()
        answers = done.stdout.split(b"\n")[:-1]
        assert len(answers) == len(questions)
        return answers

    return send


def of_bits(bits):
    return struct.unpack(">d", bits.to_bytes(8, "big"))[0]


def neighbours(number):
    return math.nextafter(number, -math.inf), number, math.nextafter(number, math.inf)


def doubles():
    """Several thousand finite doubles: every power of two and of ten with its neighbours, the borders, and random bit patterns."""
    rng = random.Random(SEED)
    centres = [math.ldexp(1.0, power) for power in range(-1074, 1024)]
    centres += [float(f"1e{power}") for power in range(-323, 309)]
    centres += [0.0, float(2**53 - 1), float(2**53), 1e21, 1e-6, 1e-7, 123456789012345.6, 0.1, 1 / 3, 5e-324]
    found = [number for centre in centres for number in neighbours(centre)]
    found += [of_bits(rng.getrandbits(64)) for _ in range(6000)]
    found += [of_bits(rng.getrandbits(52)) for _ in range(500)]  # subnormal
    found += [rng.uniform(-1e6, 1e6) for _ in range(500)] + [float(rng.randint(-(2**53), 2**53)) for _ in range(500)]
    found += [round(rng.uniform(-1000, 1000), rng.randint(0, 6)) for _ in range(500)]
    found += [-number for number in found[:3000]]
    return [number for number in found if math.isfinite(number)]


def made_text(rng):
    return "".join(rng.choice(PIECES + BORDERS) for _ in range(rng.randint(0, 3)))


def made_value(rng, depth=0):
    kind = rng.randint(0, 9 if depth < 4 else 6)
    if kind == 0:
        return rng.choice((None, True, False))
    if kind == 1:
        return rng.choice((0, -1, 2**53 - 1, 1 - 2**53, rng.randint(-(10**6), 10**6)))
    if kind == 2:
        return rng.choice((-0.0, 1.0, 1.5, 1e21, 1e-7, rng.random(), rng.random() * 1e-8, rng.random() * 1e30 + 1e22))
    if kind <= 6:
        return made_text(rng)
    if kind == 7:
        return [made_value(rng, depth + 1) for _ in range(rng.randint(0, 4))]
    return {made_text(rng): made_value(rng, depth + 1) for _ in range(rng.randint(0, 6))}


def test_the_lock_holds_a_hash_and_no_address():
    """What is installed is named by its bytes, not by the place it came from."""
    lock = json.loads((HERE / "package-lock.json").read_text())
    packages = {name: held for name, held in lock["packages"].items() if name}
    assert list(packages) == ["node_modules/canonicalize"]
    assert packages["node_modules/canonicalize"]["integrity"].startswith("sha512-")
    assert not re.search(r"https?:|resolved", json.dumps(lock))


def test_numbers_are_spelled_as_ecmascript_spells_them(ask):
    """For each finite double: the reference road agrees with node; we write the same, or refuse exactly the big integers."""
    numbers = doubles()
    assert len(numbers) > 10_000
    answers = ask([("double", struct.pack(">d", number).hex()) for number in numbers])
    refused = 0
    for number, answer in zip(numbers, answers, strict=True):
        assert rfc8785.dumps(number) == answer, number.hex()
        if BIG_INTEGER.fullmatch(answer) and abs(int(answer)) > canonical.MAX_INT:
            refused += 1
            with pytest.raises(canonical.NotCanonical):
                canonical.encode(number)
        else:
            assert canonical.encode(number) == answer, number.hex()
            assert canonical.decode(answer) == number, number.hex()
    assert 0 < refused < len(numbers) // 10


def test_values_have_the_same_bytes(ask):
    """Nested values with the characters and keys on which canonicalizers differ."""
    rng = random.Random(SEED)
    values = [made_value(rng) for _ in range(1000)] + [
        {made_text(rng): made_value(rng) for _ in range(8)} for _ in range(2000)
    ]
    answers = ask([("json", json.dumps(value)) for value in values])
    fast = sum(not answer.translate(None, bytes(range(0xF0))) for answer in answers)
    assert 100 < fast < len(answers) - 100  # both roads were taken
    for value, answer in zip(values, answers, strict=True):
        assert canonical.encode(value) == answer
        assert canonical.decode(answer) == value


def test_order_of_keys_beyond_the_bmp(ask):
    """UTF-16 puts U+10000 before U+E000; UTF-8 and code points put it after."""
    value = {"\ue000": 1, "\U00010000": 2, "\uffff": 3, "\U0010ffff": 4, "\ud7ff": 5}
    (answer,) = ask([("json", json.dumps(value))])
    assert answer == canonical.encode(value)
    assert answer.decode() == '{"\ud7ff":5,"\U00010000":2,"\U0010ffff":4,"\ue000":1,"\uffff":3}'
