"""Units: where the value of an answer ends, what its unit is, and when two units agree.

Only units of measure and money are known: that the reference counts dogs and the answer animals decides
nothing.
Nothing is converted: a question that wants kilometres wants kilometres.
"""

import re

from scalerl.tasks.grading.wording import TEXT

_ALIASES = """
m: meter meters metre metres
cm: centimeter centimeters centimetre centimetres
mm: millimeter millimeters millimetre millimetres
km: kilometer kilometers kilometre kilometres kms
nm: nanometer nanometers nanometre nanometres
inch: in inches
foot: ft feet
yard: yd yards yds
mile: mi miles
g: gram grams
kg: kilogram kilograms kilo kilos
mg: milligram milligrams
pound: lb lbs pounds
ounce: oz ounces
ton: tons tonne tonnes
s: sec secs second seconds
minute: min mins minutes
hour: h hr hrs hours
day: days
week: weeks
month: months
year: yr yrs years
liter: l liters litre litres
ml: milliliter milliliters millilitre millilitres
gallon: gal gallons
dollar: dollars usd buck bucks
cent: cents
euro: euros
sterling: gbp
percent:
degree: degrees deg
radian: radians rad
arcsec: arcseconds
arcmin: arcminutes
celsius: c
fahrenheit: f
kelvin: k
hz: hertz
khz: kilohertz
mhz: megahertz
joule: j joules
kj: kilojoules
ev: electronvolts
watt: w watts
kw: kilowatts
newton: n newtons
volt: v volts
ohm: ohms
ampere: amp amps amperes
mole: mol moles
angstrom: angstroms
mph: miles/hour mi/h mi/hr
km/h: kph kmh kilometers/hour km/hour km/hr
m/s: meters/second m/sec
"""
UNITS = {
    name: line.partition(":")[0]
    for line in _ALIASES.strip().splitlines()
    for name in [line.partition(":")[0], *line.partition(":")[2].split()]
}
SCALES = {
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
}
_CURRENCIES = {"\\$": "dollar", "€": "euro", "\\euro": "euro", "£": "sterling", "\\pounds": "sterling"}
_CURRENCY = re.compile(r"^(-?)\s*(\\\$|€|£|\\euro|\\pounds)\s*(?=[-\d.\\])")
_DEGREES = re.compile(r"\^\s*\{?\s*\\circ\s*\}?\s*(?:(?:\\(?:text|mathrm)\s*\{)?\s*([CF])\s*\}?)?$")
_PRIMES = re.compile(r"\^\s*\{\s*((?:\\prime\s*)+)\}$|(?<=\d)('+)$")
_EXPONENT = r"(?:\s*\^\s*(?:\{\s*-?\d+\s*\}|-?\d))?"
_TAIL = re.compile(
    rf"(?P<unit>(?:\s*(?:/|\\cdot)?\s*{TEXT.pattern}{_EXPONENT})+"
    rf"|(?<=[\d)}}])\s+(?:[A-Za-z]{{2,}}[A-Za-z0-9 ./^{{}}\-]*|[mghsKJNWV]{_EXPONENT})"
    rf"|(?<=\d)(?:cm|mm|km|kg|mg|ft|lbs?|in|mph|mi|hours?){_EXPONENT})$"
)
_POWER = re.compile(r"\^\s*\{?\s*(-?\d+)\s*\}?")
_POWERS = {"square": "2", "sq": "2", "sq.": "2", "cubic": "3", "cu": "3", "cu.": "3"}


def split_unit(text: str) -> tuple[str, str]:
    """Return (value, unit) of a clean text; the unit as it is written, empty where there is none."""
    if money := _CURRENCY.match(text):
        value, unit = split_unit(money[1] + text[money.end() :])
        return value, _CURRENCIES[money[2]] + (f" {unit}" if unit else "")
    if degrees := _DEGREES.search(text):
        unit = {"C": "celsius", "F": "fahrenheit", None: "degree"}[degrees[1]]
        return text[: degrees.start()].strip(), unit
    if primes := _PRIMES.search(text):
        count = len((primes[1] or "").split()) or len(primes[2] or "")
        return text[: primes.start()].strip(), {1: "arcmin", 2: "arcsec"}.get(count, "primes")
    tail = _TAIL.search(text)
    if tail is None or not text[: tail.start()].strip():
        return text, ""
    return text[: tail.start()].strip(), _plain(tail["unit"])


def _plain(unit: str) -> str:
    return " ".join(TEXT.sub(lambda match: f" {match[1]} ", unit).split()).strip(" .,")


def split_scale(unit: str) -> tuple[int, str]:
    """Return (factor, rest) of a unit such as "million dollars"; (1, unit) where it has none."""
    words = unit.split()
    for word in words:
        if (name := word.strip(".,").lower()) in SCALES:
            return SCALES[name], " ".join(other for other in words if other != word)
    return 1, unit


def known_unit(unit: str) -> str | None:
    """Return the one name of a unit of measure, with its power; None if it is none that is known."""
    power = _POWER.search(unit)
    words = _POWER.sub(" ", unit).lower().replace(" per ", "/").replace("~", " ").split()
    exponent = power[1] if power else next((_POWERS[word] for word in words if word in _POWERS), "1")
    names = [UNITS.get(word.strip(".,")) for word in words if word not in _POWERS]
    if not names or names[0] is None:
        return None
    return f"{names[0]}^{exponent}"


def agree(first: str, second: str) -> bool:
    """Say whether two units are not known to differ."""
    names = known_unit(first), known_unit(second)
    if None in names or names[0] == names[1]:
        return True
    # 20 degrees may be of temperature.
    return "degree^1" in names and bool({"celsius^1", "fahrenheit^1"} & set(names))
