"""What several metrics share: pixels by number, weights that are proved, hashes of content, a small classifier.

Each file stands alone; ``content`` is below the others. No metric is here.
"""
