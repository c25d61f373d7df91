"""An artifact: a manifest and content-addressed blobs; packing, checking, one-file archives. Pure bytes."""
