"""Operations on single files of shared disks: atomic writes, and bounded reads that never follow a link."""
