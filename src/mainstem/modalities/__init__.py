"""One file a modality; numpy only; the same code in training and in serving."""
