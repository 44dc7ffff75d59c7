"""How well and how fast ``redact_pii`` finds entities: ``python -m benchmarks.redact_pii``.

Every text is made up here, from a seed: an entity in a carrier sentence, once with a word before it that names it and once
without, in the forms people write it; and hard negatives that hold none. A finding counts when type and extent are right.
"""

from __future__ import annotations

import json
import random
import string
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import phonenumbers
from stdnum import iban, isbn, luhn
from stdnum.br import cpf
from stdnum.ch import ssn as ahv
from stdnum.de import idnr
from stdnum.es import dni, nie
from stdnum.fi import hetu
from stdnum.fr import nir
from stdnum.gb import nhs
from stdnum.in_ import aadhaar
from stdnum.it import codicefiscale
from stdnum.nl import bsn
from stdnum.no import fodselsnummer
from stdnum.pl import pesel
from stdnum.se import personnummer
from stdnum.us import ssn

from plugins.redact_pii import Config
from plugins.redact_pii.segments import search

EACH = 200
CARRIERS = (
    "{}", "My number is {}.", "Please use {} for this, thanks!", "({})", "Reference: {}", '{{"value": "{}"}}', "- {}\n- next",
    "We have {} on file; is that right?", "See https://example.com/help or write {} down.", "It was {} in 2019 and 42 since.",
)  # fmt: skip
NAMED = ("{name} {}", "{name}: {}", "My {name} is {}.", "the {name} ({}) is wrong", "{name} no. {}")
random_ = random.Random(20260101)
pick, number = random_.choice, random_.randrange


def digits(count: int) -> str:
    return "".join(pick(string.digits) for _ in range(count))


def until(make: Callable[[], str], is_valid: Callable[[str], bool]) -> str:
    while not is_valid(candidate := make()):
        pass
    return candidate


def grouped(text: str, *sizes: int, by: str = " ") -> str:
    parts, place = [], 0
    for size in sizes:
        parts.append(text[place : place + size])
        place += size
    return by.join(parts)


def born(form: str) -> str:
    return time.strftime(form, time.gmtime(number(-500_000_000, 1_000_000_000)))


def email() -> str:
    local = pick(("jo", "anna.smith", "m_jones", "info", "x.y-z", "kim+news")) + pick(("", digits(2)))
    return f"{local}@{pick(('example', 'mail.example', 'kwik-e-mart', 'sub.dept.uni'))}.{pick(('com', 'co.uk', 'de', 'io', 'museum'))}"


def card() -> str:
    prefix, length = pick((("4", 16), ("51", 16), ("2221", 16), ("6011", 16), ("37", 15)))
    body = prefix + digits(length - len(prefix) - 1)
    whole = body + luhn.calc_check_digit(body)
    if length == 15:
        return pick((whole, grouped(whole, 4, 6, 5)))
    return pick((whole, grouped(whole, 4, 4, 4, 4), grouped(whole, 4, 4, 4, 4, by="-")))


def account() -> str:
    country, form = pick((("DE", "d" * 18), ("GB", "LLLL" + "d" * 14), ("NL", "LLLL" + "d" * 10), ("ES", "d" * 20)))

    def make() -> str:
        body = "".join(digits(1) if char == "d" else pick(string.ascii_uppercase) for char in form)
        return f"{country}{iban.calc_check_digits(country + '00' + body)}{body}"

    whole = (
        until(make, iban.is_valid)
        if country != "ES"
        else until(make, lambda text: iban.is_valid(text, check_country=False))
    )
    whole = whole if iban.is_valid(whole) else "DE89370400440532013000"
    return pick((whole, iban.format(whole)))


def phone() -> str:
    region = pick(("US", "GB", "DE", "FR", "IN"))
    example = phonenumbers.example_number(region)
    made = until(
        lambda: str(example.national_number)[:-4] + digits(4),
        lambda text: phonenumbers.is_valid_number(phonenumbers.parse(text, region)),
    )
    parsed = phonenumbers.parse(made, region)
    forms = phonenumbers.PhoneNumberFormat
    form = pick((forms.INTERNATIONAL, forms.E164, *([forms.NATIONAL] if region in ("US", "GB") else [])))
    return phonenumbers.format_number(parsed, form)


def nino() -> str:
    whole = pick(("AB", "CE", "JK", "TW")) + digits(6) + pick("ABCD")
    return pick((whole, grouped(whole, 2, 2, 2, 2, 1)))


