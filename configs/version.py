"""The version of this package.

A test compares it with CHANGELOG.md.
"""

VERSION = "0.2.0"
