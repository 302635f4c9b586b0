"""What backbones are pretrained for, one file each. Priors, which make their data up, are numpy alone."""
