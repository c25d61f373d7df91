"""No tactic slower or wrong is published: timing as serving runs it, comparing outputs, choosing."""
