"""Hand-written hands of invented players, one for each feature of the format."""
# ruff: noqa: E501

CASH = """\
PokerStars Hand #1:  Hold'em No Limit ($0.50/$1.00 USD) - 2020/01/02 9:08:07 PT [2020/01/02 12:08:07 ET]
Table 'Vega's End' 6-max Seat #4 is the button
Seat 1: Ada ($100 in chips)
Seat 2: Bo :D ($55.50 in chips)
Seat 4: [Cy] (x) ($80 in chips)
Seat 5: Dee ($20 in chips) is sitting out
Dee: is sitting out
Ada: posts small blind $0.50
Bo :D: posts big blind $1
*** HOLE CARDS ***
Dealt to Ada [Ah Kd]
[Cy] (x): raises $2 to $3
Ada: raises $6 to $9
Bo :D: folds
Eve joins the table at seat #6
[Cy] (x): calls $6
*** FLOP *** [As 7c 2d]
Ada said, "Bo :D: folds a lot *** SUMMARY ***"
Ada: bets $10
[Cy] (x): raises $61 to $71 and is all-in
Ada: calls $61
*** TURN *** [As 7c 2d] [9h]
*** RIVER *** [As 7c 2d 9h] [9c]
*** SHOW DOWN ***
Ada: shows [Ah Kd] (two pair, Aces and Nines)
[Cy] (x): mucks hand
Ada collected $158 from pot
*** SUMMARY ***
Total pot $161 | Rake $3
Board [As 7c 2d 9h 9c]
Seat 1: Ada (small blind) showed [Ah Kd] and won ($158) with two pair, Aces and Nines
Seat 2: Bo :D (big blind) folded before Flop
Seat 4: [Cy] (x) (button) mucked [7d 7h]
Seat 5: Dee is sitting out
"""

TOURNAMENT = """\
PokerStars Hand #2: Tournament #99, $3.19+$0.31 USD Hold'em No Limit - Match Round II, Level XI (400/800) - 2020/01/02 9:08:07 ET
Table '99 15' 9-max Seat #3 is the button
Seat 1: Ada (1500 in chips, $2.50 bounty)
Seat 2: Bo (3000 in chips)
Seat 3: Cy (30 in chips)
Seat 4: Dee (9000 in chips) out of hand (moved from another table into small blind)
Ada: posts the ante 50
Bo: posts the ante 50
Cy: posts the ante 30 and is all-in
Ada: posts small blind 400
Bo: posts big blind 800
*** HOLE CARDS ***
Ada: raises 650 to 1450 and is all-in
Bo: calls 650
*** FLOP *** [As 7c 2d]
*** TURN *** [As 7c 2d] [9h]
*** RIVER *** [As 7c 2d 9h] [9c]
*** SHOW DOWN ***
Ada: shows [3h 4d] (a pair of Nines)
Bo: shows [Kh Kd] (two pair, Kings and Nines)
Bo collected 2940 from side pot
Cy: shows [Ac 4c] (two pair, Aces and Nines)
Cy collected 90 from main pot
Ada finished the tournament in 80th place
*** SUMMARY ***
Total pot 3030 Main pot 90. Side pot 2940. | Rake 0
Board [As 7c 2d 9h 9c]
Seat 1: Ada (small blind) showed [3h 4d] and lost with a pair of Nines
Seat 2: Bo (big blind) showed [Kh Kd] and won (2940) with two pair, Kings and Nines
Seat 3: Cy (button) showed [Ac 4c] and won (90) with two pair, Aces and Nines
"""