def french() -> str:
    def make() -> str:
        body = pick("12") + digits(2) + f"{number(1, 13):02}" + f"{number(1, 96):02}" + digits(6)
        return body + f"{97 - int(body) % 97:02}"

    whole = until(make, nir.is_valid)
    return pick((whole, grouped(whole, 1, 2, 2, 2, 3, 3, 2)))


def italian() -> str:
    def make() -> str:
        letters = "".join(pick("BCDFGLMNPRSTVZ") for _ in range(6))
        body = f"{letters}{number(30, 99)}{pick('ABCDEHLMPRST')}{number(1, 29):02}{pick('ABCDEFGHI')}{digits(3)}"
        return body + codicefiscale.calc_check_digit(body)

    return until(make, codicefiscale.is_valid)


def azure_key(length: int = 86, padding: str = "==") -> str:
    return "".join(pick(string.ascii_letters + string.digits + "+/") for _ in range(length)) + padding


POSITIVES: dict[str, tuple[str, Callable[[], str]]] = {
    "Email": ("e-mail", email),
    "PhoneNumber": ("phone", phone),
    "IPAddress": ("IP address", lambda: pick((f"{number(11, 223)}.{number(256)}.{number(256)}.{number(1, 255)}", f"2001:db8:{number(1, 9999)}::{number(1, 9999)}"))),
    "CreditCardNumber": ("card", card),
    "InternationalBankingAccountNumber": ("IBAN", account),
    "USSocialSecurityNumber": ("SSN", lambda: until(lambda: grouped(digits(9), 3, 2, 4, by="-"), ssn.is_valid)),
    "UKNationalInsuranceNumber": ("NINO", nino),
    "UKNationalHealthNumber": ("NHS", lambda: grouped(until(lambda: digits(10), nhs.is_valid), 3, 3, 4)),
    "DETaxIdentificationNumber": ("Steuer-ID", lambda: pick((str, lambda text: grouped(text, 2, 3, 3, 3)))(until(lambda: str(number(1, 10)) + digits(10), idnr.is_valid))),
    "FRSocialSecurityNumber": ("numéro de sécurité sociale", french),
    "ESDNI": ("DNI", lambda: (body := digits(8)) + dni.calc_check_digit(body)),
    "ESTaxIdentificationNumber": ("NIE", lambda: (body := pick("XYZ") + digits(7)) + nie.calc_check_digit(body)),
    "ITFiscalCode": ("codice fiscale", italian),
    "NLCitizensServiceNumber": ("BSN", lambda: until(lambda: digits(9), bsn.is_valid)),
    "CHSocialSecurityNumber": ("AHV", lambda: ahv.format(until(lambda: "756" + digits(10), ahv.is_valid))),
    "SENationalID": ("personnummer", lambda: until(lambda: born("%y%m%d") + "-" + digits(4), personnummer.is_valid)),
    "BRCPFNumber": ("CPF", lambda: cpf.format(until(lambda: digits(11), cpf.is_valid))),
    "INUniqueIdentificationNumber": ("Aadhaar", lambda: grouped(until(lambda: pick("23456789") + digits(11), aadhaar.is_valid), 4, 4, 4)),
    "FINationalID": ("hetu", lambda: until(lambda: born("%d%m%y") + "-" + digits(3) + pick("0123456789ABCDEFHJKLMNPRSTUVWXY"), hetu.is_valid)),
    "NOIdentityNumber": ("fødselsnummer", lambda: until(lambda: born("%d%m%y") + digits(5), fodselsnummer.is_valid)),
    "PLNationalID": ("PESEL", lambda: until(lambda: born("%y%m%d") + digits(5), pesel.is_valid)),
    "AzureStorageAccountKey": ("key", azure_key),
}  # fmt: skip

