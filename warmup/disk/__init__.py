"""One file on a disk that others use, too: written whole or not at all, read bounded and never through a link."""
