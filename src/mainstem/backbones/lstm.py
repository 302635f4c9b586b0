"""`lstm`: long short-term memory (Hochreiter & Schmidhuber 1997) over tokens."""

from mainstem.backbones._recurrent import Recurrent

plugin = Recurrent("lstm")
