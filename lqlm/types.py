"""Array aliases and the shape legend.

Names of arrays end in the letters of their axes, as in ``tokens_BT``:

====== =====================================================================
letter axis
====== =====================================================================
B      batch: prompts, or rows of tokens
G      group: samples that share one prompt
P      prompt positions (left-padded)
C      completion positions (right-padded)
T, S   time: query and key positions of one row
V      vocabulary
D      width of the residual stream
F      width of the feed-forward layer
N, K   query heads and key/value heads
H      width of one head
L      layers (stacked, and scanned over)
R      rank of an adapter
====== =====================================================================

Masks are boolean, true at real tokens.  Log-probabilities are natural and float32.
"""

from typing import Any

import jax

Array = jax.Array
Key = jax.Array
PyTree = Any
