"""The version of Lavender, in one place."""

VERSION = "0.5.0"
