"""`rnn`: a plain recurrent network (Elman 1990) over tokens."""

from mainstem.backbones._recurrent import Recurrent

plugin = Recurrent("rnn")
