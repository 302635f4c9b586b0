"""Bytes of a text file → text, and what was detected. UTF-8, UTF-16 and GB18030 are recognised; others have to be named.

What a byte-order mark does not tell is judged by the bytes themselves: zero bytes point to UTF-16 (RFC 2781), two-byte
characters that are common in Chinese to GB18030 (GB 18030-2022, a superset of GBK and GB 2312).
"""

from __future__ import annotations

import codecs

from mainstem.errors import MainstemError

_MARKS = (  # the longer first: UTF-32's mark starts with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAMPLE = 1 << 16
_OVERRIDE = "(--set data.encoding=NAME overrides)"
_NAME_ONE = "Save it as UTF-8, or name its encoding: --set data.encoding=NAME."


def decode(data: bytes, where: str, encoding: str = "") -> tuple[str, str]:
    """The text of `data`, and a note on what was detected ("" for plain UTF-8, or where `encoding` was given).

    Raises MainstemError "undecodable bytes" with the line and the byte, or where the encoding is unknown.
    """
    codec, note = detect(data, where, encoding)
    return _decode_as(data, where, codec), note


def detect(data: bytes, where: str, encoding: str = "") -> tuple[str, str]:
    """The codec of `data` (a file, or whole lines of its beginning), and a note as `decode` gives it; `encoding` is taken as it is.

    Raises MainstemError "undecodable bytes" where it is none of those that are recognised.
    """
    if encoding:
        return encoding, ""
    if data.startswith(codecs.BOM_UTF8):
        return "utf-8-sig", "read as UTF-8 with a byte-order mark"
    for mark, name in _MARKS:
        if data.startswith(mark):
            return name, f"read as {name.upper()} {_OVERRIDE}"
    if b"\0" in data[:_SAMPLE] and (name := _zero_bytes(data)):
        return name, f"read as {name.upper()} {_OVERRIDE}"
    try:
        data.decode()
    except UnicodeDecodeError as error:
        if not _is_chinese(data):
            raise _undecodable(data, where, error.start, "UTF-8") from None
        return "gb18030", f"read as GB18030 {_OVERRIDE}"
    return "utf-8", ""


def _decode_as(data: bytes, where: str, encoding: str) -> str:
    try:
        text, _ = codecs.lookup(encoding).decode(data)
        return text.removeprefix("\ufeff")
    except LookupError:
        raise MainstemError(
            f"no encoding is named '{encoding}'", where=where, do="Common ones: utf-8, utf-16, gb18030, big5, shift_jis, cp1252."
        ) from None
    except UnicodeDecodeError as error:
        raise _undecodable(data, where, error.start, encoding.upper()) from None


def _undecodable(data: bytes, where: str, offset: int, encoding: str) -> MainstemError:
    line = data.count(b"\n", 0, offset) + 1
    return MainstemError(
        f"undecodable bytes: byte {offset:,} (0x{data[offset]:02x}) in line {line} is not {encoding}", where=where, do=_NAME_ONE
    )


def _zero_bytes(data: bytes) -> str:
    """The byte order of UTF-16 without a mark: the one that makes plausible characters of the sample, or ""."""
    sample = data[: min(_SAMPLE, len(data) // 2 * 2)]
    shares = {name: _plausible(sample.decode(name, errors="replace")) for name in ("utf-16-le", "utf-16-be")}
    best = max(shares, key=lambda name: shares[name])
    return best if shares[best] > 0.95 and len(data) % 2 == 0 else ""


def _plausible(text: str) -> float:
    """The share of characters from the scripts in wide use, among them no control characters but tabs and line ends."""
    good = sum(
        c in "\t\r\n" or " " <= c <= "~" or "\xa0" <= c <= "\u052f" or "\u2000" <= c <= "\u206f" or "\u3000" <= c <= "\u30ff"
        or "\u4e00" <= c <= "\u9fff" or "\uac00" <= c <= "\ud7a3" or "\uff00" <= c <= "\uffef"
        for c in text
    )  # fmt: skip
    return good / max(len(text), 1)


def _is_chinese(data: bytes) -> bool:
    """Whether `data` decodes as GB18030 and looks Chinese.

    Latin-1 text and broken UTF-8 often decode as GB18030 too, into rare characters: in Chinese text most are of the
    first level of GB 2312 (lead bytes B0 to D7) or its symbols (A1 to A9), traditional writing included.
    """
    try:
        text = data.decode("gb18030")
    except UnicodeDecodeError:
        return False
    wide = [c for c in text[: 4 * _SAMPLE] if c >= "\x80"] or [c for c in text if c >= "\x80"]
    codes = [c.encode("gb2312", errors="replace") for c in wide]
    common = sum(len(code) == 2 and (code[0] <= 0xA9 or 0xB0 <= code[0] <= 0xD7) for code in codes)
    return common >= 0.4 * len(wide)