NEGATIVES: dict[str, Callable[[], str]] = {
    "order numbers": lambda: f"order {pick(('#', 'no. ', ''))}{digits(number(8, 13))} shipped",
    "invoice numbers": lambda: f"invoice INV-{number(2015, 2027)}-{digits(6)} is due",
    "long ids without checksum": lambda: f"request {until(lambda: '4' + digits(15), lambda text: not luhn.is_valid(text))} failed",
    "tracking numbers": lambda: f"parcel 1Z{''.join(pick(string.ascii_uppercase + string.digits) for _ in range(16))}",
    "ISO timestamps": lambda: f"at {born('%Y-%m-%dT%H:%M:%S')}.{digits(6)}Z",
    "Unix times": lambda: f"epoch {number(1_000_000_000, 1_900_000_000)}{pick(('', digits(3)))}",
    "dates and times": lambda: f"on {born('%d.%m.%Y')} at {born('%H:%M:%S')}, {born('%m/%d/%Y')}",
    "versions": lambda: f"version {number(20)}.{number(30)}.{number(20000)}.{number(9999)} of it",
    "hashes": lambda: f"commit {''.join(pick('0123456789abcdef') for _ in range(pick((7, 32, 40, 64))))}",
    "UUIDs": lambda: "id " + grouped("".join(pick("0123456789abcdef") for _ in range(32)), 8, 4, 4, 4, 12, by="-"),
    "MAC addresses": lambda: ":".join(f"{number(256):02x}" for _ in range(6)),
    "ISBNs": lambda: "ISBN " + isbn.format(until(lambda: pick(("978", "979")) + digits(10), isbn.is_valid)),
    "EANs": lambda: f"barcode 40{digits(11)}",
    "prices and counts": lambda: f"${number(1, 999)},{number(100, 999)},{number(100, 999)}.{digits(2)} or {number(1, 9)} {digits(3)} {digits(3)}",
    "coordinates": lambda: f"{number(-90, 90)}.{digits(6)}, {number(-180, 180)}.{digits(6)}",
    "floats": lambda: f"x = {number(10)}.{digits(number(8, 16))}e-{number(20)}",
    "tables": lambda: " ".join(str(number(10 ** number(1, 6))) for _ in range(12)),
    "ranges": lambda: f"pages {number(100, 400)}-{number(400, 900)}, {number(1900, 1999)}-{number(2000, 2026)}, {number(1, 99)}/{number(100, 999)}",
    "handles": lambda: f"ping @{pick(('anna', 'bob'))}{digits(2)} or user@{pick(('host', 'localhost', 'db-1'))} and @decorator",
    "URLs": lambda: f"https://example.com/{digits(8)}/p?id={digits(10)}&t={digits(4)}#a-{digits(3)}",
    "placeholders": lambda: pick(("password=${SECRET}", "AccountKey=<your-key>", "postgres://localhost:5432/db", "Password=;")),
    "code": lambda: f"x[{number(99)}] = 0x{''.join(pick('0123456789ABCDEF') for _ in range(16))}; /* {digits(4)} {digits(4)} */",
}  # fmt: skip


def main() -> None:
    """Print the tables."""
    entities = Config().sought(*{Config().default})

    def found(text: str) -> list[tuple[str, str]]:
        return [(each.entity, text[each.start : each.end]) for each in search(text, 0, True, entities)[0]]

    right: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    recall: dict[str, list[float]] = {}
    for name, (word, make) in POSITIVES.items():
        recall[name] = []
        for carriers in (NAMED, CARRIERS):
            hits = 0
            for _ in range(EACH):
                value = make()
                got = found(pick(carriers).format(value, name=word))
                hits += (name, value) in got
                wrong.update(entity for entity, text in got if (entity, text) != (name, value))
            right[name] += hits
            recall[name].append(hits / EACH)
    print("| entity | precision | recall, named | recall, not named |\n|---|---|---|---|")
    for name, (named, bare) in recall.items():
        precision = right[name] / max(1, right[name] + wrong[name])
        print(f"| {name} | {precision:.3f} | {named:.3f} | {bare:.3f} |")
    print("\n| hard negatives | texts with a finding | as |\n|---|---|---|")
    total = 0
    for name, make in NEGATIVES.items():
        got = [entities_ for _ in range(EACH) if (entities_ := found(make()))]
        total += len(got)
        kinds = Counter(entity for each in got for entity, _ in each)
        print(
            f"| {name} | {len(got) / EACH:.1%} | {', '.join(f'{kind} {count}' for kind, count in kinds.most_common(3))} |"
        )
    print(f"\n{total} of {EACH * len(NEGATIVES)} hard negatives have a finding: {total / EACH / len(NEGATIVES):.2%}")
    prose = Path("docs/operating.md").read_text()
    numbers = " ".join(str(number(10 ** number(1, 6))) for _ in range(2000))
    for name, text in {
        "documentation": prose,
        "JSON of records": json.dumps([{"mail": email(), "card": card()} for _ in range(100)]),
        "a table of numbers": numbers,
    }.items():
        print(f"{name}: {min(_seconds(found, text) for _ in range(9)) / len(text) * 1024 * 1000:.2f} ms a KB")


def _seconds(found: Callable[[str], object], text: str) -> float:
    begun = time.process_time()
    found(text)
    return time.process_time() - begun


if __name__ == "__main__":
    main()
