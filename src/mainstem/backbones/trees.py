"""`trees`: gradient-boosted trees and a random forest, weighed by how well they answer rows that they have not seen.

Settings: iterations (None: chosen), learning_rate, leaves, min_leaf, features of the boosting; trees of the forest.
"""

from mainstem.backbones._members import Boosting, RandomForest
from mainstem.backbones._mixture import Mixture

predictor = Mixture("trees", (Boosting(), RandomForest()), "gradient-boosted trees and a random forest")
