"""``bench sensitivity``: what each metric sees of known damage to real images."""
