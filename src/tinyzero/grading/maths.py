r"""Whether two mathematical answers are equal: exactly if they are numbers, else by math-verify.

`same_value` decides what can be decided by reading: numbers with thousands, decimals, fractions,
mixed numbers, percent, units, LaTeX, and equal texts. It computes with fractions, runs nothing, and
takes a time that is proportional to the length of the answers. `equivalence.py` decides the rest.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from tinyzero.grading.answers import MAX_ANSWER

DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})++|[0-9]++)"
DECIMAL = rf"(?:{DIGITS}(?:\.[0-9]*+)?|\.[0-9]++)"
NUMBER = re.compile(rf"([-+]?)({DECIMAL})")
FRACTION = re.compile(rf"([-+]?)({DECIMAL})/([-+]?)({DECIMAL})")
MIXED = re.compile(rf"([-+]?)({DIGITS}) ({DIGITS})/({DIGITS})")
LATEX_FRACTION = re.compile(
    r"\\[dtc]?frac *(?:\{ *([^{}]{1,300}) *\}|([0-9])) *(?:\{ *([^{}]{1,300}) *\}|([0-9]))"
)
VARIABLE = re.compile(r"[A-Za-z] ?= ?(?=[^=])")
THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
TWO_NUMBERS = re.compile(r"[0-9] +[0-9]")
LETTERS = re.compile(r"[^\W\d_]{3,}")
UNIT = re.compile(
    r"(?P<number>.*[0-9.]) *(?P<before>square|cubic)? *(?P<unit>[A-Za-z]+(?:/[A-Za-z]+)?)"
    r"(?P<after>\^2|\^3|\^\{2\}|\^\{3\}|\u00b2|\u00b3)?\.?"
)
POWERS = {
    **dict.fromkeys(("square", "^2", "^{2}", "\u00b2"), " squared"),
    **dict.fromkeys(("cubic", "^3", "^{3}", "\u00b3"), " cubed"),
}
COMMAND = re.compile(r"\\[A-Za-z]+")
FUNCTIONS = {
    *("sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh"),
    *("tanh", "log", "exp", "sqrt", "min", "max", "gcd", "lcm", "mod", "abs"),
}
FORMULA_SIGNS = set("+-*/^_=<>()[]{}|,.;:!'\\%&~ ")
MARKUP = {
    "$": "",
    "\\(": "",
    "\\)": "",
    "\\[": "",
    "\\]": "",
    "\\left": "",
    "\\right": "",
    "\\!": "",
    "\\,": " ",
    "\\;": " ",
    "\\:": " ",
    "\\ ": " ",
    "~": " ",
    "{,}": ",",
    "\\%": "%",
    "\u2212": "-",
    "\u2013": "-",
    "\u00a0": " ",
    "\u202f": " ",
    "**": "",  # bold type, around a whole answer only
}
UNITS = {
    "dollar": "dollar usd dollars buck bucks",
    "cent": "cent cents",
    "euro": "euro euros eur",
    "pound of money": "gbp",
    "percent": "percent percentage",
    "degree": "degree degrees deg",
    "millimetre": "mm millimetre millimetres millimeter millimeters",
    "centimetre": "cm centimetre centimetres centimeter centimeters",
    "metre": "m metre metres meter meters",
    "kilometre": "km kilometre kilometres kilometer kilometers",
    "inch": "in inch inches",
    "foot": "ft foot feet",
    "yard": "yd yard yards",
    "mile": "mi mile miles",
    "gram": "g gram grams",
    "milligram": "mg milligram milligrams",
    "kilogram": "kg kilogram kilograms",
    "ounce": "oz ounce ounces",
    "pound": "lb lbs pound pounds",
    "tonne": "tonne tonnes ton tons",
    "litre": "l litre litres liter liters",
    "millilitre": "ml millilitre millilitres milliliter milliliters",
    "gallon": "gallon gallons",
    "second": "s sec secs second seconds",
    "minute": "min mins minute minutes",
    "hour": "h hr hrs hour hours",
    "day": "day days",
    "week": "week weeks",
    "month": "month months",
    "year": "year years",
    "unit": "unit units",
    "km/h": "km/h kmh kph",
    "mph": "mph",
    "m/s": "m/s",
}
UNIT_OF = {word: unit for unit, words in UNITS.items() for word in words.split()}
CURRENCIES = {"\\$": "dollar", "$": "dollar", "€": "euro", "£": "pound of money"}


class Quantity(NamedTuple):
    """An exact value, and its unit or "".

    Example: `Quantity(Fraction(1, 2), "metre")` is "0.5 m".
    """

    value: Fraction
    unit: str = ""


def quantity(text: str) -> Quantity | None:
    r"""The number that a text is, with its unit; None if it is anything else.

    >>> quantity(r"\frac{3}{4}"), quantity("2 1/2")
    (Quantity(value=Fraction(3, 4), unit=''), Quantity(value=Fraction(5, 2), unit=''))
    >>> quantity("1,200.50 dollars")
    Quantity(value=Fraction(2401, 2), unit='dollar')
    >>> quantity("72 or 73") is None
    True
    """
    if len(text) > MAX_ANSWER:
        return None

    rest, unit = _without_currency(text.strip())
    rest = VARIABLE.sub("", _unmarked(rest), count=1) if "=" in rest else _unmarked(rest)
    rest = _exactly_fractions(rest)
    if not unit:
        rest, unit = _without_unit(rest)
    value = _value(rest.removesuffix(".") if rest.count(".") == 1 else rest)
    return None if value is None else Quantity(value, unit)


def same_value(expected: str, answer: str) -> bool | None:
    r"""Whether two answers are equal, or None if that needs more than reading them.

    Numbers are compared exactly. A missing unit is as good as the right one, so 5 equals 5 cm, and
    50% equals both 50 and 0.5. An answer with words in it is compared as text. A list
    equals only lists of the same length. Other formulas that are written differently are not
    decided here.

    >>> same_value("0.5", r"\frac12"), same_value("72", "73"), same_value("5 cm", "5 m")
    (True, False, False)
    >>> same_value("x + 1", "1 + x") is None
    True
    """
    if not answer.strip() or len(answer) > MAX_ANSWER:
        return False

    wanted, given = quantity(expected), quantity(answer)
    if wanted is not None and given is not None:
        return _equal(wanted, given)
    if normal_text(expected) == normal_text(answer):
        return True
    if not _is_formula(expected) or not _is_formula(answer):
        return False
    return None if _parts(expected) == _parts(answer) else False


def normal_text(text: str) -> str:
    r"""A text for comparison: small letters, single spaces, without LaTeX's marks and a final dot.

    >>> normal_text(r"$\text{The  Cat}$.")
    'the cat'
    """
    unmarked = _unmarked(re.sub(r"\\(?:text|mathrm|textbf|mathbf) ?\{([^{}]*)\}", r"\1", text))
    return " ".join(unmarked.casefold().split()).removesuffix(".").strip()


def _equal(wanted: Quantity, given: Quantity) -> bool:
    """Whether two quantities are equal. Percent is a unit or a hundredth, as the other has it."""
    percents = [wanted.unit, given.unit].count("percent")
    if percents == 1:
        percent, other = (wanted, given) if wanted.unit == "percent" else (given, wanted)
        is_bare = not other.unit
        return is_bare and other.value in (percent.value, percent.value / 100)

    units_fit = wanted.unit == given.unit or "" in (wanted.unit, given.unit)
    return units_fit and wanted.value == given.value


def _unmarked(text: str) -> str:
    """The text without what LaTeX and Markdown put around or into a number."""
    text = text.strip()
    for marks, plain in MARKUP.items():
        if marks != "**" or (text.startswith("**") and text.endswith("**")):
            text = text.replace(marks, plain)
    return " ".join(text.split())


def _without_currency(text: str) -> tuple[str, str]:
    """The text without a sign of currency in front of the number, and the unit that it means."""
    is_formula = text.startswith("$") and text.endswith("$") and len(text) > 1
    text = text[1:-1].strip() if is_formula else text
    sign = "-" if text.startswith("-") else ""
    amount = text.removeprefix("-")
    for currency, unit in CURRENCIES.items():
        if amount.startswith(currency):
            return sign + amount.removeprefix(currency), unit
    return text, ""


def _without_unit(text: str) -> tuple[str, str]:
    """The text without a known unit at its end, and the unit."""
    text = re.sub(r"\\(?:text|mathrm|textbf|mathbf) ?\{([^{}]*)\}", r" \1", text)
    text = text.replace("^\\circ", "\u00b0").replace("^{\\circ}", "\u00b0").strip()
    for sign, unit in (("%", "percent"), ("\u00b0", "degree")):
        if text.endswith(sign):
            return text.removesuffix(sign).strip(), unit

    match = UNIT.fullmatch(text)
    if match is None or match["unit"].casefold() not in UNIT_OF:
        return text, ""
    power = POWERS.get(match["before"] or match["after"] or "", "")
    return match["number"], UNIT_OF[match["unit"].casefold()] + power


def _exactly_fractions(text: str) -> str:
    r"""The text with `\frac{a}{b}` as a/b; after a whole number, as the rest of a mixed number."""

    def written(match: re.Match[str]) -> str:
        top, bottom = match[1] or match[2], match[3] or match[4]
        follows_number = match.start() and text[match.start() - 1].isdigit()
        return f"{' ' if follows_number else ''}{top.strip()}/{bottom.strip()}"

    return " ".join(LATEX_FRACTION.sub(written, text).split())


def _value(text: str) -> Fraction | None:
    """The value of a number, a fraction or a mixed number; None for any other text."""
    if match := NUMBER.fullmatch(text):
        return _signed(match[1], _decimal(match[2]))

    if match := FRACTION.fullmatch(text):
        bottom = _signed(match[3], _decimal(match[4]))
        return _signed(match[1], _decimal(match[2])) / bottom if bottom else None

    if match := MIXED.fullmatch(text):
        bottom = _decimal(match[4])
        return (
            _signed(match[1], _decimal(match[2]) + _decimal(match[3]) / bottom) if bottom else None
        )
    return None


def _decimal(digits: str) -> Fraction:
    return Fraction(digits.replace(",", "").rstrip(".") or "0")


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value


def _is_formula(text: str) -> bool:
    """Whether a text is a formula, without words, and does not list numbers with spaces only."""
    text = _unmarked(text)
    words = LETTERS.findall(COMMAND.sub(" ", text))
    are_functions = all(word in FUNCTIONS for word in words)
    has_only_signs = all(
        character.isalnum() or character in FORMULA_SIGNS or ord(character) > 127
        for character in text
    )
    return bool(text) and are_functions and has_only_signs and not TWO_NUMBERS.search(text)


def _parts(text: str) -> int:
    """The number of parts of a list, which commas or semicolons outside of brackets separate."""
    text = THOUSANDS.sub("", _unmarked(text))
    depth, parts = 0, 1
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        parts += character in ",;" and depth <= 0
    return parts