TWICE = """\
PokerStars Zoom Hand #3:  Omaha Pot Limit (€1/€2 EUR) - 2020/01/02 9:08:07 CET [2020/01/02 3:08:07 ET]
Table 'Mira' 6-max Seat #1 is the button
Seat 1: Ada (€100 in chips)
Seat 2: Bo (€20 in chips)
Bo: posts big blind €2
Ada: posts small blind €1
*** HOLE CARDS ***
Ada: raises €4 to €6
Bo: raises €12 to €18
Ada: calls €12
*** FLOP *** [2c 2d 9s]
Bo: bets €2 and is all-in
Ada: calls €2
*** FIRST TURN *** [2c 2d 9s] [Th]
*** FIRST RIVER *** [2c 2d 9s Th] [Jh]
*** SECOND TURN *** [2c 2d 9s] [3h]
*** SECOND RIVER *** [2c 2d 9s 3h] [4h]
*** FIRST SHOW DOWN ***
Bo: shows [As Ac Kd Kh] (two pair, Aces and Deuces)
Ada: shows [9c 9h 5d 6d] (a full house, Nines full of Deuces)
Ada collected €19.50 from pot
*** SECOND SHOW DOWN ***
Bo: shows [As Ac Kd Kh] (two pair, Aces and Deuces)
Ada: shows [9c 9h 5d 6d] (a full house, Nines full of Deuces)
Ada collected €19.50 from pot
*** SUMMARY ***
Total pot €40 | Rake €1
Hand was run twice
FIRST Board [2c 2d 9s Th Jh]
SECOND Board [2c 2d 9s 3h 4h]
Seat 1: Ada (button) (small blind) showed [9c 9h 5d 6d] and won (€19.50) with a full house, Nines full of Deuces, and won (€19.50) with a full house, Nines full of Deuces
Seat 2: Bo (big blind) showed [As Ac Kd Kh] and lost with two pair, Aces and Deuces, and lost with two pair, Aces and Deuces
"""

HILO = """\
PokerStars Game #4:  8-Game (Omaha Hi/Lo Limit, $2/$4 USD) - 2020/01/02 9:08:07 ET
Table 'Rho' 8-max (Play Money) Seat #2 is the button
Seat 1: Ada ($100 in chips)
Seat 2: Bo ($100 in chips)
Seat 3: Cy ($100 in chips)
Seat 4: Dee ($100 in chips)
Cy: posts small blind $1
Dee: posts big blind $2
Bo: posts small & big blinds $3
*** HOLE CARDS ***
Ada: raises $2 to $4
Bo: calls $2
Cy: folds
Dee: folds
*** FLOP *** [2c 3d 9s]
Ada: bets $2
Bo: calls $2
*** TURN *** [2c 3d 9s] [Th]
Ada: bets $4
Bo: calls $4
*** RIVER *** [2c 3d 9s Th] [Jh]
Ada: checks
Bo: checks
*** SHOW DOWN ***
Ada: shows [As 4c Qd 6h] (HI: high card Ace; LO: 6,4,3,2,A)
Bo: shows [9c 9h 5d 6d] (HI: three of a kind, Nines)
Bo collected $11.50 from pot
Ada collected $11.50 from pot
*** SUMMARY ***
Total pot $24 | Rake $1
Board [2c 3d 9s Th Jh]
Seat 1: Ada showed [As 4c Qd 6h] and won ($11.50) with HI: high card Ace; LO: 6,4,3,2,A
Seat 2: Bo (button) showed [9c 9h 5d 6d] and won ($11.50) with HI: three of a kind, Nines
Seat 3: Cy (small blind) folded before Flop
Seat 4: Dee (big blind) folded before Flop
"""

CAP = """\
PokerStars Hand #5:  Hold'em No Limit ($1/$2 - $20 Cap -  USD) - 2020/01/02 9:08:07 ET
Table 'Cap' 6-max Seat #1 is the button
Seat 1: Ada ($100 in chips)
Seat 2: Bo ($90 in chips)
Seat 3: Cy ($80 in chips)
Bo: posts small blind $1
Cy: posts big blind $2
Ada: posts straddle $4
*** HOLE CARDS ***
Bo: raises $16 to $20 and has reached the $20 cap
Cy: folds [Ah Ac]
Ada: folds
Uncalled bet ($16) returned to Bo
Bo collected $10 from pot
Bo: doesn't show hand
*** SUMMARY ***
Total pot $10 | Rake $0
Seat 1: Ada (button) folded before Flop
Seat 2: Bo (small blind) collected ($10)
Seat 3: Cy (big blind) folded before Flop
"""

OLD = """\
PokerStars Game #6:  Hold'em Pot Limit (5/10) - 2008/01/02 9:08:07 ET
Table 'Old' 9-max Seat #1 is the button
Seat 1: Ada (1000 in chips)
Seat 2: Bo (1000 in chips)
Ada: posts small blind 5
Bo: posts big blind 10
*** HOLE CARDS ***
Ada: raises 20 to 30
Bo: folds
Ada collected 20 from pot
Ada: shows [2h 7d] (high card Seven)
*** SUMMARY ***
Total pot 20 | Rake 0
Seat 1: Ada (button) (small blind) collected (20)
Seat 2: Bo (big blind) folded before Flop
"""

EVERY = {"cash": CASH, "tournament": TOURNAMENT, "twice": TWICE, "hilo": HILO, "cap": CAP, "old": OLD}
