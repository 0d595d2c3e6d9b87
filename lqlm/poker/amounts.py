"""Amounts as text, exactly: no float is ever made."""

from lqlm.poker.record import HandError, Money


def read_amount(text: str, decimals: int) -> int:
    """The integer of an amount in units of 10^-decimals.

    Raises:
        HandError: when it is no number, or has more decimals.

    >>> read_amount("12.5", 2), read_amount("7", 0)
    (1250, 7)
    """
    whole, _, part = text.partition(".")
    part = part.rstrip("0") if len(part) > decimals else part
    if not whole.isdecimal() or len(part) > decimals or not (part or "0").isdecimal():
        raise HandError(f"{text!r} is no amount of at most {decimals} decimals")
    return int(whole + part.ljust(decimals, "0"))


def write_amount(amount: int, decimals: int) -> str:
    """The shortest text of an amount, with two decimals or none where a currency has two.

    >>> write_amount(1250, 2), write_amount(700, 2), write_amount(10875, 3), write_amount(3875, 1)
    ('12.50', '7', '10.875', '387.5')
    """
    if not decimals:
        return str(amount)
    whole, part = divmod(amount, 10**decimals)
    digits = str(part).rjust(decimals, "0").rstrip("0")
    return f"{whole}.{digits.ljust(min(decimals, 2), '0')}" if digits else str(whole)


def with_symbol(amount: int, money: Money) -> str:
    """An amount as a log writes it.

    >>> with_symbol(250, Money("USD", "$", 2))
    '$2.50'
    """
    return money.symbol + write_amount(amount, money.decimals)
