"""The lines of a PokerStars hand after its head, as patterns."""

import re

from lqlm.poker.record import PostKind

_AMOUNT = r"[^\d\s(]*([\d.]+)"
_ALL_IN = r"(?P<end> and is all-in| and has reached the \S+ cap(?: and is all-in)?)?"
BET = re.compile(rf"(calls|bets) {_AMOUNT}{_ALL_IN}$")
RAISE = re.compile(rf"raises {_AMOUNT} to {_AMOUNT}{_ALL_IN}$")
POST = re.compile(rf"posts (?:a )?({'|'.join(map(re.escape, PostKind))}) {_AMOUNT}{_ALL_IN}$")
SHOWS = re.compile(r"shows \[([^\]]*)\](?: \((.*)\))?$")
FOLDS = re.compile(r"folds(?: \[([^\]]*)\])?$")
COLLECTED = re.compile(rf"(.+) collected {_AMOUNT} from (pot|main pot|side pot(?:-\d+)?)$")
UNCALLED = re.compile(rf"Uncalled bet \({_AMOUNT}\) returned to (.+)$")
DEALT = re.compile(r"Dealt to (.+) \[([^\]]*)\]$")
STREET = re.compile(r"\*\*\* (?:(FIRST|SECOND) )?(FLOP|TURN|RIVER) \*\*\* ((?:\[[^\]]*\]\s*)+)$")
SHOWDOWN = re.compile(r"\*\*\* (?:(FIRST|SECOND) )?SHOW DOWN \*\*\*$")
TOTAL = re.compile(rf"Total pot {_AMOUNT}(?: Main pot .*)? \| Rake {_AMOUNT}\s*$")
TOLD = re.compile(r"Seat (\d+): .* mucked \[([^\]]*)\]$")
FINISH = re.compile(r"(.+?) ((?:finished the tournament|wins the tournament).*)$")
CHATTER = re.compile(
    r'said, ".*"?$|leaves the table|joins the table|is (?:dis|re)?connected|has timed out|has returned|has \d+ seconds'
    r"|will be allowed to play|was removed|was moved|is sitting out|sits out|re-buys|takes the add-on|adds \S+ to"
    r"|^No low hand qualified|^Hand was run|^Betting is capped|bounty|wins an entry|stands? up|^The \w+ .*blinds"
    r"|has run out of time|is dealt|^Time has|chooses to"
)
NOT_READ = {
    "Hand cancelled": "the hand was cancelled",
    "(pot not awarded as player cashed out)": "a player cashed out: the site's payment is no part of the pot",
    "cashed out the hand": "a player cashed out: the site's payment is no part of the pot",
}
COUNTS = {"FLOP": 3, "TURN": 4, "RIVER": 5}
