"""mainstem: adapt one backbone to many tasks, and ship exactly the model you measured."""

__version__ = "0.1.0"
