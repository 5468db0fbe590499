"""Data: loading a data set, its fixed split, batches, and images on the device."""
