"""`gru`: gated recurrent units (Cho et al. 2014) over tokens."""

from mainstem.backbones._recurrent import Recurrent

plugin = Recurrent("gru")
