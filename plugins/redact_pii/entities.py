"""What personal data looks like: one row for each entity type, named as Azure names it.

A pattern says where something could be, a check decides: checksums and dates through ``python-stdnum``, phone numbers through
``phonenumbers``. Where a form is so common that its checksum proves little (nine digits, say), a word before it that names
it is asked for as well. Every pattern matches at most :data:`MAX_LENGTH` characters and no break (see :mod:`.segments`).

Source of the names: Azure AI Language, recognised PII entity categories.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from phonenumbers import Leniency, PhoneNumberMatch, PhoneNumberMatcher
from stdnum import iban, luhn
from stdnum.at import vnr
from stdnum.au import tfn
from stdnum.be import nn
from stdnum.br import cpf
from stdnum.ca import sin
from stdnum.ch import ssn as ahv
from stdnum.cn import ric
from stdnum.de import idnr
from stdnum.dk import cpr
from stdnum.es import dni, nie
from stdnum.fi import hetu
from stdnum.fr import nir
from stdnum.gb import nhs
from stdnum.ie import pps
from stdnum.in_ import aadhaar, pan
from stdnum.it import codicefiscale
from stdnum.kr import rrn
from stdnum.nl import bsn
from stdnum.no import fodselsnummer
from stdnum.pl import pesel
from stdnum.se import personnummer
from stdnum.us import itin, rtn, ssn
from stdnum.za import idnr as za_idnr

MAX_LENGTH = 352
"""The longest entity, in characters; a longer one of its kind is not found."""
_CONTEXT = 48
"""How many characters before an entity may name it."""
_DIGITS_BEFORE = r"(?<![\w.])(?<!\d-)"
_DIGITS_AFTER = r"(?![\w])(?![-.]\d)"


@dataclass(frozen=True, slots=True)
class Finding:
    """An entity in a text.

    Attributes:
        entity: Its type, by Azure's name.
        start: Of its secret part, in characters.
        end: Exclusive.
    """

    entity: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Entity:
    """How one type of entity is recognised.

    Attributes:
        name: Azure's.
        pattern: Its group ``secret``, or all of it, is the entity.
        check: Whether a match is one.
        named_by: A pattern of which a match must precede it.
        not_after: A pattern of which no match may directly precede it.
    """

    name: str
    pattern: re.Pattern[str]
    check: Callable[[str], bool] = field(default=lambda _: True)
    named_by: re.Pattern[str] | None = None
    not_after: re.Pattern[str] | None = None

    def find(self, text: str, start: int, end: int) -> Iterator[Finding]:
        """Yield the entities in a part of a text; what precedes the part is read, what follows it is not."""
        position = start
        while match := self.pattern.search(text, position, end):
            first, last = match.span("secret" if "secret" in self.pattern.groupindex else 0)
            if self._is_named(text, match.start()) and self.check(text[first:last]):
                yield Finding(self.name, first, last)
                position = last
            else:
                position = match.start() + 1

    def _is_named(self, text: str, start: int) -> bool:
        before = text[max(0, start - _CONTEXT) : start]
        if self.not_after and self.not_after.search(before):
            return False
        return self.named_by is None or self.named_by.search(before) is not None


@dataclass(frozen=True, slots=True)
class PhoneNumbers:
    """Phone numbers: international ones of every country, national ones of some.

    A national number must be grouped as its country groups it, or follow a word such as *phone*.
    """

    regions: tuple[str, ...]
    name: str = "PhoneNumber"

    def find(self, text: str, start: int, end: int) -> Iterator[Finding]:
        """As :meth:`Entity.find`."""
        if not _SEVEN_DIGITS.search(text, start, end):
            return
        offset = max(0, start - 1)
        part = text[offset:end]
        named = _PHONE_WORDS.search(text[max(0, start - _CONTEXT) : end]) is not None
        leniency = Leniency.VALID if named else Leniency.STRICT_GROUPING
        found = set[tuple[int, int]]()
        if "+" in part:
            found.update(map(_extent, PhoneNumberMatcher(part, None, Leniency.VALID, _TRIES)))
        for region in self.regions if named or _GROUPED.search(part) else ():
            for match in PhoneNumberMatcher(part, region, leniency, _TRIES):
                if named or not match.raw_string.isdigit():
                    found.add(_extent(match))
        for first, last in sorted((offset + first, offset + last) for first, last in found):
            if first >= start and not _NO_PHONE_AFTER.search(text[max(0, first - _CONTEXT) : first]):
                yield Finding(self.name, first, last)


def _extent(match: PhoneNumberMatch) -> tuple[int, int]:
    """Return where a number is, without a bracket that opens before it and closes after it."""
    is_bracketed = match.raw_string.startswith("(") and ")" not in match.raw_string
    return match.start + is_bracketed, match.end


_TRIES = 12
"""How many candidates of one segment are looked at: tables of numbers are full of them, and each costs tens of microseconds."""
_GROUPED = re.compile(r"(?<![\w.])\(?\d{2,5}\)?[ .\-/]{1,2}\d{2,4}[ .\-/]?\d{3,4}")
_SEVEN_DIGITS = re.compile(r"(?:\d[^\d]*){7}")
_PHONE_WORDS = re.compile(
    r"(?i)\b(?:phone|telephone|tel|call|dial|mobile|cell|fax|whatsapp|sms|text me|telefon|tél|móvil|handy|ring)\b"
)
_NO_PHONE_AFTER = re.compile(
    r"(?i)(?:\bisbn(?:-1[03])?:?|\bissn:?|\bversion|\border\s*(?:no\.?|number)?:?\s*#?|#)\s*\Z"
)


def _words(*words: str) -> re.Pattern[str]:
    return re.compile(rf"(?i)(?<![^\W_])(?:{'|'.join(words)})(?![^\W_])")


def _digits(form: str) -> re.Pattern[str]:
    return re.compile(f"{_DIGITS_BEFORE}(?:{form}){_DIGITS_AFTER}", re.ASCII)


def _is_card(number: str) -> bool:
    digits = re.sub(r"\D", "", number)
    return bool(_ISSUERS.match(digits)) and len(set(digits)) > 1 and luhn.is_valid(digits)


_ISSUERS = re.compile(
    r"(?:4\d{15}(?:\d{3})?|(?:5[1-5]|2(?:2[2-9]|[3-6]|7[01]|720))\d+(?<=^.{16})|3[47]\d{13}|3(?:0[0-5]|[689])\d{12,16}"
    r"|6(?:011|4[4-9]|5)\d{12,15}|35(?:2[89]|[3-8])\d{12,15}|62\d{14,17}|(?:50|5[6-9]|6[037])\d{11,17})\Z"
)
"""Visa, Mastercard, American Express, Diners Club, Discover, JCB, UnionPay, Maestro, with their lengths."""


def _is_address(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified)


_ALPHABETS = "A-Za-z\u00c0-\u024f\u0370-\u058f"
_LETTERS = f"{_ALPHABETS}0-9_"
"""Of scripts that put spaces between words; an ideograph beside an address is not part of it."""
_VALUE = r"(?P<secret>[^\s;,\"'&]{8,200})"
_NINO = (
    r"(?![DFIQUV]|.[DFIOQUV]|BG|GB|KN|NK|NT|TN|ZZ)[A-Z]{2}(?P<gap>[ -]?)\d{2}(?P=gap)\d{2}(?P=gap)\d{2}(?P=gap)[A-D]"
)

SECRETS: Sequence[Entity] = (
    Entity("AzureSAS", re.compile(r"(?i)(?<=[?&;])sig=(?P<secret>[A-Z0-9%+/=_-]{20,200})", re.ASCII)),
    Entity(
        "AzureDocumentDBAuthKey",
        re.compile(r"(?i)AccountEndpoint=[^\s;]{1,128};\s?AccountKey=(?P<secret>[A-Z0-9+/]{86}==)", re.ASCII),
    ),
    Entity("AzureStorageAccountKey", re.compile(r"(?i)AccountKey=(?P<secret>[A-Z0-9+/]{86}==)", re.ASCII)),
    Entity(
        "AzureStorageAccountKey",
        re.compile(r"(?<![\w+/=])(?P<secret>[A-Za-z0-9+/]{86}==)(?![\w+/=])", re.ASCII),
    ),
    Entity(
        "AzureIoTConnectionString",
        re.compile(
            r"(?i)azure-devices\.net;[^\s]{1,100}SharedAccessKey=(?P<secret>[A-Z0-9+/]{20,100}={0,2})", re.ASCII
        ),
    ),
    Entity("AzureServiceBusString", re.compile(r"(?i)SharedAccessKey=(?P<secret>[A-Z0-9+/]{20,100}={0,2})", re.ASCII)),
    Entity(
        "AzureRedisCacheString",
        re.compile(r"(?i)(?<![\w])password=(?P<secret>[A-Z0-9+/]{40,60}={0,2})(?![\w+/=])", re.ASCII),
        named_by=_words(r"redis[\w.]{0,40}", r"[\w.-]{1,30}\.redis\.cache\.windows\.net"),
    ),
    Entity("SQLServerConnectionString", re.compile(rf"(?i)(?:(?<=;)|(?<=; ))(?:password|pwd)={_VALUE}")),
    Entity(
        "URL",
        re.compile(
            r"(?i)(?<![\w])[a-z][a-z0-9+.-]{1,15}://(?P<secret>[^\s:@/?#]{1,64}:[^\s@/?#]{1,128})@(?=\w)", re.ASCII
        ),
    ),
)
PERSONAL: Sequence[Entity] = (
    Entity(
        "Email",
        re.compile(
            rf"(?<![{_LETTERS}.%+-])[{_LETTERS}][{_LETTERS}.%+'-]{{0,63}}"
            rf"@(?:[{_LETTERS}](?:[{_LETTERS}-]{{0,61}}[{_LETTERS}])?\.){{1,4}}[{_ALPHABETS}]{{2,24}}(?![{_LETTERS}])(?!-\w)"
        ),
    ),
    Entity(
        "InternationalBankingAccountNumber",
        re.compile(
            r"(?i)(?<![\w])[A-Z]{2}(?:\d{2}[A-Z0-9]{11,30}|\d{2}(?P<gap>[ -])(?:[A-Z0-9]{4}(?P=gap)){2,7}[A-Z0-9]{1,4})(?![\w])",
            re.ASCII,
        ),
        iban.is_valid,
    ),
    Entity(
        "CreditCardNumber",
        _digits(r"\d{4}(?P<gap>[ -])\d{4}(?P=gap)\d{4}(?P=gap)\d{4}|3\d{3}[ -]\d{6}[ -]\d{4,5}|\d{14,19}"),
        _is_card,
    ),
    Entity("CHSocialSecurityNumber", _digits(r"756\.\d{4}\.\d{4}\.\d{2}|756 ?\d{4} ?\d{4} ?\d{2}"), ahv.is_valid),
    Entity(
        "FRSocialSecurityNumber",
        _digits(r"[1-478] ?\d{2} ?\d{2} ?(?:\d{2}|2[AB]) ?\d{3} ?\d{3} ?\d{2}"),
        nir.is_valid,
    ),
    Entity(
        "ITFiscalCode",
        re.compile(r"(?i)(?<![\w])[A-Z]{3} ?[A-Z]{3} ?\d{2}[A-EHLMPRST]\d{2} ?[A-Z]\d{3}[A-Z](?![\w])", re.ASCII),
        codicefiscale.is_valid,
    ),
    Entity("CNResidentIdentityCardNumber", re.compile(r"(?<![\w])\d{17}[\dXx](?![\w])", re.ASCII), ric.is_valid),
    Entity("KRResidentRegistrationNumber", _digits(r"\d{6}-\d{7}"), rrn.is_valid),
    Entity("USSocialSecurityNumber", _digits(r"\d{3}-\d{2}-\d{4}"), ssn.is_valid),
    Entity(
        "USSocialSecurityNumber",
        _digits(r"\d{3} ?\d{2} ?\d{4}"),
        lambda number: bool(ssn.is_valid(number.replace(" ", ""))),
        named_by=_words("ssn", "social security(?: (?:number|no\\.?|#))?"),
    ),
    Entity("USIndividualTaxpayerIdentification", _digits(r"9\d{2}-\d{2}-\d{4}"), itin.is_valid),
    Entity(
        "UKNationalInsuranceNumber",
        re.compile(rf"(?<![\w])(?:{_NINO})(?![\w])", re.ASCII),
    ),
    Entity("UKNationalHealthNumber", _digits(r"\d{3} ?\d{3} ?\d{4}"), nhs.is_valid, named_by=_words("nhs")),
    Entity("BRCPFNumber", _digits(r"\d{3}\.\d{3}\.\d{3}-\d{2}"), cpf.is_valid),
    Entity("BRCPFNumber", _digits(r"\d{11}"), cpf.is_valid, named_by=_words("cpf")),
    Entity("BENationalNumber", _digits(r"\d{2}\.\d{2}\.\d{2}-\d{3}\.\d{2}"), nn.is_valid),
    Entity(
        "BENationalNumber",
        _digits(r"\d{11}"),
        nn.is_valid,
        named_by=_words("rijksregisternummer", "nationaal nummer", "numéro national", "national number"),
    ),
    Entity("NOIdentityNumber", _digits(r"\d{6} ?\d{5}"), fodselsnummer.is_valid),
    Entity(
        "DETaxIdentificationNumber",
        _digits(r"\d{2} ?\d{3} ?\d{3} ?\d{3}"),
        idnr.is_valid,
        named_by=_words(
            "steuer-?id(?:entifikationsnummer)?",
            "steuer-?idnr\\.?",
            "idnr\\.?",
            "steueridentifikationsnummer",
            "tax id",
            "steuerliche identifikationsnummer",
            "tin",
        ),
    ),
    Entity("PLNationalID", _digits(r"\d{11}"), pesel.is_valid, named_by=_words("pesel")),
    Entity("FINationalID", re.compile(r"(?<![\w])\d{6}[-+A-FU-Y]\d{3}[0-9A-Y](?![\w])", re.ASCII), hetu.is_valid),
    Entity("SENationalID", _digits(r"(?:\d{2})?\d{6}[-+]\d{4}"), personnummer.is_valid),
    Entity(
        "SENationalID",
        _digits(r"(?:\d{2})?\d{10}"),
        personnummer.is_valid,
        named_by=_words("personnummer", "samordningsnummer", "personal identity number"),
    ),
    Entity(
        "DKPersonalIdentificationNumber",
        _digits(r"\d{6}-?\d{4}"),
        cpr.is_valid,
        named_by=_words("cpr(?:-?nummer|-nr\\.?)?", "personnummer"),
    ),
    Entity("ESDNI", re.compile(r"(?<![\w])\d{8}-?[A-Z](?![\w])", re.ASCII), dni.is_valid),
    Entity("ESTaxIdentificationNumber", re.compile(r"(?<![\w])[XYZ]-?\d{7}-?[A-Z](?![\w])", re.ASCII), nie.is_valid),
    Entity(
        "IEPersonalPublicServiceNumber",
        re.compile(r"(?<![\w])\d{7}[A-W][A-IW]?(?![\w])", re.ASCII),
        pps.is_valid,
        named_by=_words("pps(?:n| no\\.?| number)?"),
    ),
    Entity(
        "INPermanentAccount",
        re.compile(r"(?<![\w])[A-Z]{3}[ABCFGHLJPT][A-Z]\d{4}[A-Z](?![\w])", re.ASCII),
        pan.is_valid,
    ),
    Entity("INUniqueIdentificationNumber", _digits(r"[2-9]\d{3}(?P<gap>[ -])\d{4}(?P=gap)\d{4}"), aadhaar.is_valid),
    Entity(
        "INUniqueIdentificationNumber",
        _digits(r"[2-9]\d{11}"),
        aadhaar.is_valid,
        named_by=_words("aadhaar", "aadhar", "uidai"),
    ),
    Entity(
        "NLCitizensServiceNumber",
        _digits(r"\d{8,9}|\d{4}\.\d{2}\.\d{3}|\d{3} \d{3} \d{3}"),
        lambda number: bool(bsn.is_valid(number.replace(" ", ""))),
        named_by=_words("bsn", "burgerservicenummer", "sofinummer", "citizen service number"),
    ),
    Entity(
        "CASocialInsuranceNumber",
        _digits(r"\d{3}(?P<gap>[ -]?)\d{3}(?P=gap)\d{3}"),
        sin.is_valid,
        named_by=_words("sin", "social insurance(?: (?:number|no\\.?))?", "nas"),
    ),
    Entity(
        "AUTaxFileNumber",
        _digits(r"\d{3} ?\d{3} ?\d{2,3}"),
        tfn.is_valid,
        named_by=_words("tfn", "tax file (?:number|no\\.?)"),
    ),
    Entity(
        "ATSocialSecurityNumber",
        _digits(r"\d{4} ?\d{6}"),
        vnr.is_valid,
        named_by=_words("svnr\\.?", "sozialversicherungsnummer", "versicherungsnummer", "vsnr\\.?"),
    ),
    Entity(
        "ZAIdentificationNumber",
        _digits(r"\d{13}"),
        za_idnr.is_valid,
        named_by=_words("id(?: number)?", "identity number"),
    ),
    Entity(
        "ABARoutingNumber",
        _digits(r"\d{9}"),
        rtn.is_valid,
        named_by=_words("aba", "routing(?: (?:number|no\\.?|transit number))?"),
    ),
    Entity(
        "IPAddress",
        re.compile(
            r"(?<![\w.:])(?:\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}|(?=[0-9A-Fa-f:]{0,38}:[0-9A-Fa-f:]*:)[0-9A-Fa-f:]{3,39}(?<!:[0-9A-Fa-f]{5}))(?![\w])(?!\.\d)(?!:[0-9A-Fa-f:]*:)",
            re.ASCII,
        ),
        _is_address,
        not_after=re.compile(
            r"(?i)(?<![^\W_])(?:version|ver\.?|v\.?|release|build|firmware|section|§|clause|chapter)[ :=]{0,2}\Z"
        ),
    ),
)
"""In the order in which they claim text: where two entities overlap, the one that stands first here counts."""
