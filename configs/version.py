"""The version of this package, in one place; a test compares it with CHANGELOG.md."""

VERSION = "0.1.0"
