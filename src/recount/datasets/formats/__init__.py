"""Readers of strangers' file formats that several data sets share."""
