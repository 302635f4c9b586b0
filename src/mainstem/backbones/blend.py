"""`blend`: a linear model, gradient-boosted trees and a random forest, weighed by how well they answer rows that they have not seen.

Settings: those of `linear` and of `trees`.
"""

from mainstem.backbones._members import Boosting, Linear, RandomForest
from mainstem.backbones._mixture import Mixture

predictor = Mixture("blend", (Linear(), Boosting(), RandomForest()), "linear model, boosted trees and random forest together")
