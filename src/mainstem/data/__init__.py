"""Sources, kind inference, splits and leak checks."""
